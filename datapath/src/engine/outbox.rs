//! Sending to other proxies: for each address family a pool of sockets, chosen by flow.
//!
//! ```text
//!   flow ──► lane ──► ├ Geneve │ packet ┤ Geneve │ packet ┤ … ┤ ──► one sendmsg (UDP_SEGMENT)
//! ```
//! A lane is a socket with a source port of its own, so that routers and network cards see the
//! flows' spread in the outer header. Datagrams of one lane to one proxy gather while they are of
//! one length (the last may be shorter), and leave together; all that gathered leaves at the end of
//! the engine's turn. Order within a flow is kept.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use nix::libc;
use pias_protocol::{
    GENEVE_PORT,
    geneve::{Header, MAX_LEN},
    hash::FlowHash,
};
use quinn_udp::{Transmit, UdpSocketState};

use super::{
    segment::Cut,
    tunnel::{self, Side, path_mtu, raise_buffer},
};
use crate::{
    limits::engine::{OCTETS_PER_SEND, SEGMENTS_PER_SEND, SOURCE_PORTS},
    packet::Packet,
};

/// The sockets of all families.
pub(super) struct Outbox {
    pools: Vec<Pool>,
    /// What went wrong since it was last asked for.
    report: Report,
}

/// What went wrong on the way out.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Packets whose offload contradicts their headers.
    pub(super) malformed: u64,
    /// Packets that the kernel did not take.
    pub(super) refused: u64,
    /// Endpoints that packets were too long for, and what their paths carry, in octets.
    pub(super) path_mtus: Vec<(IpAddr, u16)>,
}

impl Report {
    /// Whether nothing went wrong.
    pub(super) const fn is_empty(&self) -> bool {
        self.malformed == 0 && self.refused == 0 && self.path_mtus.is_empty()
    }
}

struct Pool {
    local: IpAddr,
    lanes: Vec<Lane>,
    /// Lanes that hold something.
    waiting: Vec<usize>,
}

struct Lane {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Whether the kernel cuts what this lane sends.
    segmentation: bool,
    batch: Batch,
}

/// Datagrams of one length to one proxy, the last of which may be shorter.
struct Batch {
    to: SocketAddr,
    octets: Vec<u8>,
    size: usize,
    count: usize,
    closed: bool,
}

impl Outbox {
    /// Sockets for each of these local addresses.
    ///
    /// # Errors
    /// The address that no socket could be bound to, with the reason.
    pub(super) fn bind(locals: &[IpAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let pools = locals.iter().map(|&local| Pool::bind(local)).collect::<Result<_, _>>()?;
        Ok(Self { pools, report: Report::default() })
    }

    /// The ports that packets over IPv4 and IPv6 leave from, by lane; 0 where there are none.
    pub(super) fn source_ports(&self) -> [[u16; SOURCE_PORTS]; 2] {
        [false, true].map(|v6| {
            let pool = self.pools.iter().find(|pool| pool.local.is_ipv6() == v6);
            let lane = |at| pool.and_then(|pool| pool.lanes.get(at));
            let port = |lane: &Lane| lane.socket.local_addr().map_or(0, |local| local.port());
            std::array::from_fn(|at| lane(at).map_or(0, port))
        })
    }

    /// Puts a packet, cut if it is a super-packet, behind `header` for the proxy at `tunnel`.
    pub(super) fn push(
        &mut self,
        tunnel: IpAddr,
        flow: FlowHash,
        header: &Header,
        packet: &Packet,
    ) {
        let pool = self.pools.iter_mut().find(|pool| pool.local.is_ipv4() == tunnel.is_ipv4());
        let Some(pool) = pool else {
            self.report.refused += 1;
            return;
        };
        let Some(cut) = Cut::of(packet) else {
            self.report.malformed += 1;
            return;
        };
        let mut written = [0; MAX_LEN];
        let header_len = header.write(&mut written);
        let header = &written[..header_len];
        let lane = (flow.0 >> 32) as usize % pool.lanes.len();
        let to = SocketAddr::new(tunnel, GENEVE_PORT);
        match cut {
            Cut::Whole(bytes) => {
                let len = header_len + bytes.len();
                pool.push(lane, to, &mut self.report, len, |out| {
                    out.extend_from_slice(header);
                    out.extend_from_slice(bytes);
                });
            }
            Cut::Segments(segments) => {
                for index in 0..segments.count() {
                    let len = header_len + segments.len_of(index);
                    pool.push(lane, to, &mut self.report, len, |out| {
                        out.extend_from_slice(header);
                        segments.append(index, out);
                    });
                }
            }
        }
    }

    /// Sends all that gathered, and tells what went wrong since the last call.
    pub(super) fn flush(&mut self) -> &mut Report {
        for pool in &mut self.pools {
            for lane in pool.waiting.drain(..) {
                pool.lanes[lane].send(pool.local, &mut self.report);
            }
        }
        &mut self.report
    }
}

impl Pool {
    fn bind(local: IpAddr) -> Result<Self, (SocketAddr, io::Error)> {
        let any_port = SocketAddr::new(local, 0);
        let lanes = (0..SOURCE_PORTS)
            .map(|_| {
                let (socket, state) = tunnel::bind(any_port)?;
                raise_buffer(&socket, Side::Send);
                Ok(Lane {
                    segmentation: state.max_gso_segments() > 1,
                    socket,
                    state,
                    batch: Batch::empty(),
                })
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| (any_port, error))?;
        Ok(Self { local, lanes, waiting: Vec::with_capacity(SOURCE_PORTS) })
    }

    /// Puts a datagram of `len` octets, which `write` appends, into a lane.
    fn push(
        &mut self,
        lane: usize,
        to: SocketAddr,
        report: &mut Report,
        len: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let lane_at = lane;
        let lane = &mut self.lanes[lane_at];
        if lane.batch.is_empty() {
            self.waiting.push(lane_at);
        } else if !lane.batch.takes(to, len, lane.segmentation) {
            lane.send(self.local, report);
        }
        lane.batch.add(to, len, write);
    }
}

impl Lane {
    /// Sends the batch, which is empty afterwards.
    fn send(&mut self, local: IpAddr, report: &mut Report) {
        let batch = &self.batch;
        let result =
            transmit(&self.socket, &self.state, batch.to, &batch.octets, batch.segment_size());
        match result {
            Ok(()) => {}
            Err(error) if batch.count > 1 && is_segmentation(&error) => {
                self.send_singly(local, report);
            }
            Err(error) => failed(&error, local, batch.to, batch.count as u64, report),
        }
        self.batch.clear();
    }

    /// Sends the batch datagram by datagram: the kernel does not cut on this device, or (before
    /// Linux 6.13) that is how it says that a datagram is too long for the path.
    fn send_singly(&mut self, local: IpAddr, report: &mut Report) {
        let before = report.refused;
        for datagram in self.batch.octets.chunks(self.batch.size) {
            if let Err(error) = transmit(&self.socket, &self.state, self.batch.to, datagram, None) {
                failed(&error, local, self.batch.to, 1, report);
            }
        }
        self.segmentation = report.refused > before;
    }
}

fn transmit(
    socket: &UdpSocket,
    state: &UdpSocketState,
    to: SocketAddr,
    contents: &[u8],
    segment_size: Option<usize>,
) -> io::Result<()> {
    // The outer ECN field stays Not-ECT: the compatibility mode of RFC 6040 section 4.3, which
    // needs nothing from the receiver.
    let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
    state.try_send(socket.into(), &transmit)
}

fn is_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

fn failed(error: &io::Error, local: IpAddr, to: SocketAddr, packets: u64, report: &mut Report) {
    report.refused += packets;
    let known = report.path_mtus.iter().any(|(tunnel, _)| *tunnel == to.ip());
    if error.raw_os_error() == Some(libc::EMSGSIZE) && !known {
        // Without an answer the next packet asks again.
        report.path_mtus.extend(path_mtu(local, to).map(|mtu| (to.ip(), mtu)));
    }
}

impl Batch {
    const fn empty() -> Self {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self { to: nowhere, octets: Vec::new(), size: 0, count: 0, closed: false }
    }

    const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a datagram may leave together with those here.
    fn takes(&self, to: SocketAddr, len: usize, segmentation: bool) -> bool {
        segmentation
            && !self.closed
            && self.to == to
            && len <= self.size
            && self.count < SEGMENTS_PER_SEND
            && self.octets.len() + len <= OCTETS_PER_SEND
    }

    fn add(&mut self, to: SocketAddr, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_empty() {
            self.to = to;
            self.size = len;
        }
        let before = self.octets.len();
        write(&mut self.octets);
        debug_assert_eq!(self.octets.len() - before, len, "a datagram of another length");
        self.closed = len < self.size;
        self.count += 1;
    }

    fn segment_size(&self) -> Option<usize> {
        (self.count > 1).then_some(self.size)
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.count = 0;
        self.closed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], GENEVE_PORT))
    }

    fn batch(lens: &[usize]) -> Batch {
        let mut batch = Batch::empty();
        for &len in lens {
            batch.add(to(1), len, |out| out.resize(out.len() + len, 0));
        }
        batch
    }

    #[test]
    fn datagrams_of_one_length_leave_together_and_a_shorter_one_ends_it() {
        assert!(batch(&[100, 100]).takes(to(1), 100, true));
        assert!(batch(&[100, 100]).takes(to(1), 7, true));
        assert!(!batch(&[100, 7]).takes(to(1), 7, true));
        assert!(!batch(&[100]).takes(to(1), 101, true));
        assert!(!batch(&[100]).takes(to(2), 100, true));
        assert!(!batch(&[100]).takes(to(1), 100, false));
    }

    #[test]
    fn a_batch_stays_within_what_one_call_may_send() {
        assert!(!batch(&[10; SEGMENTS_PER_SEND]).takes(to(1), 10, true));
        assert!(!batch(&[1500; OCTETS_PER_SEND / 1500]).takes(to(1), 1500, true));
    }

    #[test]
    fn a_batch_can_be_used_again() {
        let mut batch = batch(&[100, 7]);
        assert_eq!(batch.segment_size(), Some(100));
        batch.clear();
        batch.add(to(2), 3, |out| out.extend([1, 2, 3]));
        assert_eq!((batch.to, batch.segment_size(), batch.octets.len()), (to(2), None, 3));
    }
}
