//! Which connection id an accepted connection answers to.
//!
//! A stateless reset carries a token that follows from the connection id which the agent addresses
//! its proxy by: the one that the proxy chose in the handshake, as long as the agent has no reason
//! to use another (quinn's client has none but a change of its own address). QUIC's library does
//! not tell that id, but asks for it while a connection is accepted, which is one call on one
//! thread: it is noted there.

use std::cell::Cell;

use quinn::{Connecting, ConnectionError, Incoming};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator, InvalidCid};

/// Octets of a connection id.
pub const ID_LEN: usize = 8;

thread_local! {
    static LAST: Cell<Option<[u8; ID_LEN]>> = const { Cell::new(None) };
}

/// Makes ids that every proxy of the same mark recognises, and notes the last one of each thread.
pub struct NotedIds(HashedConnectionIdGenerator);

impl NotedIds {
    /// Of this mark.
    #[must_use]
    pub fn new(mark: u64) -> Self {
        Self(HashedConnectionIdGenerator::from_key(mark))
    }
}

impl ConnectionIdGenerator for NotedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let id = self.0.generate_cid();
        LAST.set((&id[..]).try_into().ok());
        id
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        self.0.validate(id)
    }

    fn cid_len(&self) -> usize {
        self.0.cid_len()
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        self.0.cid_lifetime()
    }
}

/// Accepts a connection, and tells the id that the other side addresses it by.
///
/// # Errors
/// [`ConnectionError`] where the first packet is none, or the endpoint makes no such ids.
pub fn accept(incoming: Incoming) -> Result<(Connecting, [u8; ID_LEN]), ConnectionError> {
    LAST.set(None);
    let connecting = incoming.accept()?;
    LAST.take().map(|id| (connecting, id)).ok_or(ConnectionError::LocallyClosed)
}
