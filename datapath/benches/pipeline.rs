//! What one packet costs in the pipeline, without I/O: known flows, among many others.

use std::{hint::black_box, net::SocketAddr};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pias_datapath::{
    limits::Limits,
    packet::Packet,
    pipeline::{Pipeline, PipelineConfig, Side, Verdict},
};
use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry, Target, TargetState},
    geneve::{Header, Inner},
    ids::{ProxyId, TargetId},
    placement::Candidate,
    time::Time,
};

const NOW: Time = Time::from_micros(1_000_000);
const FLOWS: u16 = 20_000;
const AA: &str = "203.0.113.10:53";
const TARGET: &str = "10.0.0.1:5353";
const PEER: ProxyId = ProxyId(2);

fn pipeline(jap: ProxyId) -> Pipeline {
    let mut pipeline = Pipeline::new(PipelineConfig {
        self_id: ProxyId(1),
        anycast: vec!["203.0.113.0/24".parse().unwrap()],
        nat: vec!["192.0.2.200".parse().unwrap()],
        unicast: vec!["198.51.100.1".parse().unwrap()],
        underlay_mtu: 1500,
        limits: Limits::default(),
        seed: 7,
    });
    let group = format!("{AA}/udp").parse().unwrap();
    let candidate = Candidate { proxy: jap, tier: 0, weight: 1 };
    let updates = [
        ForwardingUpdate::Peer { id: PEER, tunnel: "198.51.100.2".parse().unwrap() },
        ForwardingUpdate::Ingress { group, entry: IngressEntry::Candidates(vec![candidate]) },
        ForwardingUpdate::Target(Target {
            id: TargetId(1),
            group,
            address: TARGET.parse().unwrap(),
            weight: 1,
            state: TargetState::Up,
        }),
    ];
    for update in updates {
        pipeline.apply(update, NOW, &mut Side::default());
    }
    pipeline
}

fn datagram(from: SocketAddr, to: SocketAddr) -> Packet {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { panic!("IPv4") };
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 60)
        .udp(from.port(), to.port())
        .write(&mut bytes, &[7; 64])
        .unwrap();
    Packet::from_bytes(&bytes)
}

fn question(flow: u16) -> Packet {
    datagram(SocketAddr::new("192.0.2.1".parse().unwrap(), 1 + flow), AA.parse().unwrap())
}

fn nat_source(packet: &Packet) -> SocketAddr {
    let bytes = packet.bytes();
    let address: [u8; 4] = bytes[12..16].try_into().unwrap();
    SocketAddr::new(address.into(), u16::from_be_bytes([bytes[20], bytes[21]]))
}

/// Runs `step` over packets of known flows, one after another.
fn measure(
    criterion: &mut Criterion,
    name: &str,
    packets: &[Packet],
    mut step: impl FnMut(&mut Packet) -> Verdict,
) {
    let mut next = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter_batched_ref(
            || {
                next = (next + 7_919) % packets.len();
                packets[next].clone()
            },
            |packet| black_box(step(packet)),
            BatchSize::LargeInput,
        );
    });
}

fn benches(criterion: &mut Criterion) {
    let questions: Vec<Packet> = (0..FLOWS).map(question).collect();

    let mut ingress = pipeline(PEER);
    let mut side = Side::default();
    for packet in &questions {
        ingress.from_tun(&mut packet.clone(), NOW, &mut side);
    }
    side.clear();
    measure(criterion, "ingress, known flow", &questions, |packet| {
        ingress.from_tun(packet, NOW, &mut side)
    });

    let mut join = pipeline(ProxyId(1));
    let header = Header { inner: Inner::Ipv4, option: None };
    let peer = "198.51.100.2".parse().unwrap();
    let answers: Vec<Packet> = questions
        .iter()
        .map(|packet| {
            let mut packet = packet.clone();
            join.from_tunnel(peer, &header, &mut packet, NOW, &mut side);
            datagram(TARGET.parse().unwrap(), nat_source(&packet))
        })
        .collect();
    side.clear();
    measure(criterion, "join, known flow", &questions, |packet| {
        join.from_tunnel(peer, &header, packet, NOW, &mut side)
    });
    measure(criterion, "return, known flow", &answers, |packet| {
        join.from_tun(packet, NOW, &mut side)
    });
}

criterion_group!(pipeline_benches, benches);
criterion_main!(pipeline_benches);
