//! UDP sockets that take and send datagrams in batches, and the echo server.

use std::convert::Infallible;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::{LoadError, failed};
use crate::bench::limits::{BATCH, DATAGRAM, SOCKET_BUFFER};

/// A socket with room for a whole window of datagrams. Where the system does
/// not grant the room, its default stays, and overflow shows as lost replies.
pub(super) fn with_room(socket: UdpSocket) -> UdpSocket {
    let _default_stays = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER);
    socket
}

/// A socket that only speaks to `to`.
pub(super) fn connected(to: SocketAddr) -> Result<UdpSocket, LoadError> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).map_err(failed("open a socket to", to))?;
    socket.connect(to).map_err(failed("connect to", to))?;
    Ok(with_room(socket))
}

/// Datagrams of one system call. Receiving and sending have headers of their
/// own, because a header that has sent keeps pointing at its receiver's
/// address.
pub(super) struct Batch {
    incoming: MultiHeaders<SockaddrStorage>,
    outgoing: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; DATAGRAM]>,
    lengths: Vec<usize>,
    senders: Vec<Option<SockaddrStorage>>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; DATAGRAM]; BATCH],
            lengths: Vec::with_capacity(BATCH),
            senders: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what has arrived, at most [`BATCH`] datagrams; waits for the
    /// first unless the socket is non-blocking. Returns how many.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> Result<usize, Errno> {
        self.lengths.clear();
        self.senders.clear();
        let mut slices: Vec<_> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let wait = MsgFlags::MSG_WAITFORONE;
        let received =
            recvmmsg(socket.as_raw_fd(), &mut self.incoming, slices.iter_mut(), wait, None)?;
        for message in received {
            self.lengths.push(message.bytes);
            self.senders.push(message.address);
        }
        Ok(self.lengths.len())
    }

    /// Sends the datagrams back that [`Batch::receive`] took.
    fn send_back(&mut self, socket: &UdpSocket) -> Result<(), Errno> {
        let slices: Vec<_> = self
            .buffers
            .iter()
            .zip(&self.lengths)
            .map(|(buffer, length)| [IoSlice::new(&buffer[..*length])])
            .collect();
        let flags = MsgFlags::empty();
        sendmmsg(socket.as_raw_fd(), &mut self.outgoing, &slices, &self.senders, [], flags)?;
        Ok(())
    }

    /// Sends `count` (at most [`BATCH`]) copies of a datagram on a connected
    /// socket; returns how many went.
    pub(super) fn send(
        &mut self,
        socket: &UdpSocket,
        datagram: &[u8],
        count: usize,
    ) -> Result<usize, Errno> {
        let count = count.min(BATCH);
        let slices = vec![[IoSlice::new(datagram)]; count];
        let nowhere = vec![None; count];
        let flags = MsgFlags::empty();
        let sent = sendmmsg(socket.as_raw_fd(), &mut self.outgoing, &slices, &nowhere, [], flags)?;
        Ok(sent.count())
    }
}

/// Sends every datagram back, until the process is killed. A datagram that
/// cannot be sent is lost, as on any network.
pub(super) fn echo(at: SocketAddr) -> Result<Infallible, LoadError> {
    let socket = with_room(UdpSocket::bind(at).map_err(failed("listen at", at))?);
    let mut batch = Batch::new();
    loop {
        match batch.receive(&socket) {
            Ok(_) => {
                let _lost = batch.send_back(&socket);
            }
            // An error about an earlier answer, or a signal.
            Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::EINTR) => {}
            Err(errno) => return Err(failed("receive at", at)(errno.into())),
        }
    }
}
