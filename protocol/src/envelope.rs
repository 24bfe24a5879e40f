//! The frame around every message on a QUIC stream or in a QUIC datagram.
//!
//! ```text
//!  0         1         2                   4                                       8
//! ┌─────────┬─────────┬───────────────────┬───────────────────────────────────────┬──────────
//! │ version │  kind   │  reserved, 0      │  length of the payload, big endian    │ payload …
//! └─────────┴─────────┴───────────────────┴───────────────────────────────────────┴──────────
//! ```
//! The payload is the message's fields in postcard. A receiver skips a kind that it does not know
//! (an older proxy among newer ones), and closes on a version that it does not know.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_MESSAGE;

/// The version of the wire that this build speaks.
pub const VERSION: u8 = 1;

/// Octets before the payload.
pub const HEADER_LEN: usize = 8;

/// A set of messages with numbered kinds: what one side of a connection may say.
pub trait Message: Sized {
    /// The number of this message's kind.
    fn kind(&self) -> u8;

    /// Appends the payload to `out`.
    ///
    /// # Errors
    /// [`postcard::Error`] where a field cannot be serialised, which no message here provokes.
    fn encode_payload(&self, out: Vec<u8>) -> Result<Vec<u8>, postcard::Error>;

    /// The message of this kind with this payload; `None` for an unknown kind.
    ///
    /// # Errors
    /// As [`DecodeError`] tells; never [`DecodeError::Version`] or [`DecodeError::TooLong`].
    fn decode_payload(kind: u8, payload: &[u8]) -> Result<Option<Self>, DecodeError>;
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another version than [`VERSION`].
    #[error("version {0} of the wire, this build speaks {VERSION}: upgrade the older side")]
    Version(u8),
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message of {0} octets, at most {MAX_MESSAGE} are taken")]
    TooLong(usize),
    /// The fields do not parse.
    #[error("malformed message of kind {kind}: {why}")]
    Malformed {
        /// The kind in the header.
        kind: u8,
        /// What postcard says.
        why: String,
    },
    /// The fields parse but break a bound of [`crate::limits`], or contradict each other.
    #[error("message of kind {kind} breaks a bound: {what}")]
    Bound {
        /// The kind in the header.
        kind: u8,
        /// Which.
        what: &'static str,
    },
}

/// What was at the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<M> {
    /// A message, and how many octets it took.
    Message(M, usize),
    /// A message of an unknown kind, and how many octets to skip.
    Unknown(u8, usize),
    /// Not yet whole: at least this many octets are missing.
    Incomplete(usize),
}

/// The message in its frame.
///
/// # Panics
/// Never for the messages of this crate: postcard serialises all their field types.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut out = vec![0; HEADER_LEN];
    out[0] = VERSION;
    out[1] = message.kind();
    let mut out = message.encode_payload(out).expect("messages hold only what postcard serialises");
    let length = u32::try_from(out.len() - HEADER_LEN).expect("senders keep to the bounds");
    out[4..8].copy_from_slice(&length.to_be_bytes());
    out
}

/// Reads the first message of a buffer. Total: any bytes give an answer.
///
/// # Errors
/// As [`DecodeError`] tells; the stream is of no use after one.
pub fn decode<M: Message>(buffer: &[u8]) -> Result<Decoded<M>, DecodeError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Decoded::Incomplete(HEADER_LEN - buffer.len()));
    };
    let [version, kind, _, _, length @ ..] = *header;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(DecodeError::TooLong(length));
    }
    let Some(payload) = rest.get(..length) else {
        return Ok(Decoded::Incomplete(length - rest.len()));
    };
    Ok(match M::decode_payload(kind, payload)? {
        Some(message) => Decoded::Message(message, HEADER_LEN + length),
        None => Decoded::Unknown(kind, HEADER_LEN + length),
    })
}

/// The fields of one kind: strict, so that trailing octets are an error and not a covert channel.
pub(crate) fn fields<'a, T: Deserialize<'a>>(
    kind: u8,
    payload: &'a [u8],
) -> Result<T, DecodeError> {
    let malformed = |why: String| DecodeError::Malformed { kind, why };
    let (fields, rest) =
        postcard::take_from_bytes(payload).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} octets behind the last field", rest.len())));
    }
    Ok(fields)
}

/// Appends fields to a buffer.
pub(crate) fn append<T: Serialize>(fields: &T, out: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(fields, out)
}

/// Defines an enum of messages, each variant a struct with its number, and its [`Message`].
///
/// A struct's `check` refuses fields that break a bound.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $number:literal => $variant:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($variant),)+
        }

        impl $crate::envelope::Message for $name {
            fn kind(&self) -> u8 {
                match self { $(Self::$variant(_) => $number,)+ }
            }

            fn encode_payload(&self, out: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
                match self { $(Self::$variant(fields) => $crate::envelope::append(fields, out),)+ }
            }

            fn decode_payload(
                kind: u8,
                payload: &[u8],
            ) -> Result<Option<Self>, $crate::envelope::DecodeError> {
                match kind {
                    $($number => {
                        let fields: $variant = $crate::envelope::fields(kind, payload)?;
                        fields.check().map_err(|what| {
                            $crate::envelope::DecodeError::Bound { kind, what }
                        })?;
                        Ok(Some(Self::$variant(fields)))
                    })+
                    _ => Ok(None),
                }
            }
        }

        $(impl From<$variant> for $name {
            fn from(fields: $variant) -> Self {
                Self::$variant(fields)
            }
        })+
    };
}
pub(crate) use messages;
