//! A client's packet that entered here.

use super::*;
use crate::{
    limits::{AGED_PER_TICK, engine::TICK},
    wire::tcp,
};

#[test]
fn the_first_packet_of_an_unknown_group_waits_and_the_overlay_is_asked() {
    let mut proxy = Proxy::new();
    let mut packet = testing::udp(CLIENT, DNS, b"q");
    let before = packet.clone();
    assert_eq!(proxy.tun(&mut packet), Verdict::Parked);
    let parked = proxy.parked();
    let how = pias_protocol::forwarding::RelayHow::Resolve { tried: None };
    proxy.apply(ForwardingUpdate::Relay { parked, to: OTHER, how });
    let (verdict, relayed) = proxy.packet();
    let (tunnel, option) = option(&verdict);
    assert_eq!(tunnel, addr(OTHER_TUNNEL));
    assert_eq!(option, resolve(Flags::RESOLVE, 1, "198.51.100.1").unwrap());
    assert_eq!(relayed.bytes(), before.bytes());
    assert_eq!(proxy.path(Path::IngressRendezvous), 1);
}

#[test]
fn while_the_list_is_on_its_way_packets_go_through_the_rap() {
    let mut proxy = Proxy::new();
    proxy.entry("203.0.113.10:53/udp", IngressEntry::Rendezvous(OTHER));
    let verdict = proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"));
    assert!(option(&verdict).1.flags.contains(Flags::RESOLVE));
    assert_eq!(proxy.pipeline.occupancy().ingress_flows, 0, "not pinned to a RAP");

    proxy.entry("203.0.113.10:53/udp", IngressEntry::Rendezvous(SELF));
    assert_eq!(proxy.tun(&mut testing::udp(CLIENT, DNS, b"q")), Verdict::Parked);
}

#[test]
fn a_flow_stays_where_it_was_placed_when_the_list_changes() {
    let mut proxy = Proxy::new();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"))));
    proxy.candidates("203.0.113.10:53/udp", &[THIRD]);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"))));
    proxy.apply(ForwardingUpdate::PeerGone { id: OTHER, heir: None });
    assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"))));
    assert_eq!(proxy.path(Path::IngressDirect), 3);
}

#[test]
fn the_heir_of_a_dead_jap_gets_its_flows_and_takes_its_place_in_the_list() {
    let mut proxy = Proxy::new();
    let question = |port: u16| testing::udp(&format!("192.0.2.1:{port}"), DNS, b"q");
    proxy.candidates("203.0.113.10:53/udp", &[OTHER, ProxyId(99)]);
    proxy.tun(&mut question(1));
    proxy.apply(ForwardingUpdate::PeerGone { id: OTHER, heir: Some(THIRD) });
    for port in 1..50 {
        assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut question(port))), "{port}");
    }
    // Back again, it gets new flows; those that its heir has stay there.
    proxy.apply(ForwardingUpdate::Peer { id: OTHER, tunnel: addr(OTHER_TUNNEL) });
    assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut question(1))));
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut question(77))));
}

#[test]
fn the_same_flows_go_to_the_heir_as_went_to_the_dead() {
    let mut proxy = Proxy::new();
    let flow = |port: u16| testing::udp(&format!("192.0.2.1:{port}"), DNS, b"q");
    let mate = ProxyId(99);
    proxy.apply(ForwardingUpdate::Peer { id: mate, tunnel: addr("198.51.100.99") });
    proxy.candidates("203.0.113.10:53/udp", &[OTHER, THIRD]);
    let ports = 1..100;
    let before: Vec<_> =
        ports.clone().map(|port| direct(OTHER_TUNNEL)(&proxy.tun(&mut flow(port)))).collect();
    proxy.apply(ForwardingUpdate::PeerGone { id: OTHER, heir: Some(mate) });
    proxy.wait(Duration::from_secs(3_600));
    let after: Vec<_> =
        ports.map(|port| direct("198.51.100.99")(&proxy.tun(&mut flow(port)))).collect();
    assert_eq!(before, after);
}

#[test]
fn this_proxy_as_the_heir_takes_the_flows_of_the_dead_as_a_jap() {
    let mut proxy = Proxy::new();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"));
    proxy.apply(ForwardingUpdate::PeerGone { id: OTHER, heir: Some(SELF) });
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:53", TargetState::Up);
    proxy.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
    assert_eq!(proxy.path(Path::IngressLocal), 1);
}

#[test]
fn a_dead_candidate_is_skipped() {
    let mut proxy = Proxy::new();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER, ProxyId(99)]);
    for port in 1000..1050 {
        let client = format!("192.0.2.1:{port}");
        assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut testing::udp(&client, DNS, b"q"))));
    }
}

#[test]
fn a_group_that_nobody_serves_is_refused_at_once() {
    let mut proxy = Proxy::new();
    proxy.entry("203.0.113.10:53/udp", IngressEntry::Refuse);
    proxy.entry("203.0.113.10:80/tcp", IngressEntry::Refuse);
    proxy.entry("[2001:db8:a::10]:80/tcp", IngressEntry::Refuse);

    assert_eq!(proxy.tun(&mut testing::udp(CLIENT, DNS, b"q")), Verdict::Answered);
    let (_, answer) = proxy.packet();
    testing::assert_checksums(answer.bytes());
    let ip = View::parse(answer.bytes()).unwrap().ip;
    assert_eq!((ip.source, ip.destination), (addr("203.0.113.10"), addr("192.0.2.1")));
    assert_eq!(answer.bytes()[20..22], [3, 3]);

    for (client, group) in [(CLIENT, WEB), (CLIENT6, WEB6)] {
        assert_eq!(proxy.tun(&mut testing::syn(client, group)), Verdict::Answered);
        let (_, answer) = proxy.packet();
        testing::assert_checksums(answer.bytes());
        assert_eq!(transport(&answer).source, sock(group));
    }
    assert_eq!(proxy.path(Path::Refused), 3);
}

#[test]
fn refusals_are_rate_limited() {
    let mut proxy = Proxy::new();
    proxy.entry("203.0.113.10:53/udp", IngressEntry::Refuse);
    for _ in 0..3_000 {
        proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"));
        proxy.side.clear();
    }
    assert_eq!(proxy.path(Path::Refused), 1_000);
    assert_eq!(proxy.drops(DropReason::RateLimited), 2_000);
}

#[test]
fn registration_goes_to_the_daemon() {
    let mut proxy = Proxy::new();
    let mut packet = testing::udp(CLIENT, "203.0.113.99:7427", b"quic");
    match proxy.tun(&mut packet) {
        Verdict::Registration { local, remote, payload } => {
            assert_eq!((local, remote), (sock("203.0.113.99:7427"), sock(CLIENT)));
            assert_eq!(&packet.bytes()[payload], b"quic");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pin_notice_moves_a_flow_and_fills_no_table() {
    let mut proxy = Proxy::new();
    proxy.entry("203.0.113.10:53/udp", IngressEntry::Rendezvous(OTHER));
    let pin = resolve(Flags::PIN, 3, THIRD_TUNNEL);
    let headers =
        |group: &str| Packet::from_bytes(&testing::udp(CLIENT, group, b"question").bytes()[..28]);
    assert_eq!(proxy.tunnel(THIRD_TUNNEL, pin, &mut headers(DNS)), Verdict::Answered);
    assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"))));

    let stray = proxy.tunnel(THIRD_TUNNEL, pin, &mut headers("203.0.113.11:53"));
    assert_eq!(stray, Verdict::Drop(DropReason::PinUnrelated));
    for nobody in ["203.0.113.99:4000", "192.0.2.200:4000", "127.0.0.1:4000"] {
        let mut headers = Packet::from_bytes(&testing::udp(nobody, DNS, b"q").bytes()[..28]);
        let of_nobody = proxy.tunnel(THIRD_TUNNEL, pin, &mut headers);
        assert_eq!(of_nobody, Verdict::Drop(DropReason::PinUnrelated), "{nobody}");
    }
    let stranger = proxy.tunnel("198.51.100.66", pin, &mut headers(DNS));
    assert_eq!(stranger, Verdict::Drop(DropReason::UnknownPeer));
    assert_eq!(proxy.pipeline.occupancy().ingress_flows, 1);
}

#[test]
fn forged_segments_are_not_remembered_for_hours() {
    let mut proxy = Proxy::new();
    proxy.candidates("203.0.113.10:80/tcp", &[OTHER]);
    for port in 1..=100 {
        let client = format!("192.0.2.1:{port}");
        proxy.tun(&mut testing::tcp(&client, WEB, tcp::ACK, b""));
    }
    proxy.tun(&mut testing::tcp("192.0.2.1:1", WEB, tcp::ACK, b""));
    proxy.wait(Duration::from_secs(30));
    // All of the table is looked at once.
    for _ in 0..Limits::default().ingress_flows / AGED_PER_TICK {
        proxy.wait(TICK);
    }
    assert_eq!(proxy.pipeline.occupancy().ingress_flows, 1, "only the one that goes on");
}

#[test]
fn one_group_cannot_take_all_the_room_for_waiting() {
    let mut proxy = Proxy::new();
    for port in 1..=100 {
        proxy.tun(&mut testing::udp(&format!("192.0.2.1:{port}"), DNS, b"q"));
    }
    assert_eq!(proxy.path(Path::Parked), 64);
    assert_eq!(proxy.drops(DropReason::ParkingFull), 36);
    assert_eq!(proxy.tun(&mut testing::syn(CLIENT, WEB)), Verdict::Parked);
    proxy.wait(Duration::from_secs(1));
    assert_eq!(proxy.drops(DropReason::ParkedExpired), 65);
    assert_eq!(proxy.pipeline.occupancy().parked, 0);
}

#[test]
fn a_verdict_that_comes_too_late_is_ignored() {
    let mut proxy = Proxy::new();
    proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"));
    let parked = proxy.parked();
    proxy.apply(ForwardingUpdate::Refuse { parked });
    assert_eq!(proxy.packets().len(), 1);
    proxy.apply(ForwardingUpdate::Deliver { parked });
    proxy.apply(ForwardingUpdate::Refuse { parked });
    assert!(proxy.packets().is_empty() && proxy.events().is_empty());
}

#[test]
fn use_is_reported_once_a_second() {
    let mut proxy = Proxy::new();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    for port in 1..50 {
        proxy.tun(&mut testing::udp(&format!("192.0.2.1:{port}"), DNS, b"q"));
    }
    let group = "203.0.113.10:53/udp".parse().unwrap();
    assert_eq!(proxy.events(), [ForwardingEvent::IngressUsed(group)]);
}

#[test]
fn an_explanation_ends_where_the_packet_goes() {
    use crate::explain::Step;
    let mut proxy = Proxy::new();
    let group = "203.0.113.10:53/udp".parse().unwrap();
    let last =
        |proxy: &Proxy| proxy.pipeline.explain(sock(CLIENT), group, proxy.now).steps.pop().unwrap();
    assert_eq!(last(&proxy), Step::Missed);
    proxy.candidates("203.0.113.10:53/udp", &[OTHER, ProxyId(99)]);
    let tunnel = Step::Tunnel { proxy: OTHER, address: addr(OTHER_TUNNEL) };
    assert_eq!(last(&proxy), tunnel);
    proxy.candidates("203.0.113.10:53/udp", &[SELF]);
    assert_eq!(last(&proxy), Step::SecondChance);
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:53", TargetState::Up);
    let delivered = Step::Delivered { target: TargetId(5), address: sock("10.0.0.1:53") };
    assert_eq!(last(&proxy), delivered);
    let nat = proxy.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
    let known = Step::KnownFlow { target: TargetId(5), address: sock("10.0.0.1:53"), nat };
    assert_eq!(last(&proxy), known);
    let flows = |of: &[_]| proxy.pipeline.flows(of, 10, proxy.now).len();
    let [dns, web] = ["203.0.113.10:53/udp", "203.0.113.10:80/tcp"].map(|g| g.parse().unwrap());
    assert_eq!((flows(&[]), flows(&[web]), flows(&[web, dns])), (1, 0, 1));
}
