//! Messages and descriptors between two processes of one host.
//!
//! ```text
//!  0                   4                   6                   8                   12
//! ┌───────────────────┬───────────────────┬───────────────────┬───────────────────┬──────────
//! │      "PIAS"       │      version      │       kind        │      length       │ payload …
//! └───────────────────┴───────────────────┴───────────────────┴───────────────────┴──────────
//! ```
//! Numbers are big endian. Descriptors travel beside the header of their message (`SCM_RIGHTS`,
//! unix(7)). The other side is a process of the same user; it is believed to mean well, but may be
//! of another version, hang, or die at any octet.

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
    },
    process::Pid,
};

use crate::limits::{HAND_OVER_DESCRIPTORS, HAND_OVER_FRAME};

const MAGIC: [u8; 4] = *b"PIAS";

/// The version of the frames, and of all that is in them. Who changes what is handed over raises it:
/// half of what is known is worse than a restart.
pub(super) const VERSION: u16 = 2;

const HEADER: usize = 12;

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// New to running: who it is.
    Hello,
    /// Running to new: it may ask.
    Welcome,
    /// Running to new: not now, or not at all, and why.
    Refused,
    /// New to running: hand over, but for what is in these tables.
    Ask,
    /// Running to new: the descriptors, and which is which.
    Descriptors,
    /// Running to new: a part of what is known.
    Part,
    /// Running to new: that was all.
    End,
    /// New to running: it serves.
    Taken,
    /// New to running: it cannot, and why.
    Failed,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Ask,
        Self::Descriptors,
        Self::Part,
        Self::End,
        Self::Taken,
        Self::Failed,
    ];

    fn read(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u16 == number)
    }
}

/// A message.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Why two processes cannot talk.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other process is gone.
    #[error("the other process has ended, or closed the connection")]
    Closed,
    /// It says nothing.
    #[error("the other process says nothing")]
    Silent,
    /// The socket fails.
    #[error("cannot talk to the other process: {0}")]
    Socket(#[source] io::Error),
    /// It speaks something else.
    #[error("the other process does not speak of a hand-over")]
    Foreign,
    /// It speaks another version.
    #[error("the other process speaks version {0} of the hand-over, this one version {VERSION}")]
    Version(u16),
    /// It says what this version does not know, or what is out of place.
    #[error("the other process says something unexpected ({0})")]
    Unexpected(String),
    /// A message that is too long.
    #[error("a message of {0} octets, at most {HAND_OVER_FRAME} are taken")]
    TooLong(usize),
    /// A message that cannot be read.
    #[error("a message cannot be read: {0}")]
    Malformed(String),
    /// Descriptors did not come through.
    #[error("not all descriptors arrived: may this process open as many files as the other one?")]
    DescriptorsLost,
    /// The other process refused, or gave up.
    #[error("{0}")]
    Said(String),
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Link(UnixStream);

impl Link {
    /// The link over this socket.
    pub(super) fn new(stream: UnixStream) -> Result<Self, LinkError> {
        stream.set_nonblocking(false).map_err(LinkError::Socket)?;
        Ok(Self(stream))
    }

    /// How long the other side may be silent from now on.
    pub(super) fn patience(&self, time: Duration) -> Result<(), LinkError> {
        self.0
            .set_read_timeout(Some(time))
            .and_then(|()| self.0.set_write_timeout(Some(time)))
            .map_err(LinkError::Socket)
    }

    /// The process at the other end.
    pub(super) fn peer(&self) -> Result<Pid, LinkError> {
        let credentials = socket_peercred(&self.0).map_err(|e| LinkError::Socket(e.into()))?;
        Ok(credentials.pid)
    }

    /// Sends a message.
    pub(super) fn send(&self, kind: Kind, payload: &[u8]) -> Result<(), LinkError> {
        self.send_with(kind, payload, &[])
    }

    /// Sends a message with descriptors, at most [`HAND_OVER_DESCRIPTORS`].
    pub(super) fn send_with(
        &self,
        kind: Kind,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&VERSION.to_be_bytes());
        header[6..8].copy_from_slice(&(kind as u16).to_be_bytes());
        let length = u32::try_from(payload.len()).map_err(|_| LinkError::TooLong(payload.len()))?;
        header[8..].copy_from_slice(&length.to_be_bytes());
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HAND_OVER_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(LinkError::DescriptorsLost);
        }
        // A header is short enough to be taken whole, or not at all.
        sendmsg(&self.0, &[IoSlice::new(&header)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|errno| broken(errno.into()))?;
        (&self.0).write_all(payload).map_err(broken)
    }

    /// The next message.
    pub(super) fn receive(&self) -> Result<Frame, LinkError> {
        let mut descriptors = Vec::new();
        let mut header = [0; HEADER];
        self.fill(&mut header, &mut descriptors)?;
        let (magic, rest) = header.split_first_chunk::<4>().expect("12 octets");
        let number = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        if *magic != MAGIC {
            return Err(LinkError::Foreign);
        }
        if number(0) != VERSION {
            return Err(LinkError::Version(number(0)));
        }
        let unknown = || LinkError::Unexpected(format!("message {}", number(2)));
        let kind = Kind::read(number(2)).ok_or_else(unknown)?;
        let length = usize::from(number(4)) << 16 | usize::from(number(6));
        if length > HAND_OVER_FRAME {
            return Err(LinkError::TooLong(length));
        }
        let mut payload = vec![0; length];
        self.fill(&mut payload, &mut descriptors)?;
        Ok(Frame { kind, payload, descriptors })
    }

    /// The next message, which should be of this kind; a refusal or a failure is an error.
    pub(super) fn expect(&self, kind: Kind) -> Result<Frame, LinkError> {
        let frame = self.receive()?;
        match frame.kind {
            found if found == kind => Ok(frame),
            Kind::Refused | Kind::Failed => {
                Err(LinkError::Said(String::from_utf8_lossy(&frame.payload).into_owned()))
            }
            other => Err(LinkError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Waits until the other end is closed, whatever it still says.
    pub(super) fn drain(&self) -> Result<(), LinkError> {
        loop {
            match self.receive() {
                Err(LinkError::Closed) => return Ok(()),
                Err(error @ (LinkError::Silent | LinkError::Socket(_))) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn fill(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<(), LinkError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HAND_OVER_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut rest = [IoSliceMut::new(&mut buffer[filled..])];
            let received = match recvmsg(&self.0, &mut rest, &mut control, RecvFlags::CMSG_CLOEXEC)
            {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(broken(errno.into())),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(arrived) = message {
                    descriptors.extend(arrived);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(LinkError::DescriptorsLost);
            }
            if received.bytes == 0 {
                return Err(LinkError::Closed);
            }
            filled += received.bytes;
        }
        Ok(())
    }
}

fn broken(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => LinkError::Silent,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LinkError::Closed,
        _ => LinkError::Socket(error),
    }
}
