//! Messages on a QUIC stream: a reader that takes them apart again.

use std::marker::PhantomData;

use pias_protocol::envelope::{self, DecodeError, Decoded, Message};
use quinn::{ReadError, RecvStream};

/// Octets asked of QUIC at once.
const CHUNK: usize = 16 * 1024;

/// Why a stream gives no more messages.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection or the stream ended.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The bytes are no messages.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The stream ended within a message.
    #[error("the stream ended within a message")]
    Cut,
}

/// What came next on a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<M> {
    /// A message.
    Message(M),
    /// A message of a kind that this build does not know, skipped.
    Unknown(u8),
}

/// A stream of messages. Holds at most one message and one chunk.
pub struct Frames<M> {
    stream: RecvStream,
    buffer: Vec<u8>,
    read: usize,
    messages: PhantomData<M>,
}

impl<M: Message> Frames<M> {
    /// The messages of this stream.
    #[must_use]
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: Vec::new(), read: 0, messages: PhantomData }
    }

    /// The next message; `None` at the stream's end. Cancel safe: what was read
    /// stays in the buffer.
    ///
    /// # Errors
    /// As [`FrameError`] tells; the stream is of no use after one.
    pub async fn next(&mut self) -> Result<Option<Frame<M>>, FrameError> {
        loop {
            match envelope::decode(&self.buffer[self.read..])? {
                Decoded::Message(message, octets) => {
                    self.read += octets;
                    return Ok(Some(Frame::Message(message)));
                }
                Decoded::Unknown(kind, octets) => {
                    self.read += octets;
                    return Ok(Some(Frame::Unknown(kind)));
                }
                Decoded::Incomplete(_) => {}
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            match self.stream.read_chunk(CHUNK, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Cut),
            }
        }
    }
}
