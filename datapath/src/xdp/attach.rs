//! Attaching the program to interfaces, and handing what is attached to the next process.
//!
//! ```text
//!   this process     Attached ──pin──► a file in bpffs ◄──── Attached::inherit     the next one
//!                    (its program runs on)                   (one program in place of the other)
//! ```
//! An attachment lasts as long as a process or a file holds it: with a process that is killed it ends.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    LoadError,
    layout::{DEVICES, Mode},
};

/// An Ethernet interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: [u8; 6],
    /// Whether it is one end of a veth pair: what it sends is lost unless the other end listens.
    pub is_veth: bool,
}

/// Why the program is not attached to an interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Another program is.
    #[error(
        "another XDP program is attached to {0} (`ip link show {0}` tells which; take it off, or leave {0} out)"
    )]
    Busy(String),
    /// Neither mode works.
    #[error("the XDP program cannot be attached to {name}, in generic mode neither: {source}")]
    Refused {
        /// The interface.
        name: String,
        /// Why not in generic mode.
        source: ProgramError,
    },
    /// The kernel is older than links are: what is attached would outlive this process.
    #[error(
        "the kernel attaches the program to {0} only for good; it needs links of XDP (Linux 5.9)"
    )]
    NoLink(String),
    /// The program is not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There are more interfaces than the program tells apart.
    #[error("the index {index} of {name} is too large for the XDP program (below {DEVICES})")]
    Index {
        /// The interface.
        name: String,
        /// Its index.
        index: u32,
    },
}

/// A program that is attached to an interface, until this is dropped.
#[derive(Debug)]
pub struct Attached {
    mode: Mode,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Held(FdLink),
    /// By a file, too.
    Pinned(PinnedLink),
    /// Nothing, while one becomes the other.
    Lost,
}

impl Attached {
    /// Puts the program in the place of that of the process before, if that left one in `directory`;
    /// else attaches it, in its driver where that can.
    ///
    /// # Errors
    /// As [`AttachError`] tells.
    pub fn new(
        program: &mut Xdp,
        interface: &Interface,
        directory: &Path,
    ) -> Result<Self, AttachError> {
        if interface.index as usize >= DEVICES {
            let name = interface.name.clone();
            return Err(AttachError::Index { name, index: interface.index });
        }
        for mode in [Mode::Native, Mode::Generic] {
            if let Some(inherited) = Self::inherit(program, interface, mode, directory) {
                return Ok(inherited);
            }
        }
        let attached = match Self::attach(program, interface.index, Mode::Native) {
            // What its driver does not take, the kernel's networking does.
            Err(Failure::Refused(_)) => Self::attach(program, interface.index, Mode::Generic),
            done => done,
        };
        attached.map_err(|failure| failure.of(interface.name.clone()))
    }

    /// What a file holds that another process left. The file goes.
    fn inherit(
        program: &mut Xdp,
        interface: &Interface,
        mode: Mode,
        directory: &Path,
    ) -> Option<Self> {
        let link = PinnedLink::from_pin(file(directory, interface, mode)).ok()?.unpin().ok()?;
        // It may be of an interface that is gone, whose name another one has by now.
        let id = program.attach_to_link(XdpLink::try_from(link).ok()?).ok()?;
        let link = FdLink::try_from(program.take_link(id).ok()?).ok()?;
        Some(Self { mode, link: Link::Held(link) })
    }

    fn attach(program: &mut Xdp, index: u32, mode: Mode) -> Result<Self, Failure> {
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = program.attach_to_if_index(index, flags).map_err(Failure::from)?;
        let link = program.take_link(id).map_err(Failure::from)?;
        let link = FdLink::try_from(link).map_err(|_| Failure::NoLink)?;
        Ok(Self { mode, link: Link::Held(link) })
    }

    /// How it is attached.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Leaves it to a file in `directory`, which must be in a BPF file system: it stays attached when
    /// this process ends.
    ///
    /// # Errors
    /// What the kernel says; then this is to be dropped.
    pub fn pin(&mut self, interface: &Interface, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        if let Link::Held(link) = std::mem::replace(&mut self.link, Link::Lost) {
            let path = file(directory, interface, self.mode);
            let _ = fs::remove_file(&path);
            self.link = Link::Pinned(link.pin(path).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Takes the file away, if there is one. `false` where another process has it by now.
    pub fn unpin(&mut self) -> bool {
        self.link = match std::mem::replace(&mut self.link, Link::Lost) {
            Link::Pinned(link) => link.unpin().map_or(Link::Lost, Link::Held),
            other => other,
        };
        !matches!(self.link, Link::Lost)
    }
}

/// Takes away whatever another process left in `directory` that nobody took: it is attached no longer than
/// that process lives.
pub fn forget(directory: &Path) {
    for left in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(left.path()) {
            tracing::warn!("cannot remove {}: {error}", left.path().display());
        }
    }
}

/// Why the program is not attached in one mode.
enum Failure {
    Busy,
    NoLink,
    Refused(ProgramError),
}

impl Failure {
    fn of(self, name: String) -> AttachError {
        match self {
            Self::Busy => AttachError::Busy(name),
            Self::NoLink => AttachError::NoLink(name),
            Self::Refused(source) => AttachError::Refused { name, source },
        }
    }
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        let busy = [io::ErrorKind::ResourceBusy, io::ErrorKind::AlreadyExists];
        match &error {
            // In this mode, or in the other.
            ProgramError::SyscallError(call) if busy.contains(&call.io_error.kind()) => Self::Busy,
            _ => Self::Refused(error),
        }
    }
}

fn file(directory: &Path, interface: &Interface, mode: Mode) -> PathBuf {
    directory.join(format!("{}-{}", interface.name, mode.name()))
}
