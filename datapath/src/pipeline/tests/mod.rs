//! Scenarios: packets in, verdicts and packets out.

mod errors;
mod fragments;
mod hairpin;
mod hand_over;
mod health;
mod heirs;
mod hostile;
mod icmp;
mod ingress;
mod join;
mod mappings;
mod mtu;
mod returning;
mod standby;
mod succession;

use std::{net::IpAddr, time::Duration};

use pias_protocol::{
    forwarding::{ForwardingEvent, ForwardingUpdate, IngressEntry, Target, TargetState},
    geneve::{Flags, Header, Inner, PiasOption},
    group::GroupKey,
    hash::FlowKey,
    ids::{ParkedId, ProxyId, TargetId},
    placement::Candidate,
    time::Time,
};

use super::*;
pub(super) use crate::testing::{self, addr, sock};

pub(super) const SELF: ProxyId = ProxyId(1);
pub(super) const OTHER: ProxyId = ProxyId(2);
pub(super) const THIRD: ProxyId = ProxyId(3);
pub(super) const OTHER_TUNNEL: &str = "198.51.100.2";
pub(super) const THIRD_TUNNEL: &str = "198.51.100.3";
pub(super) const CLIENT: &str = "192.0.2.1:40000";
pub(super) const CLIENT6: &str = "[2001:db8:c::1]:40000";
pub(super) const DNS: &str = "203.0.113.10:53";
pub(super) const WEB: &str = "203.0.113.10:80";
pub(super) const WEB6: &str = "[2001:db8:a::10]:80";

/// A pipeline under a clock that the test turns.
pub(super) struct Proxy {
    pub(super) pipeline: Pipeline,
    pub(super) side: Side,
    pub(super) now: Time,
}

pub(super) fn config() -> PipelineConfig {
    PipelineConfig {
        self_id: SELF,
        anycast: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()],
        nat: vec![addr("192.0.2.200"), addr("2001:db8:2::1")],
        unicast: vec![addr("198.51.100.1"), addr("2001:db8:1::1")],
        underlay_mtu: 1500,
        limits: Limits::default(),
        seed: 7,
    }
}

impl Proxy {
    /// A proxy with two live peers.
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    /// A proxy of this configuration with two live peers.
    pub(super) fn with(config: PipelineConfig) -> Self {
        let mut proxy = Self {
            pipeline: Pipeline::new(config),
            side: Side::default(),
            now: Time::from_micros(1_000_000),
        };
        proxy.apply(ForwardingUpdate::Peer { id: OTHER, tunnel: addr(OTHER_TUNNEL) });
        proxy.apply(ForwardingUpdate::Peer { id: THIRD, tunnel: addr(THIRD_TUNNEL) });
        proxy
    }

    pub(super) fn apply(&mut self, update: ForwardingUpdate) {
        self.pipeline.apply(update, self.now, &mut self.side);
    }

    pub(super) fn tun(&mut self, packet: &mut Packet) -> Verdict {
        self.pipeline.from_tun(packet, self.now, &mut self.side)
    }

    pub(super) fn tunnel(
        &mut self,
        from: &str,
        option: Option<PiasOption>,
        packet: &mut Packet,
    ) -> Verdict {
        let v6 = packet.bytes().first().is_some_and(|first| first >> 4 == 6);
        let inner = if v6 { Inner::Ipv6 } else { Inner::Ipv4 };
        let header = Header { inner, option };
        self.pipeline.from_tunnel(addr(from), &header, packet, self.now, &mut self.side)
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.pipeline.tick(self.now, &mut self.side);
    }

    pub(super) fn candidates(&mut self, group: &str, proxies: &[ProxyId]) {
        let list = proxies.iter().map(|&proxy| Candidate { proxy, tier: 0, weight: 1 }).collect();
        self.entry(group, IngressEntry::Candidates(list));
    }

    pub(super) fn entry(&mut self, group: &str, entry: IngressEntry) {
        self.apply(ForwardingUpdate::Ingress { group: group.parse().unwrap(), entry });
    }

    pub(super) fn target(&mut self, id: u64, group: &str, address: &str, state: TargetState) {
        let group: GroupKey = group.parse().unwrap();
        let target = Target { id: TargetId(id), group, address: sock(address), weight: 1, state };
        self.apply(ForwardingUpdate::Target(target));
    }

    pub(super) fn events(&mut self) -> Vec<ForwardingEvent> {
        std::mem::take(&mut self.side.events)
    }

    pub(super) fn packets(&mut self) -> Vec<(Verdict, Packet)> {
        std::mem::take(&mut self.side.packets)
    }

    /// The one packet that left beside.
    pub(super) fn packet(&mut self) -> (Verdict, Packet) {
        let mut packets = self.packets();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// The one packet that waits.
    pub(super) fn parked(&mut self) -> ParkedId {
        let events = self.events();
        let parked: Vec<ParkedId> = events
            .iter()
            .filter_map(|event| match *event {
                ForwardingEvent::Missed { parked, .. }
                | ForwardingEvent::Resolve { parked, .. }
                | ForwardingEvent::SecondChance { parked, .. } => Some(parked),
                _ => None,
            })
            .collect();
        assert_eq!(parked.len(), 1, "{events:?}");
        parked[0]
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.pipeline.counters().drops(reason)
    }

    pub(super) fn path(&self, path: Path) -> u64 {
        self.pipeline.counters().path(path)
    }

    /// Delivers a client's packet to the one target here; returns what the target sees as source.
    pub(super) fn delivered(&mut self, packet: &mut Packet) -> std::net::SocketAddr {
        assert_eq!(self.tun(packet), Verdict::Tun);
        transport(packet).source
    }
}

pub(super) fn direct(tunnel: &str) -> impl Fn(&Verdict) -> bool {
    let expected = addr(tunnel);
    move |verdict| {
        matches!(verdict, Verdict::Peer { tunnel, header, .. }
            if *tunnel == expected && header.option.is_none())
    }
}

pub(super) fn option(verdict: &Verdict) -> (IpAddr, PiasOption) {
    match verdict {
        Verdict::Peer { tunnel, header: Header { option: Some(option), .. }, .. } => {
            (*tunnel, *option)
        }
        other => panic!("no tunnel packet with an option: {other:?}"),
    }
}

pub(super) fn resolve(flags: Flags, hops: u8, ingress: &str) -> Option<PiasOption> {
    Some(PiasOption { flags, hops, ingress: addr(ingress) })
}

pub(super) fn transport(packet: &Packet) -> crate::classify::Transport {
    match View::parse(packet.bytes()).unwrap().kind {
        Kind::Transport(transport) => transport,
        other => panic!("{other:?}"),
    }
}
