//! The new process's side.

use std::{io, os::unix::net::UnixStream, path::Path};

use pias_datapath::engine::TablesId;

use super::{
    Hello, Legacy,
    link::{Kind, Link, LinkError},
    parts,
};
use crate::limits::{HELLO_TIME, TAKE_TIME};

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Nobody runs.
    #[error("no piasd runs")]
    Nobody,
    /// The running process died meanwhile: nobody serves.
    #[error("the running piasd died during the hand-over")]
    Died,
    /// The running process goes on, and this one cannot.
    #[error("cannot take over from the running piasd, which goes on: {0}")]
    Refused(#[source] LinkError),
}

impl From<LinkError> for TakeError {
    fn from(error: LinkError) -> Self {
        if matches!(error, LinkError::Closed) { Self::Died } else { Self::Refused(error) }
    }
}

/// A running process that is ready to hand over.
#[derive(Debug)]
pub struct Offer(Link);

/// A running process that stands still, and waits for a word.
#[derive(Debug)]
pub struct Taking(Link);

/// Finds the running process at its socket. Blocks.
///
/// # Errors
/// As [`TakeError`] tells.
pub fn connect(socket: &Path, hello: &Hello) -> Result<Offer, TakeError> {
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => TakeError::Nobody,
        _ => TakeError::Refused(LinkError::Socket(error)),
    })?;
    Offer::new(stream, hello)
}

impl Offer {
    pub(super) fn new(stream: UnixStream, hello: &Hello) -> Result<Self, TakeError> {
        let link = Link::new(stream)?;
        link.patience(HELLO_TIME)?;
        link.send(Kind::Hello, &parts::encode(hello)?)?;
        link.expect(Kind::Welcome)?;
        Ok(Self(link))
    }

    /// Lets the running process stand still and hand over, but for flows in tables that this process `has` as
    /// well. Blocks.
    ///
    /// # Errors
    /// As [`TakeError`] tells.
    pub fn ask(self, has: Option<TablesId>) -> Result<(Legacy, Taking), TakeError> {
        let Self(link) = self;
        link.patience(TAKE_TIME)?;
        link.send(Kind::Ask, &parts::encode(&has)?)?;
        match parts::receive(&link) {
            Ok(legacy) => Ok((legacy, Taking(link))),
            Err(LinkError::Closed) => Err(TakeError::Died),
            Err(error) => {
                Taking(link).failed(&error.to_string());
                Err(TakeError::Refused(error))
            }
        }
    }
}

impl Taking {
    /// This process serves; the other one ends. If it has died meanwhile, it need not be told.
    pub fn taken(self) {
        if let Err(error) = self.0.send(Kind::Taken, &[]) {
            tracing::warn!(%error, "the former piasd has not heard that this one took over");
        }
    }

    /// This process cannot serve; the other one goes on. It does so as well if it is not told.
    pub fn failed(self, why: &str) {
        let _ = self.0.send(Kind::Failed, why.as_bytes());
    }
}
