//! The packet pipeline with tables that have something in them: no bytes may make it panic, and what
//! leaves it is a packet.
//!
//! ```text
//! input:  ┌──────────────┬────────┬────────┬──────────────┬────────┬─────
//!         │ length, 2    │ how, 1 │ bytes  │ length, 2    │ how, 1 │ …      at most 32 packets
//!         └──────────────┴────────┴────────┴──────────────┴────────┴─────
//! ```
//! `how` chooses the checksum's form, the tunnel's sender, the clock's step, and the verdict on parked packets.

use std::{net::IpAddr, time::Duration};

use pias_datapath::{
    limits::Limits,
    packet::{Checksum, Packet},
    pipeline::{Pipeline, PipelineConfig, Side, Verdict},
};
use pias_protocol::{
    forwarding::{ForwardingEvent, ForwardingUpdate, IngressEntry, RelayHow, Target, TargetState},
    geneve::Header,
    group::{GroupKey, Protocol},
    ids::{ParkedId, ProxyId, TargetId},
    placement::Candidate,
    time::Time,
};

const SELF: ProxyId = ProxyId(1);
const PEER: ProxyId = ProxyId(2);
const PACKETS: usize = 32;

/// Packets that the kernel routed into the TUN device.
pub fn packet_tun(input: &[u8]) {
    run(input, |pipeline, how, bytes, now, side| {
        let mut packet = Packet::from_bytes(bytes);
        if how & 1 != 0 {
            packet.offload.checksum =
                Checksum::Partial { start: 20, offset: if how & 2 != 0 { 16 } else { 6 } };
        }
        let verdict = pipeline.from_tun(&mut packet, now, side);
        check(&verdict, &packet);
    });
}

/// Datagrams that arrived at the tunnel port.
pub fn packet_tunnel(input: &[u8]) {
    run(input, |pipeline, how, bytes, now, side| {
        let Ok((header, inner)) = Header::parse(bytes) else { return };
        let sender = if how & 1 != 0 { "198.51.100.12" } else { "2001:db8:1::66" };
        let mut packet = Packet::from_bytes(inner);
        let verdict = pipeline.from_tunnel(address(sender), &header, &mut packet, now, side);
        check(&verdict, &packet);
    });
}

fn run(mut input: &[u8], mut feed: impl FnMut(&mut Pipeline, u8, &[u8], Time, &mut Side)) {
    let mut now = Time::from_micros(1_000_000);
    let mut side = Side::default();
    let mut pipeline = pipeline(now, &mut side);
    for _ in 0..PACKETS {
        let Some(([high, low, how], rest)) = input.split_first_chunk::<3>() else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (bytes, behind) = rest.split_at(length);
        input = behind;
        feed(&mut pipeline, *how, bytes, now, &mut side);
        answer_parked(&mut pipeline, *how, now, &mut side);
        for (verdict, packet) in side.packets.drain(..) {
            check(&verdict, &packet);
        }
        now = now + Duration::from_millis(u64::from(how >> 4) * 200);
        pipeline.tick(now, &mut side);
    }
}

/// What leaves for the device or a peer starts with the header of IPv4 or IPv6.
fn check(verdict: &Verdict, packet: &Packet) {
    if matches!(verdict, Verdict::Tun | Verdict::Peer { .. }) {
        let version = packet.bytes().first().map(|octet| octet >> 4);
        assert!(matches!(version, Some(4 | 6)), "{verdict:?}: version {version:?}");
    }
}

fn answer_parked(pipeline: &mut Pipeline, how: u8, now: Time, side: &mut Side) {
    let events = std::mem::take(&mut side.events);
    for parked in events.iter().filter_map(parked) {
        let update = match (how >> 2) & 3 {
            0 => ForwardingUpdate::Deliver { parked },
            1 => ForwardingUpdate::Refuse { parked },
            2 => ForwardingUpdate::Relay { parked, to: PEER, how: RelayHow::Join },
            _ => {
                let how = RelayHow::Resolve { tried: Some(SELF) };
                ForwardingUpdate::Relay { parked, to: PEER, how }
            }
        };
        pipeline.apply(update, now, side);
    }
}

const fn parked(event: &ForwardingEvent) -> Option<ParkedId> {
    match event {
        ForwardingEvent::Missed { parked, .. }
        | ForwardingEvent::Resolve { parked, .. }
        | ForwardingEvent::SecondChance { parked, .. } => Some(*parked),
        _ => None,
    }
}

/// Groups on port 53 are served here, on port 80 by a peer, on port 81 resolved, on port 82 by nobody.
fn pipeline(now: Time, side: &mut Side) -> Pipeline {
    let mut pipeline = Pipeline::new(PipelineConfig {
        self_id: SELF,
        anycast: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()],
        nat: vec![address("192.0.2.11"), address("2001:db8:2::11")],
        unicast: vec![address("198.51.100.11")],
        underlay_mtu: 1500,
        limits: Limits::default(),
        seed: 7,
    });
    let mut apply = |update| pipeline.apply(update, now, side);
    apply(ForwardingUpdate::Peer { id: PEER, tunnel: address("198.51.100.12") });
    let services = [("203.0.113.10", "10.0.0.2"), ("2001:db8:a::10", "2001:db8:c::2")];
    for (service, at) in services {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let group = |port| GroupKey { address: address(service), port, protocol };
            let to = |proxy| vec![Candidate { proxy, tier: 0, weight: 1 }];
            let entries = [
                (53, IngressEntry::Candidates(to(SELF))),
                (80, IngressEntry::Candidates(to(PEER))),
                (81, IngressEntry::Rendezvous(PEER)),
                (82, IngressEntry::Refuse),
            ];
            for (port, entry) in entries {
                apply(ForwardingUpdate::Ingress { group: group(port), entry });
            }
            apply(ForwardingUpdate::Target(Target {
                id: TargetId(u64::from(protocol.number())),
                group: group(53),
                address: (address(at), 53).into(),
                weight: 1,
                state: TargetState::Up,
            }));
        }
    }
    side.events.clear();
    side.packets.clear();
    pipeline
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
