//! Receiving from other proxies: one UDP socket per tunnel endpoint.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt},
};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::limits::engine::{MAX_PACKET, RECEIVE_BUFFER, RECEIVE_BUFFERS, SEND_BUFFER};

/// A socket that receives tunnel packets.
pub(super) struct Receiver {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<Vec<u8>>,
    meta: [RecvMeta; RECEIVE_BUFFERS],
}

impl Receiver {
    /// A socket bound to a tunnel endpoint.
    pub(super) fn bind(endpoint: SocketAddr) -> io::Result<Self> {
        let (socket, state) = bind(endpoint)?;
        raise_buffer(&socket, Side::Receive);
        Ok(Self::new(socket, state))
    }

    /// The socket of another process, bound to this endpoint.
    ///
    /// # Errors
    /// It is bound elsewhere, or is no UDP socket.
    pub(super) fn adopt(socket: UdpSocket, endpoint: SocketAddr) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        if bound != endpoint {
            let what = format!("the socket handed over is bound to {bound}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let state = prepare(&socket, endpoint)?;
        Ok(Self::new(socket, state))
    }

    fn new(socket: UdpSocket, state: UdpSocketState) -> Self {
        Self {
            socket,
            state,
            buffers: vec![vec![0; MAX_PACKET]; RECEIVE_BUFFERS],
            meta: [RecvMeta::default(); RECEIVE_BUFFERS],
        }
    }

    /// The socket for another process; this one keeps it, too.
    ///
    /// # Errors
    /// This process may not open more descriptors.
    pub(super) fn hand_over(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// Receives what there is, up to [`RECEIVE_BUFFERS`] buffers full; says how many.
    pub(super) fn receive(&mut self) -> io::Result<usize> {
        let mut buffers = self.buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; RECEIVE_BUFFERS] = std::array::from_fn(|_| {
            IoSliceMut::new(buffers.next().map_or(&mut [], Vec::as_mut_slice))
        });
        self.state.recv((&self.socket).into(), &mut slices, &mut self.meta)
    }

    /// The datagrams in the first `count` buffers, each with its source.
    pub(super) fn datagrams(&self, count: usize) -> impl Iterator<Item = (IpAddr, &[u8])> {
        self.buffers.iter().zip(&self.meta).take(count).flat_map(|(buffer, meta)| {
            let datagrams = buffer[..meta.len].chunks(meta.stride.max(1));
            datagrams.map(|datagram| (meta.addr.ip(), datagram))
        })
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A bound, non-blocking UDP socket with GRO on, whose datagrams are never fragmented. (quinn-udp
/// has kernel interfaces that no safe wrapper of `recvmmsg` offers: nix's loses the control message
/// with the segment size from the second call on.)
pub(super) fn bind(local: SocketAddr) -> io::Result<(UdpSocket, UdpSocketState)> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&local.into())?;
    let socket = UdpSocket::from(socket);
    let state = prepare(&socket, local)?;
    Ok((socket, state))
}

fn prepare(socket: &UdpSocket, local: SocketAddr) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    // quinn-udp probes for the path's MTU itself, and wants the kernel to forget what it learnt.
    // Here the kernel shall refuse what is too long for the path (RFC 1191, RFC 8201).
    if local.is_ipv6() {
        setsockopt(socket, Ipv6MtuDiscover, &libc::IPV6_PMTUDISC_DO)?;
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false)?;
    } else {
        setsockopt(socket, Ipv4MtuDiscover, &libc::IP_PMTUDISC_DO)?;
        setsockopt(socket, sockopt::Ipv4PacketInfo, &false)?;
    }
    Ok(state)
}

sockopt_impl!(
    /// What the kernel does with the path's MTU.
    Ipv4MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);

sockopt_impl!(
    /// What the kernel does with the path's MTU.
    Ipv6MtuDiscover,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);

sockopt_impl!(
    /// What the kernel knows of the MTU to where the socket is connected.
    Ipv6Mtu,
    GetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU,
    libc::c_int
);

/// What the kernel knows of the MTU of the path from `local` to `remote`, in octets.
pub(super) fn path_mtu(local: IpAddr, remote: SocketAddr) -> io::Result<u16> {
    let (probe, _) = bind(SocketAddr::new(local, 0))?;
    probe.connect(remote)?;
    let mtu = match local {
        IpAddr::V4(_) => nix::sys::socket::getsockopt(&probe, sockopt::IpMtu)?,
        IpAddr::V6(_) => nix::sys::socket::getsockopt(&probe, Ipv6Mtu)?,
    };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// Whose buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Send,
    Receive,
}

/// Asks for a larger buffer: beyond the system's limit where privileges allow, else up to it.
pub(super) fn raise_buffer(socket: &UdpSocket, side: Side) {
    let forced = match side {
        Side::Send => setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER),
        Side::Receive => setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER),
    };
    if forced.is_err() {
        // What the system grants is enough to work with.
        let _ = match side {
            Side::Send => SockRef::from(socket).set_send_buffer_size(SEND_BUFFER),
            Side::Receive => SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER),
        };
    }
}
