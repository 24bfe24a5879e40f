//! Every bound of the engine, and what happens at it.

use std::time::Duration;

/// Updates and queries that wait for the engine. At the bound the sender waits, up to
/// [`ANSWER_WITHIN`].
pub(super) const COMMANDS: usize = 4096;

/// Datagrams of piasd's QUIC endpoint that wait for the engine. At the bound
/// [`send_registration`](super::EngineHandle::send_registration) says `false`, and QUIC sends again.
pub(super) const REGISTRATIONS: usize = 1024;

/// How long another thread waits for the engine before it takes it for gone.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Packets, receive calls, commands and datagrams taken from one source in one turn; what is left
/// waits in the kernel or in its queue until the other sources had theirs.
pub(super) const BATCH: usize = 64;

/// Receive calls per tunnel socket in one turn: each brings up to [`RECEIVE_BUFFERS`] buffers.
pub(super) const RECEIVES: usize = 4;

/// Buffers lent to one receive call; each holds one datagram, or up to 64 KiB of equal ones that
/// the kernel joined (`UDP_GRO`).
pub(super) const RECEIVE_BUFFERS: usize = 8;

/// How often tables are aged.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// Sending sockets per address family: as many source ports are seen by routers and network cards
/// that spread tunnel packets by a hash of the outer header.
pub(super) const SOURCE_PORTS: usize = 64;

/// Datagrams in one call to send (`UDP_SEGMENT`); more begin the next call. Kernels since 4.18 take
/// 64.
pub(super) const SEGMENTS_PER_SEND: usize = 64;

/// Octets in one call to send: an IP packet of 65,535 octets with room for the outer headers.
pub(super) const OCTETS_PER_SEND: usize = 65_000;

/// What is asked of the kernel for each receiving socket's buffer, in octets: 40 ms at 1 Gb/s. At
/// the bound the kernel drops (`UdpRcvbufErrors`).
pub(super) const RECEIVE_BUFFER: usize = 8 << 20;

/// What is asked of the kernel for each sending socket's buffer, in octets. At the bound:
/// `tunnel_send`.
pub(super) const SEND_BUFFER: usize = 2 << 20;

/// Octets of the largest IP packet, segments joined.
pub(super) const MAX_PACKET: usize = 65_535;

/// The TUN device's MTU: the kernel shall pass on whatever the routes before and behind it carry.
pub(super) const DEVICE_MTU: u16 = 65_535;
