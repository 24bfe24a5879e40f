//! IPv6 (RFC 8200): where its fields are, and the walk over its extension headers.

use crate::drop_reason::DropReason;

/// Octets of the fixed header.
pub const HEADER: usize = 40;
/// Payload length.
pub const PAYLOAD_LENGTH: usize = 4;
/// Next header.
pub const NEXT_HEADER: usize = 6;
/// Hop limit.
pub const HOP_LIMIT: usize = 7;
/// Source address.
pub const SOURCE: usize = 8;
/// Destination address.
pub const DESTINATION: usize = 24;

/// Octets of a fragment header.
pub const FRAGMENT_HEADER: usize = 8;
/// Next header value of the fragment header.
pub const FRAGMENT: u8 = 44;

/// Most extension headers that are walked. RFC 8200 section 4.1 knows of six, each once.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// In a routing header: how many stations are still to come. With any left the destination is not
/// the last one: a target would pass the packet on to wherever its sender wants (RFC 5095).
const SEGMENTS_LEFT: usize = 3;

/// Where the walk over the extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The upper-layer protocol.
    pub protocol: u8,
    /// Where it begins, or where the fragment's payload does.
    pub payload: usize,
    /// Where the fragment header is, if there is one.
    pub fragment: Option<usize>,
    /// Where the next-header field is that named `protocol`.
    pub named_at: usize,
}

/// Walks the extension headers of a packet that has at least [`HEADER`] octets and ends at `end`.
///
/// # Errors
/// [`DropReason::Malformed`] for one that is cut off, [`DropReason::ExtensionHeaders`] for too many,
/// and for a source route.
pub fn walk(bytes: &[u8], end: usize) -> Result<Walk, DropReason> {
    let mut walk = Walk {
        protocol: bytes[NEXT_HEADER],
        payload: HEADER,
        fragment: None,
        named_at: NEXT_HEADER,
    };
    for _ in 0..MAX_EXTENSIONS {
        if walk.protocol == ROUTING && bytes.get(walk.payload + SEGMENTS_LEFT) != Some(&0) {
            return Err(DropReason::ExtensionHeaders);
        }
        let length = match walk.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let units = bytes.get(walk.payload + 1).ok_or(DropReason::Malformed)?;
                8 * (usize::from(*units) + 1)
            }
            FRAGMENT if walk.fragment.is_none() => {
                walk.fragment = Some(walk.payload);
                FRAGMENT_HEADER
            }
            FRAGMENT => return Err(DropReason::ExtensionHeaders),
            _ => return Ok(walk),
        };
        if walk.payload + length > end {
            return Err(DropReason::Malformed);
        }
        walk.named_at = walk.payload;
        walk.protocol = bytes[walk.payload];
        walk.payload += length;
        // Behind the header of a later fragment stands the middle of a packet.
        if walk.fragment.is_some_and(|at| super::word(bytes, at + 2) & 0xFFF8 != 0) {
            return Ok(walk);
        }
    }
    Err(DropReason::ExtensionHeaders)
}
