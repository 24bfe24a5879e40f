//! Hears of changes to links, neighbours, routes and rules, as XDP's next hops depend on them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

/// Groups of rtnetlink(7): links, neighbours, routes and rules of both families, and next hops.
const GROUPS: u32 = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18 | 1 << 31;

/// A socket that becomes readable with each change.
pub(super) struct RouteWatch(OwnedFd);

impl RouteWatch {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Takes what there is, up to `most` messages; whether anything had changed. What the kernel could
    /// not keep for us has.
    pub(super) fn changed(&self, most: usize) -> bool {
        // Only that there was something is of interest: what does not fit is cut.
        let mut some = [0; 64];
        let mut changed = false;
        for _ in 0..most {
            match recv(self.0.as_raw_fd(), &mut some, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS) => changed = true,
                Err(_) => break,
            }
        }
        changed
    }
}

impl AsFd for RouteWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
