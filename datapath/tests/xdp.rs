//! XDP and user space together do what user space alone does: the same verdicts, the same octets.
//!
//! Two pipelines are told the same. One, the reference, handles every packet. The other handles what
//! XDP passes up, and shares its tables with it. What leaves must be the same, packet for packet.

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "support/hosts.rs"]
#[allow(dead_code, reason = "links are the engine tests'")]
mod hosts;
#[path = "support/xdp_join.rs"]
mod join;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};

use aya::{TestRunOptions, programs::TestRun};
use etherparse::{PacketBuilder, TcpHeader};
use fixtures::{Arrival, NOW, all, arrival, config, to_hex, update};
use hosts::{Host, privileged, wait_for};
use pias_datapath::{
    checksum,
    counters::Path,
    drop_reason::DropReason,
    flow::ingress::PinRecord,
    limits::Limits,
    pipeline::{Has, Pipeline, Side},
    wire::ip::Ip,
    xdp::{
        Program, Setup, Tables, Touched, Vlan,
        layout::{Device, Mode, TARGETS_DRAWN},
    },
};
use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry, Target, TargetState},
    geneve::{self, Flags, Inner, PiasOption},
    group::{GroupKey, Protocol},
    hash::FlowKey,
    ids::{ProxyId, TargetId},
    placement::Candidate,
    time::Time,
};
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};

const DROP: u32 = 1;
const PASS: u32 = 2;
const TRANSMIT: u32 = 3;
const REDIRECT: u32 = 4;
/// Sequences of packets and updates that are tried.
const CASES: u32 = 64;
/// The ports that tunnel packets leave from.
const FIRST_PORT: u16 = 50_000;
/// Frames to peers carry this destination.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// And this source.
const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Frames to this host come in by this interface, with this destination.
const LOOPBACK: u32 = 1;
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A host whose peers' next hops are known, so that XDP can send to them.
fn host() -> Host {
    let host = Host::new("xdp");
    host.ip("link add near address 02:00:00:00:00:03 type veth peer name far");
    host.ip("link set near up");
    host.ip("link set far up");
    host.ip("address add 198.51.100.1/24 dev near");
    host.ip("address add 2001:db8:1::1/64 dev near nodad");
    for last in 2..8 {
        host.ip(&format!("neigh add 198.51.100.{last} lladdr 02:00:00:00:00:09 dev near"));
        host.ip(&format!("neigh add 2001:db8:1::{last} lladdr 02:00:00:00:00:09 dev near"));
    }
    // To clients.
    host.ip("route add default via 198.51.100.2");
    host.ip("route add default via 2001:db8:1::2");
    host
}

/// The interface that peers are behind.
fn near() -> u32 {
    nix::net::if_::if_nametoindex("near").unwrap()
}

/// An interface as the program is told of it.
const fn device(takes: bool) -> Device {
    Device { mac: OWN_MAC, mode: Mode::Native, bounces: false, takes }
}

/// The two pipelines, and the program in front of one of them.
struct Two {
    reference: Pipeline,
    shared: Pipeline,
    program: Program,
    tables: Tables,
    now: Time,
    /// Packets that XDP sent to peers.
    sent: u64,
    /// Packets that XDP brought to targets, and back to clients.
    translated: u64,
}

impl Two {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// With limits of its own.
    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut config = config();
        // Small tables are made sooner.
        config.limits.ingress_flows = 1 << 12;
        config.limits.nat_flows = 1 << 12;
        config.limits.members = 256;
        change(&mut config.limits);
        let ports = std::array::from_fn(|at| FIRST_PORT + at as u16);
        let setup = Setup { pipeline: &config, source_ports: [ports; 2] };
        let (program, mut tables) = Program::load(&setup).unwrap_or_else(|error| panic!("{error}"));
        tables.set_now(NOW.into());
        program.devices.set(LOOPBACK, Some(device(false)));
        program.devices.set(near(), Some(device(true)));
        let shared = Pipeline::sharing(config.clone(), tables.take_shared().unwrap()).unwrap();
        let reference = Pipeline::new(config);
        Self { reference, shared, program, tables, now: NOW, sent: 0, translated: 0 }
    }

    fn apply(&mut self, update: ForwardingUpdate) {
        let touched = Touched::by(&update);
        self.reference.apply(update.clone(), self.now, &mut Side::default());
        self.shared.apply(update, self.now, &mut Side::default());
        self.tables.follow(touched, &self.shared).unwrap();
    }

    /// Time passes.
    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.tables.set_now(self.now.into());
        self.reference.tick(self.now, &mut Side::default());
        self.shared.tick(self.now, &mut Side::default());
        for news in self.tables.news() {
            self.shared.noticed(news, self.now, &mut Side::default());
        }
    }

    /// What the reference makes of a packet.
    fn expected(&mut self, arrival: &Arrival) -> Vec<String> {
        arrival.outcome(&mut self.reference, self.now)
    }

    /// What XDP, and behind it user space, makes of a packet.
    fn outcome(&mut self, arrival: &Arrival) -> Vec<String> {
        let frame = match arrival {
            Arrival::Tun(packet) => frame(packet),
            Arrival::Tunnel(source, datagram) => Some(tunnel_frame(*source, datagram)),
        };
        if let Some(frame) = frame {
            let mut out = vec![0; 2048];
            let before = self.drops();
            let (verdict, octets) = run(&mut self.program, &frame, &mut out);
            if verdict == REDIRECT {
                return self.left(octets);
            }
            assert_eq!(octets, frame, "what is not sent is as it came");
            if verdict == DROP {
                let mut rose = self.drops().into_iter().zip(before).filter(|(now, was)| now != was);
                let ((_, reason), _) = rose.next().expect("what is dropped is counted");
                assert!(rose.next().is_none(), "once");
                return vec![format!("verdict drop {}", reason.name())];
            }
            assert_eq!(verdict, PASS, "neither sent, dropped nor passed up");
        }
        arrival.outcome(&mut self.shared, self.now)
    }

    /// A frame that XDP sent: a packet to a peer, to a target or to a client.
    fn left(&mut self, frame: &[u8]) -> Vec<String> {
        let packet = &frame[14..];
        let ip = Ip::parse(packet).unwrap();
        if config().unicast.contains(&ip.source) {
            self.sent += 1;
            return sent(frame);
        }
        self.translated += u64::from(ip.protocol != 1 && ip.protocol != 58);
        assert_eq!(frame[..6], MAC, "to the next hop");
        assert!(frame.len() <= 60.max(14 + ip.end), "no more than a short frame's padding");
        // As it would come out of the TUN device, before the kernel takes one off its TTL.
        let bytes = to_hex(&one_hop_before(&packet[..ip.end]).unwrap());
        vec!["verdict tun".to_owned(), format!("bytes {bytes}")]
    }

    fn drops(&self) -> Vec<(u64, DropReason)> {
        let drops = DropReason::ALL.iter();
        drops.map(|&reason| (self.tables.drops(reason), reason)).collect()
    }

    /// XDP and the pipeline behind it have counted what the reference has.
    fn assert_counted(&self) {
        let (shared, reference) = (self.shared.counters(), self.reference.counters());
        for &path in Path::ALL {
            let counted = shared.path(path) + self.tables.path(path);
            assert_eq!(counted, reference.path(path), "{}", path.name());
        }
        for (here, reason) in self.drops() {
            let counted = shared.drops(reason) + here;
            assert_eq!(counted, reference.drops(reason), "{}", reason.name());
        }
    }
}

fn run<'a>(program: &mut Program, frame: &[u8], out: &'a mut [u8]) -> (u32, &'a [u8]) {
    run_at(program, LOOPBACK, frame, out)
}

/// What becomes of a frame that comes in by this interface.
fn run_at<'a>(
    program: &mut Program,
    interface: u32,
    frame: &[u8],
    out: &'a mut [u8],
) -> (u32, &'a [u8]) {
    // `struct xdp_md`, of which this much is read.
    let context = [0, frame.len() as u32, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        ctx_in: Some(&context),
        data_in: Some(frame),
        data_out: Some(out),
        ..TestRunOptions::new()
    };
    let result = program.get("pias").unwrap().test_run(options).unwrap();
    (result.return_value, &out[..result.data_size_out as usize])
}

/// The frame that brought a packet to this host: the kernel took one off its TTL on the way to the TUN
/// device. `None` for what no frame brings.
fn frame(packet: &[u8]) -> Option<Vec<u8>> {
    let packet = one_hop_before(packet)?;
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xDD] };
    Some([&OWN_MAC[..], &[2, 0, 0, 0, 0, 2], &kind, &packet].concat())
}

/// The frame that brought what another proxy sent.
fn tunnel_frame(source: IpAddr, datagram: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], OWN_MAC);
    let own = config().unicast[usize::from(source.is_ipv6())];
    let builder = match (source, own) {
        (IpAddr::V4(source), IpAddr::V4(own)) => builder.ipv4(source.octets(), own.octets(), 60),
        (IpAddr::V6(source), IpAddr::V6(own)) => builder.ipv6(source.octets(), own.octets(), 60),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    builder.udp(FIRST_PORT, pias_protocol::GENEVE_PORT).write(&mut frame, datagram).unwrap();
    frame
}

/// A packet before somebody took one off its TTL.
fn one_hop_before(packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 && packet[8] < 255 => {
            packet[8] += 1;
            let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0xFEFF;
            let sum = (sum & 0xFFFF) + (sum >> 16);
            packet[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
        }
        6 if packet.len() >= 40 && packet[7] < 255 => packet[7] += 1,
        _ => return None,
    }
    Some(packet)
}

/// A frame to a peer as a fixture's lines; its outer headers are checked.
fn sent(frame: &[u8]) -> Vec<String> {
    assert_eq!(frame[..6], MAC, "to the next hop");
    let outer = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let (source, peer): (IpAddr, IpAddr) = match outer.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment && header.time_to_live == 64);
            (header.source.into_addr(), header.destination.into_addr())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.hop_limit, 64);
            (Ipv6Addr::from(header.source).into(), Ipv6Addr::from(header.destination).into())
        }
        other => panic!("{other:?}"),
    };
    let own = config().unicast[usize::from(peer.is_ipv6())];
    assert_eq!(source, own);
    let Some(etherparse::TransportSlice::Udp(udp)) = outer.transport else { panic!("no UDP") };
    assert_eq!(udp.destination_port(), pias_protocol::GENEVE_PORT);
    let payload = udp.payload();
    assert_eq!(usize::from(udp.length()), payload.len() + 8);
    let header = udp.to_header();
    let right = match (source, peer) {
        (IpAddr::V4(_), IpAddr::V4(_)) => 0,
        (IpAddr::V6(source), IpAddr::V6(peer)) => {
            header.calc_checksum_ipv6_raw(source.octets(), peer.octets(), payload).unwrap()
        }
        _ => panic!("two families"),
    };
    let (_, inner) = geneve::Header::parse(payload).unwrap();
    // Over IPv6 it is right if the inner one is: a broken packet is dropped where it arrives.
    assert_eq!(header.checksum == right, right == 0 || is_whole(inner), "{}", to_hex(inner));
    assert_eq!(udp.source_port(), FIRST_PORT + (flow(inner).hash().0 >> 32) as u16 % 64);
    vec![format!("verdict peer {peer}"), format!("bytes {}", to_hex(payload))]
}

/// Whether a packet's checksums are right.
fn is_whole(packet: &[u8]) -> bool {
    let ip = Ip::parse(packet).unwrap();
    let (header, upper) = (&packet[..ip.payload], &packet[ip.payload..ip.end]);
    let pseudo = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, upper.len());
    (ip.is_v6() || checksum::finish(header, 0) == 0) && checksum::finish(upper, pseudo) == 0
}

trait IntoAddr {
    fn into_addr(self) -> IpAddr;
}

impl IntoAddr for [u8; 4] {
    fn into_addr(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

/// The flow of an inner packet.
fn flow(packet: &[u8]) -> FlowKey {
    let view = pias_datapath::classify::View::parse(packet).unwrap();
    let pias_datapath::classify::Kind::Transport(transport) = view.kind else { panic!("{view:?}") };
    let (address, port) = (transport.destination.ip(), transport.destination.port());
    let group = GroupKey { address, port, protocol: transport.protocol };
    FlowKey { client: transport.source, group }
}

#[test]
fn every_fixture_ends_alike_with_and_without_xdp() {
    if !privileged() {
        return;
    }
    let sent: u64 = host().run(|| {
        all()
            .into_iter()
            .map(|(path, text)| {
                let mut two = Two::new();
                for line in text.lines() {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    if let Some(update) = update(&words) {
                        two.apply(update);
                    } else if let Some(arrival) = arrival(&words) {
                        let expected = two.expected(&arrival);
                        assert_eq!(two.outcome(&arrival), expected, "{}: {line}", path.display());
                    }
                }
                two.assert_counted();
                assert_eq!(two.tables.path(Path::IngressDirect), two.sent, "{}", path.display());
                two.sent
            })
            .sum()
    });
    assert!(sent >= 5, "XDP sent {sent} packets of all fixtures: it passes everything up");
}

/// A proxy whose groups are served by the peer 2, and frames of new flows to the first group.
fn with_peer() -> (Two, impl FnMut() -> Vec<u8>) {
    let mut two = Two::new();
    two.apply(peer(ProxyId(2)));
    let candidate = Candidate { proxy: ProxyId(2), tier: 0, weight: 1 };
    let entry = IngressEntry::Candidates(vec![candidate]);
    two.apply(ForwardingUpdate::Ingress { group: group(0), entry });
    let mut port = 1000;
    let next = move || {
        port += 1;
        let (client, oddity) = (Client::Host(1), Oddity::None);
        let sent = Sent { group: 0, client, port, flags: 0, ttl: 60, payload: 9, oddity };
        frame(&sent.bytes()).unwrap()
    };
    (two, next)
}

#[test]
fn a_group_in_use_is_told_of_once_a_second() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        let mut used_by_next = |two: &mut Two| {
            assert_eq!(run(&mut two.program, &next(), &mut [0; 2048]).0, REDIRECT);
            two.tables.used()
        };
        assert_eq!(used_by_next(&mut two), [group(0)]);
        assert_eq!(used_by_next(&mut two), []);
        two.tables.set_now((NOW + Duration::from_secs(2)).into());
        assert_eq!(used_by_next(&mut two), [group(0)]);
    });
}

#[test]
fn a_next_hop_is_looked_up_again_when_routes_have_changed() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        let mut to = |two: &mut Two| -> [u8; 6] {
            let mut out = [0; 2048];
            let (verdict, octets) = run(&mut two.program, &next(), &mut out);
            assert_eq!(verdict, REDIRECT);
            octets[..6].try_into().unwrap()
        };
        assert_eq!(to(&mut two), MAC);
        let words = "neigh replace 198.51.100.2 lladdr 02:00:00:00:00:0a dev near";
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
        assert_eq!(to(&mut two), MAC, "as it was found before");
        two.tables.routes_changed();
        assert_eq!(to(&mut two), [2, 0, 0, 0, 0, 10]);
    });
}

#[test]
fn echo_requests_are_answered_at_the_rate_of_the_pipeline_and_no_more() {
    if !privileged() {
        return;
    }
    host().run(|| {
        for v6 in [false, true] {
            let mut two = Two::new();
            let (kind, oddity) = (if v6 { 128 } else { 8 }, Oddity::None);
            let (client, code, to_nat, ttl, payload) = (Client::Host(1), 0, false, 60, 56);
            let echo = Message { v6, client, to_nat, kind, code, ttl, payload, oddity };
            let arrival = Arrival::Tun(echo.bytes());
            let (_, at_once) = pias_datapath::limits::rates::ECHO;
            for at in 0..at_once + 2 {
                let expected = two.expected(&arrival);
                assert_eq!(two.outcome(&arrival), expected, "echo {at}");
            }
            assert_eq!(two.tables.path(Path::Echo), at_once);
            assert_eq!(two.tables.drops(DropReason::RateLimited), 2);
            // Half a second later, in the coarse time that XDP has.
            two.tables.set_now((NOW + Duration::from_millis(500)).into());
            let next = (0..at_once + 2).filter(|_| two.outcome(&arrival).len() == 2).count();
            assert!((950..1000).contains(&next), "{next} in half a second");
        }
    });
}

#[test]
fn what_nobody_wants_goes_no_further() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, _) = with_peer();
        let (client, oddity) = (Client::Host(1), Oddity::None);
        let good = Sent { group: 0, client, port: 9, flags: 0, ttl: 60, payload: 9, oddity };
        for (reason, bad) in [
            (DropReason::BadSource, Sent { client: Client::Anycast, ..good.clone() }),
            (DropReason::BadSource, Sent { client: Client::Nat, group: 2, ..good.clone() }),
            (DropReason::BadSource, Sent { client: Client::Nobody, ..good.clone() }),
            (DropReason::PortZero, Sent { port: 0, group: 3, ..good.clone() }),
            (DropReason::Malformed, Sent { oddity: Oddity::Cut(1), ..good.clone() }),
        ] {
            let frame = frame(&bad.bytes()).unwrap();
            let before = two.tables.drops(reason);
            assert_eq!(run(&mut two.program, &frame, &mut [0; 2048]).0, DROP, "{bad:?}");
            assert_eq!(two.tables.drops(reason), before + 1, "{bad:?}");
            // The same to somebody else is the kernel's.
            let mut other = frame;
            let destination = if other[12..14] == [8, 0] { 30..34 } else { 38..54 };
            other[destination].fill(9);
            assert_eq!(run(&mut two.program, &other, &mut [0; 2048]).0, PASS, "{bad:?}");
        }
    });
}

#[test]
fn what_piasd_does_not_vouch_for_is_not_used() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        two.tables.vouch(Duration::from_millis(100));
        assert_eq!(run(&mut two.program, &next(), &mut [0; 2048]).0, REDIRECT);
        wait_for("the program to give up", || {
            (run(&mut two.program, &next(), &mut [0; 2048]).0 == PASS).then_some(())
        });
        two.tables.vouch(Duration::from_secs(60));
        assert_eq!(run(&mut two.program, &next(), &mut [0; 2048]).0, REDIRECT);
    });
}

/// What carries the tag of a VLAN, with a priority.
fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    let control = (0x6000 | tag).to_be_bytes();
    [&frame[..12], &[0x81, 0, control[0], control[1]], &frame[12..]].concat()
}

#[test]
fn frames_of_a_vlan_are_taken_where_piasd_has_told_of_it() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        let vlan = Vlan { index: 77, name: "lo.7".to_owned(), mac: [2, 0, 0, 0, 0, 7], tag: 7 };
        let mut to_vlan = |two: &mut Two, tag| {
            let mut frame = tagged(&next(), tag);
            frame[5] = 7;
            let mut out = [0; 2048];
            let (verdict, octets) = run(&mut two.program, &frame, &mut out);
            if verdict == PASS {
                assert_eq!(octets, frame, "what is passed up is as it came");
            } else {
                assert_eq!(octets[..14], [&MAC[..], &NEAR_MAC, &[8, 0]].concat(), "untagged");
            }
            verdict
        };
        assert_eq!(to_vlan(&mut two, 7), PASS, "nothing is known of it");
        two.program.devices.set_vlan(LOOPBACK, &vlan, Some(device(false))).unwrap();
        assert_eq!(to_vlan(&mut two, 7), REDIRECT);
        assert_eq!(to_vlan(&mut two, 8), PASS, "another VLAN");
        two.program.devices.set_vlan(LOOPBACK, &vlan, None).unwrap();
        assert_eq!(to_vlan(&mut two, 7), PASS, "it is not XDP's any more");

        // A frame of the VLAN that XDP has no answer to is tagged again.
        two.program.devices.set_vlan(LOOPBACK, &vlan, Some(device(false))).unwrap();
        two.apply(ForwardingUpdate::IngressForget(group(0)));
        assert_eq!(to_vlan(&mut two, 7), PASS);
    });
}

#[test]
fn what_leaves_by_a_vlan_carries_its_tag() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        let echo = Message {
            v6: true,
            client: Client::Host(1),
            to_nat: false,
            kind: 128,
            code: 0,
            ttl: 60,
            payload: 56,
            oddity: Oddity::None,
        };
        let echo = frame(&echo.bytes()).unwrap();
        let untagged = [next(), echo.clone()].map(|frame| {
            let mut out = [0; 2048];
            let (verdict, octets) = run(&mut two.program, &frame, &mut out);
            assert_eq!(verdict, REDIRECT);
            octets.to_vec()
        });
        // The kernel's routes lead to `near`: say that it is the device of a VLAN on the loopback, by which
        // then all leaves that came in there.
        let vlan = Vlan { index: near(), name: "near".to_owned(), mac: NEAR_MAC, tag: 7 };
        let below = Device { bounces: true, ..device(false) };
        two.program.devices.set(LOOPBACK, Some(below));
        two.program.devices.set_vlan(LOOPBACK, &vlan, Some(below)).unwrap();
        two.tables.routes_changed();
        for (frame, untagged) in [next(), echo].into_iter().zip(untagged) {
            for arrives in [frame.clone(), {
                let mut tagged = tagged(&frame, 7);
                tagged[..6].copy_from_slice(&NEAR_MAC);
                tagged
            }] {
                let mut out = [0; 2048];
                let (verdict, octets) = run(&mut two.program, &arrives, &mut out);
                assert_eq!(verdict, TRANSMIT);
                assert_eq!(octets[12..16], [0x81, 0, 0, 7]);
                // Of another flow, so its source port is another.
                let (headers, rest) = (&untagged[..12], &untagged[12..26]);
                assert_eq!((&octets[..12], &octets[16..30]), (headers, rest));
                assert_eq!(octets.len(), untagged.len() + 4);
            }
        }
    });
}

#[test]
fn frames_to_another_host_are_not_taken() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        let mut frame = next();
        frame[5] ^= 1;
        assert_eq!(run(&mut two.program, &frame, &mut [0; 2048]).0, PASS);
    });
}

#[test]
fn what_an_interface_cannot_send_is_passed_up() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        let mut verdict = |two: &mut Two| run(&mut two.program, &next(), &mut [0; 2048]).0;
        two.program.devices.set(near(), Some(device(false)));
        assert_eq!(verdict(&mut two), PASS, "its driver takes no frames");
        two.program.devices.set(near(), None);
        assert_eq!(verdict(&mut two), PASS, "nothing is known of it");
        two.program.devices.set(near(), Some(Device { mode: Mode::Generic, ..device(false) }));
        assert_eq!(verdict(&mut two), PASS, "nor does it for a driver's frames");
        two.program.devices.set(LOOPBACK, Some(Device { mode: Mode::Generic, ..device(false) }));
        assert_eq!(verdict(&mut two), REDIRECT, "the kernel's networking sends them");
        assert_eq!(two.tables.path(Path::IngressDirect), 1, "what is passed up is not counted");
    });
}

#[test]
fn what_leaves_by_the_interface_that_it_came_in_by_is_sent_as_that_allows() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, mut next) = with_peer();
        for (bounces, takes, expected) in [
            (true, true, TRANSMIT),
            (true, false, TRANSMIT),
            (false, true, REDIRECT),
            (false, false, PASS),
        ] {
            two.program.devices.set(near(), Some(Device { bounces, takes, ..device(false) }));
            let (verdict, _) = run_at(&mut two.program, near(), &next(), &mut [0; 2048]);
            assert_eq!(verdict, expected, "{bounces} {takes}");
        }
    });
}

#[test]
fn packets_that_are_too_long_for_the_route_are_passed_up() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let (mut two, _) = with_peer();
        let verdict = |two: &mut Two, payload| {
            let (client, oddity) = (Client::Host(1), Oddity::None);
            let sent = Sent { group: 0, client, port: 7, flags: 0, ttl: 60, payload, oddity };
            let frame = frame(&sent.bytes()).unwrap();
            run(&mut two.program, &frame, &mut [0; 2048]).0
        };
        assert_eq!(verdict(&mut two, 1300), REDIRECT);
        let words = "route add 198.51.100.2 dev near mtu lock 1300";
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
        two.tables.routes_changed();
        assert_eq!(verdict(&mut two, 1300), PASS, "the next hop is looked up");
        assert_eq!(verdict(&mut two, 9), REDIRECT);
        assert_eq!(verdict(&mut two, 1300), PASS, "the next hop is known");
    });
}

/// The programs as this compiler makes them; `None` where it is not installed.
fn compiled_by(clang: &str) -> Option<Vec<u8>> {
    let bpf = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/pias.bpf.c");
    let object = format!("{}/{clang}.o", env!("CARGO_TARGET_TMPDIR"));
    let output = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", bpf])
        .args(["-o", &object])
        .output()
        .ok()?;
    assert!(output.status.success(), "{clang}: {}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(object).unwrap())
}

#[test]
fn the_verifier_accepts_what_old_and_new_compilers_make() {
    if !privileged() {
        return;
    }
    for clang in ["clang-14", "clang-19"] {
        let Some(object) = compiled_by(clang) else {
            assert!(std::env::var_os("CI").is_none(), "CI must have {clang}");
            eprintln!("skipped: {clang} is not installed");
            continue;
        };
        let config = config();
        let setup = Setup { pipeline: &config, source_ports: [[FIRST_PORT; 64]; 2] };
        let (mut program, _tables) = Program::load_object(&object, &setup)
            .unwrap_or_else(|error| panic!("{clang}: {error}"));
        let size = program.size("pias").unwrap();
        println!("{clang}: {size:?}");
        assert!(size.verified < 500_000, "the verifier gives up at twice that: {clang}: {size:?}");
    }
}

/// A packet to a group, by parts that generators choose.
#[derive(Clone, Debug)]
struct Sent {
    group: usize,
    client: Client,
    port: u16,
    flags: u8,
    ttl: u8,
    payload: usize,
    oddity: Oddity,
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
enum Client {
    /// One of several hosts.
    Host(u8),
    /// Somebody who says that he is an anycast address.
    Anycast,
    /// Somebody who says that he is this proxy's NAT address.
    Nat,
    /// Somebody whose address is no host's.
    Nobody,
}

impl Client {
    fn v4(self) -> [u8; 4] {
        match self {
            Self::Host(last) => [192, 0, 2, last],
            Self::Anycast => [203, 0, 113, 99],
            Self::Nat => [192, 0, 2, 200],
            Self::Nobody => [127, 0, 0, 1],
        }
    }

    fn v6(self) -> [u8; 16] {
        let address = match self {
            Self::Host(last) => format!("2001:db8:77::{last}"),
            Self::Anycast => "2001:db8:a::99".to_owned(),
            Self::Nat => "2001:db8:2::1".to_owned(),
            Self::Nobody => "::ffff:192.0.2.1".to_owned(),
        };
        address.parse::<Ipv6Addr>().unwrap().octets()
    }
}

/// What is strange about a packet.
#[derive(Clone, Debug)]
enum Oddity {
    /// Nothing.
    None,
    /// An octet of its headers is another.
    Octet(usize, u8),
    /// Its end is missing.
    Cut(usize),
    /// A short frame's padding follows it.
    Padding(usize),
    /// A UDP datagram without a checksum.
    Unsummed,
}

/// What happens to the two.
#[derive(Clone, Debug)]
enum Step {
    /// A client's packet.
    Packet(Sent),
    /// A message of ICMP.
    Message(Message),
    /// A peer says that it has the flow of this packet.
    Notice(ProxyId, Sent),
    /// The overlay says something.
    Update(ForwardingUpdate),
}

const GROUPS: [&str; 4] = [
    "203.0.113.10:53/udp",
    "203.0.113.10:80/tcp",
    "[2001:db8:a::10]:53/udp",
    "[2001:db8:a::10]:80/tcp",
];

fn group(index: usize) -> GroupKey {
    GROUPS[index].parse().unwrap()
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let group = group(self.group);
        let payload = vec![7; self.payload];
        let (from, to) = (self.port, group.port);
        let step = match group.address {
            IpAddr::V4(to) => PacketBuilder::ipv4(self.client.v4(), to.octets(), self.ttl),
            IpAddr::V6(to) => PacketBuilder::ipv6(self.client.v6(), to.octets(), self.ttl),
        };
        let mut bytes = Vec::new();
        if group.protocol == Protocol::Udp {
            step.udp(from, to).write(&mut bytes, &payload).unwrap();
        } else {
            let mut header = TcpHeader::new(from, to, 1, 64_000);
            header.fin = self.flags & 1 != 0;
            header.syn = self.flags & 2 != 0;
            header.rst = self.flags & 4 != 0;
            header.ack = self.flags & 16 != 0;
            step.tcp_header(header).write(&mut bytes, &payload).unwrap();
        }
        self.oddity.apply(&mut bytes, group.protocol == Protocol::Udp);
        bytes
    }
}

impl Oddity {
    fn apply(&self, bytes: &mut Vec<u8>, udp: bool) {
        let header = if bytes[0] >> 4 == 4 { 20 } else { 40 };
        match *self {
            Self::None => {}
            Self::Octet(at, value) => bytes[at % (header + 20).min(header + 8)] ^= value,
            Self::Cut(octets) => bytes.truncate(bytes.len().saturating_sub(octets).max(1)),
            Self::Padding(octets) => bytes.extend(vec![0; octets]),
            Self::Unsummed if udp => bytes[header + 6..header + 8].fill(0),
            Self::Unsummed => {}
        }
    }
}

fn oddities() -> impl Strategy<Value = Oddity> {
    prop_oneof![
        6 => Just(Oddity::None),
        2 => (0..60_usize, 1..=255_u8).prop_map(|(at, value)| Oddity::Octet(at, value)),
        1 => (1..50_usize).prop_map(Oddity::Cut),
        1 => (1..20_usize).prop_map(Oddity::Padding),
        1 => Just(Oddity::Unsummed),
    ]
}

fn clients() -> impl Strategy<Value = Client> {
    prop_oneof![
        20 => (1..6_u8).prop_map(Client::Host),
        1 => Just(Client::Anycast),
        1 => Just(Client::Nat),
        1 => Just(Client::Nobody),
    ]
}

fn sent_by_clients() -> impl Strategy<Value = Sent> {
    let flags = prop_oneof![Just(2_u8), Just(16), Just(17), Just(4), Just(18)];
    let ttl = prop_oneof![8 => Just(60_u8), 1 => 1..4_u8];
    let payload = prop_oneof![8 => 0..40_usize, 1 => 1380..1460_usize];
    let port = prop_oneof![40 => 1000..1006_u16, 1 => Just(0)];
    (0..GROUPS.len(), clients(), port, flags, ttl, payload, oddities()).prop_map(
        |(group, client, port, flags, ttl, payload, oddity)| Sent {
            group,
            client,
            port,
            flags,
            ttl,
            payload,
            oddity,
        },
    )
}

/// A message of ICMP to one of this proxy's addresses.
#[derive(Clone, Debug)]
struct Message {
    v6: bool,
    client: Client,
    /// Whether it is to a NAT address.
    to_nat: bool,
    kind: u8,
    code: u8,
    ttl: u8,
    payload: usize,
    oddity: Oddity,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let payload = vec![7; self.payload];
        let rest = [0, 9, 0, 1];
        let mut bytes = Vec::new();
        if self.v6 {
            let to = if self.to_nat { Client::Nat } else { Client::Anycast };
            PacketBuilder::ipv6(self.client.v6(), to.v6(), self.ttl)
                .icmpv6_raw(self.kind, self.code, rest)
                .write(&mut bytes, &payload)
                .unwrap();
        } else {
            let to = if self.to_nat { Client::Nat } else { Client::Anycast };
            PacketBuilder::ipv4(self.client.v4(), to.v4(), self.ttl)
                .icmpv4_raw(self.kind, self.code, rest)
                .write(&mut bytes, &payload)
                .unwrap();
        }
        self.oddity.apply(&mut bytes, false);
        bytes
    }
}

fn messages() -> impl Strategy<Value = Message> {
    let kind = prop_oneof![
        4 => Just(8_u8),
        4 => Just(128_u8),
        1 => 0..15_u8,
        1 => 128..140_u8,
    ];
    let code = prop_oneof![9 => Just(0_u8), 1 => 0..5_u8];
    let ttl = prop_oneof![8 => Just(60_u8), 1 => 1..4_u8];
    let to_nat = prop_oneof![9 => Just(false), 1 => Just(true)];
    let payload = prop_oneof![8 => 0..60_usize, 1 => 1380..1460_usize];
    (any::<bool>(), clients(), to_nat, kind, code, ttl, payload, oddities()).prop_map(
        |(v6, client, to_nat, kind, code, ttl, payload, oddity)| Message {
            v6,
            client,
            to_nat,
            kind,
            code,
            ttl,
            payload,
            oddity,
        },
    )
}

fn updates() -> impl Strategy<Value = ForwardingUpdate> {
    let proxy = || (2..8_u64).prop_map(ProxyId);
    let candidate = ((1..8_u64).prop_map(ProxyId), 0..2_u8, prop_oneof![Just(1_u32), 1..5_u32])
        .prop_map(|(proxy, tier, weight)| Candidate { proxy, tier, weight });
    let candidates = proptest::collection::vec(candidate, 1..8).prop_map(|mut list| {
        list.sort_by_key(|candidate| candidate.proxy);
        list.dedup_by_key(|candidate| candidate.proxy);
        IngressEntry::Candidates(list)
    });
    let entry = prop_oneof![
        8 => candidates,
        1 => Just(IngressEntry::Refuse),
        1 => proxy().prop_map(IngressEntry::Rendezvous),
    ];
    let target = (0..GROUPS.len(), 1..4_u64).prop_map(|(index, id)| {
        let group = group(index);
        let host = if group.address.is_ipv4() { "10.0.0.9:5000" } else { "[2001:db8:9::9]:5000" };
        ForwardingUpdate::Target(Target {
            id: TargetId(id * 10 + index as u64),
            group,
            address: host.parse().unwrap(),
            weight: 1,
            state: TargetState::Up,
        })
    });
    prop_oneof![
        3 => proxy().prop_map(peer),
        2 => (proxy(), proptest::option::of((1..8_u64).prop_map(ProxyId)))
            .prop_map(|(id, heir)| ForwardingUpdate::PeerGone { id, heir }),
        6 => (0..GROUPS.len(), entry)
            .prop_map(|(index, entry)| ForwardingUpdate::Ingress { group: group(index), entry }),
        1 => (0..GROUPS.len()).prop_map(|index| ForwardingUpdate::IngressForget(group(index))),
        1 => target,
    ]
}

/// The tunnels of half of them are IPv6.
fn peer(id: ProxyId) -> ForwardingUpdate {
    ForwardingUpdate::Peer { id, tunnel: tunnel(id) }
}

fn tunnel(ProxyId(id): ProxyId) -> IpAddr {
    let text = if id % 2 == 0 { format!("198.51.100.{id}") } else { format!("2001:db8:1::{id}") };
    text.parse().unwrap()
}

/// Runs the steps through both; how many packets XDP sent.
fn play(steps: &[Step]) -> Result<u64, TestCaseError> {
    let mut two = Two::new();
    (2..6).for_each(|id| two.apply(peer(ProxyId(id))));
    for step in steps {
        let arrival = match step {
            Step::Update(update) => {
                two.apply(update.clone());
                continue;
            }
            Step::Packet(packet) => Arrival::Tun(packet.bytes()),
            Step::Message(message) => Arrival::Tun(message.bytes()),
            Step::Notice(from, packet) => notice(*from, packet),
        };
        let expected = two.expected(&arrival);
        prop_assert_eq!(two.outcome(&arrival), expected, "{:?}", step);
    }
    prop_assert_eq!(pins(&two.shared), pins(&two.reference));
    prop_assert_eq!(join::flows(&two.shared), join::flows(&two.reference));
    two.assert_counted();
    Ok(two.sent)
}

/// What a pipeline knows of the flows that are pinned.
fn pins(pipeline: &Pipeline) -> Vec<PinRecord> {
    let mut pins = pipeline.hand_over(Has::Nothing).pins;
    pins.sort_by_key(|pin| pin.key);
    pins
}

fn notice(from: ProxyId, packet: &Sent) -> Arrival {
    let inner = if group(packet.group).address.is_ipv4() { Inner::Ipv4 } else { Inner::Ipv6 };
    let option = PiasOption { flags: Flags::PIN, hops: 2, ingress: tunnel(from) };
    let mut header = [0; geneve::MAX_LEN];
    let length = geneve::Header { inner, option: Some(option) }.write(&mut header);
    Arrival::Tunnel(tunnel(from), [&header[..length], &packet.bytes()].concat())
}

/// Plays sequences of steps of these lengths; `play` says how many packets XDP sent.
fn at_random<S: std::fmt::Debug>(
    step: impl Strategy<Value = S>,
    lengths: std::ops::Range<usize>,
    play: impl Fn(&[S]) -> Result<u64, TestCaseError>,
) {
    let sent = std::cell::Cell::new(0);
    let config = ProptestConfig {
        cases: CASES,
        // Each try loads the program anew.
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step, lengths);
    let result = TestRunner::new(config).run(&steps, |steps| {
        sent.set(sent.get() + play(&steps)?);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let sent = sent.get();
    assert!(sent > u64::from(CASES) * 20, "XDP sent {sent} packets: too few to tell");
}

#[test]
fn packets_at_random_end_alike_with_and_without_xdp() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let step = prop_oneof![
            20 => sent_by_clients().prop_map(Step::Packet),
            5 => messages().prop_map(Step::Message),
            1 => ((2..8_u64).prop_map(ProxyId), sent_by_clients())
                .prop_map(|(from, packet)| Step::Notice(from, packet)),
            4 => updates().prop_map(Step::Update),
        ];
        at_random(step, 50..400, play);
    });
}
