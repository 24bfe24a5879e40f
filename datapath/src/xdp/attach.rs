//! Attaching the program to interfaces, and handing what is attached to the next process.
//!
//! ```text
//!   this process     Attached ──── a file in bpffs ◄──── Attached::new       the next one
//!                    (its program runs on)               (one program in place of the other)
//! ```
//! An attachment lasts as long as a process or a file holds it. Where there is a BPF file system, a file holds it
//! from the start: after a process that is killed it goes on for a time of grace ([`kept`](super::kept)).

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

use super::{
    LoadError, kept,
    layout::{DEVICES, Mode},
};

/// An Ethernet interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address; `None` where of what comes in there only frames of these VLANs are XDP's.
    pub mac: Option<[u8; 6]>,
    /// Whether it is one end of a veth pair: what it sends is lost unless the other end listens.
    pub is_veth: bool,
    /// VLANs on it whose frames are XDP's.
    pub vlans: Vec<Vlan>,
}

/// The device of a VLAN (802.1Q) on an Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address, mostly that of the interface.
    pub mac: [u8; 6],
    /// The number in the tags of its frames, 1 to 4094.
    pub tag: u16,
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
    /// It cannot outlive this process, though there is a BPF file system.
    #[error("what the XDP program is attached to cannot be held by a file: {0}")]
    Pin(#[from] PinError),
    /// There are more interfaces than the program tells apart.
    #[error("the index {index} of {name} is too large for the XDP program (below {DEVICES})")]
    Index {
        /// The interface.
        name: String,
        /// Its index.
        index: u32,
    },
}

/// A program that is attached to an interface, until this is dropped or, where a file holds it, its tables
/// are not vouched for any more.
#[derive(Debug)]
pub struct Attached {
    mode: Mode,
    /// `None` only while it is dropped.
    link: Option<Link>,
    /// Whether it is the next process's to take.
    left: bool,
}

#[derive(Debug)]
enum Link {
    Held(#[expect(dead_code, reason = "what it is open for is that it is")] FdLink),
    /// By a file, too.
    Pinned(PinnedLink),
}

impl Attached {
    /// Puts the program in the place of that of the process before, if that left one in `directory`;
    /// else attaches it, in its driver where that can. Where `directory` can be in a BPF file system, a
    /// file there holds it as well.
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
        let inherited = [Mode::Native, Mode::Generic].into_iter().find_map(|mode| {
            let link = Self::inherit(program, &file(directory, interface, mode))?;
            Some((mode, link))
        });
        let (mode, link) = match inherited {
            Some(inherited) => inherited,
            None => Self::attach_anew(program, interface)?,
        };
        let link = match kept::make(directory) {
            Ok(()) => Link::Pinned(link.pin(file(directory, interface, mode))?),
            // Its lack is told once and not for each interface.
            Err(_) => Link::Held(link),
        };
        Ok(Self { mode, link: Some(link), left: false })
    }

    /// What a file holds that another process left. The file goes.
    fn inherit(program: &mut Xdp, file: &Path) -> Option<FdLink> {
        let link = PinnedLink::from_pin(file).ok()?.unpin().ok()?;
        // It may be of an interface that is gone, whose name another one has by now.
        let id = program.attach_to_link(XdpLink::try_from(link).ok()?).ok()?;
        FdLink::try_from(program.take_link(id).ok()?).ok()
    }

    fn attach_anew(
        program: &mut Xdp,
        interface: &Interface,
    ) -> Result<(Mode, FdLink), AttachError> {
        let mut attach = |mode| Ok((mode, Self::attach(program, interface.index, mode)?));
        let attached = match attach(Mode::Native) {
            // What its driver does not take, the kernel's networking does.
            Err(Failure::Refused(_)) => attach(Mode::Generic),
            done => done,
        };
        attached.map_err(|failure| failure.of(interface.name.clone()))
    }

    fn attach(program: &mut Xdp, index: u32, mode: Mode) -> Result<FdLink, Failure> {
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = program.attach_to_if_index(index, flags).map_err(Failure::from)?;
        let link = program.take_link(id).map_err(Failure::from)?;
        FdLink::try_from(link).map_err(|_| Failure::NoLink)
    }

    /// How it is attached.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The name of the file that holds it, if one does.
    #[must_use]
    pub fn file(&self, interface: &Interface) -> Option<String> {
        matches!(self.link, Some(Link::Pinned(_))).then(|| file_name(interface, self.mode))
    }

    /// Leaves it to the next process: it stays attached when this one ends. `false` where no file holds it.
    pub const fn leave(&mut self) -> bool {
        self.left = matches!(self.link, Some(Link::Pinned(_)));
        self.left
    }

    /// Whether it was left, and may be another process's by now.
    #[must_use]
    pub const fn is_left(&self) -> bool {
        self.left
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(Link::Pinned(link)) = self.link.take()
            && !self.left
            && let Err(error) = link.unpin()
        {
            tracing::warn!("what XDP is attached to cannot be taken off: {error}");
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
    directory.join(file_name(interface, mode))
}

fn file_name(interface: &Interface, mode: Mode) -> String {
    format!("{}-{}", interface.name, mode.name())
}
