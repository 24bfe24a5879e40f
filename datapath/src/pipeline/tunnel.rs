//! What fits into the tunnel, and what happens to what does not.
//!
//! ```text
//! │ outer IPv4 20 or IPv6 40 │ UDP 8 │ Geneve 8 │ option 24 │ inner packet │
//! ├──────────────────────── underlay MTU ──────────────────────────────────┤
//! ```

use std::net::IpAddr;

use pias_protocol::{
    geneve::{self, Inner},
    hash::FlowHash,
    time::Time,
};

use super::{Pipeline, Side, Verdict};
use crate::{
    checksum,
    counters::Path,
    drop_reason::DropReason,
    icmp_error::Problem,
    limits::{LEAST_PATH_MTU, PATH_MTU_FOR},
    packet::{Packet, SegmentKind, Segments},
    split,
    wire::{ip::Ip, ipv4, ipv6, udp},
};

/// The least MTU of IPv6 (RFC 8200 section 5): a packet of that size always passes, and where the
/// tunnel is narrower, the outer packet is fragmented (RFC 2473 section 7.1).
const LEAST_V6: usize = 1280;

impl Pipeline {
    /// The path to a peer carries only packets of `mtu` octets, as its sockets learnt. Believed
    /// for a while, and only down to a bound.
    pub fn path_mtu(&mut self, peer_tunnel: IpAddr, mtu: u16, now: Time) {
        let Some(handle) = self.table.peer_at(peer_tunnel) else { return };
        let mtu = mtu.max(LEAST_PATH_MTU);
        if mtu >= self.config.underlay_mtu {
            return;
        }
        if let Some(peer) = self.table.peer_mut(handle) {
            peer.learnt_mtu = Some((mtu, now + PATH_MTU_FOR));
        }
        if !self.learnt.contains(&handle) {
            self.learnt.push(handle);
        }
        self.least_mtu = self.least_mtu.min(mtu);
    }

    /// Forgets learnt MTUs that are too old, or whose peer is gone.
    pub(super) fn forget_path_mtus(&mut self, now: Time) {
        let (table, mut least) = (&mut self.table, self.config.underlay_mtu);
        self.learnt.retain(|&handle| {
            let Some(peer) = table.peer_mut(handle) else { return false };
            peer.learnt_mtu = peer.learnt_mtu.filter(|&(_, until)| now < until);
            least = least.min(peer.learnt_mtu.map_or(least, |(mtu, _)| mtu));
            peer.learnt_mtu.is_some()
        });
        self.least_mtu = least;
    }

    /// The MTU of the underlay towards a tunnel endpoint.
    fn outer_mtu(&self, tunnel: IpAddr) -> u16 {
        self.table
            .peer_at(tunnel)
            .and_then(|handle| self.table.peer(handle)?.learnt_mtu)
            .map_or(self.config.underlay_mtu, |(mtu, _)| mtu)
    }

    /// The largest inner packet that any header leaves room for.
    pub(super) fn inner_mtu(&self, tunnel: IpAddr) -> usize {
        super::PipelineConfig::room_in_tunnel(tunnel, self.outer_mtu(tunnel))
    }

    /// This proxy's tunnel endpoint of the family of `other`, or of another where it has none.
    pub(super) fn own_tunnel(&self, other: IpAddr) -> Option<IpAddr> {
        let unicast = &self.config.unicast;
        unicast
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == other.is_ipv4())
            .or_else(|| unicast.first().copied())
    }

    /// A verdict that sends a packet into the tunnel.
    pub(super) const fn to_peer(
        tunnel: IpAddr,
        flow: FlowHash,
        ip: &Ip,
        option: Option<geneve::PiasOption>,
    ) -> Verdict {
        let inner = if ip.is_v6() { Inner::Ipv6 } else { Inner::Ipv4 };
        Verdict::Peer { tunnel, flow, header: geneve::Header { inner, option } }
    }

    /// Sees to it that a packet for the tunnel fits: else it is fragmented, or its source told.
    pub(super) fn fit(
        &mut self,
        verdict: Verdict,
        packet: &mut Packet,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let Verdict::Peer { tunnel, header, .. } = verdict else { return verdict };
        let needed = size_on_wire(packet) + overhead(tunnel, header.len());
        if needed <= usize::from(self.least_mtu) || needed <= usize::from(self.outer_mtu(tunnel)) {
            return verdict;
        }
        let Ok(ip) = Ip::parse(packet.bytes()) else {
            return self.drop_for(DropReason::Malformed);
        };
        if ip.is_v6() && size_on_wire(packet) <= LEAST_V6 {
            return verdict;
        }
        if !ip.dont_fragment {
            let room =
                usize::from(self.outer_mtu(tunnel)).saturating_sub(overhead(tunnel, header.len()));
            return self.split(verdict, packet, room, side);
        }
        let least = if ip.is_v6() { LEAST_V6 } else { ipv4::HEADER + udp::HEADER };
        let mtu = self.inner_mtu(tunnel).max(least) as u16;
        self.error_about(packet, &ip, Problem::TooBig(mtu), ip.destination, now, side)
    }

    /// Makes an IPv4 packet that may be fragmented fit. A TCP super-packet stands for shorter
    /// segments from now on: the stream is the same. All else becomes fragments.
    fn split(
        &mut self,
        verdict: Verdict,
        packet: &mut Packet,
        room: usize,
        side: &mut Side,
    ) -> Verdict {
        let wholes = match packet.offload.segments {
            Some(segments) if segments.kind != SegmentKind::Udp => {
                let size = room.saturating_sub(usize::from(segments.header_len)).max(1) as u16;
                packet.offload.segments = Some(Segments { size, ..segments });
                return verdict;
            }
            Some(segments) => split::datagrams(packet.bytes(), segments),
            None => {
                checksum::complete(packet);
                vec![packet.to_kept()]
            }
        };
        for whole in wholes {
            let Ok(ip) = Ip::parse(whole.bytes()) else { continue };
            for piece in split::fragments(whole.bytes(), &ip, room) {
                if !side.push_packet(verdict.clone(), piece) {
                    self.counters.count_drop(DropReason::SideFull);
                }
            }
        }
        self.count(Path::Fragmented);
        Verdict::Answered
    }
}

/// Octets in front of an inner packet.
pub(super) fn overhead(tunnel: IpAddr, header: usize) -> usize {
    let outer = if tunnel.is_ipv4() { ipv4::HEADER } else { ipv6::HEADER };
    outer + udp::HEADER + header
}

/// Octets of a packet, or of the largest that a super-packet stands for.
fn size_on_wire(packet: &Packet) -> usize {
    packet.offload.segments.map_or(packet.len(), |segments| {
        packet.len().min(usize::from(segments.header_len) + usize::from(segments.size))
    })
}
