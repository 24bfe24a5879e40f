//! A packet at its JAP, and at a RAP.

use pias_protocol::{
    forwarding::{RelayHow, SecondChanceCause},
    limits::MAX_HOPS,
};

use super::*;
use crate::wire::tcp;

fn jap() -> Proxy {
    let mut proxy = Proxy::new();
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:5353", TargetState::Up);
    proxy.target(6, "203.0.113.10:80/tcp", "10.0.0.1:8080", TargetState::Up);
    proxy.target(7, "[2001:db8:a::10]:80/tcp", "[2001:db8:9::1]:8080", TargetState::Up);
    proxy
}

#[test]
fn a_packet_from_an_ingress_goes_to_the_target_with_the_nat_address() {
    let mut proxy = jap();
    for (client, group, nat, target) in [
        (CLIENT, WEB, "192.0.2.200", "10.0.0.1:8080"),
        (CLIENT6, WEB6, "2001:db8:2::1", "[2001:db8:9::1]:8080"),
    ] {
        let mut packet = testing::syn(client, group);
        let ttl = View::parse(packet.bytes()).unwrap().ip.ttl;
        assert_eq!(proxy.tunnel(OTHER_TUNNEL, None, &mut packet), Verdict::Tun);
        testing::assert_checksums(packet.bytes());
        let seen = transport(&packet);
        assert_eq!((seen.source.ip(), seen.destination), (addr(nat), sock(target)));
        assert_eq!(View::parse(packet.bytes()).unwrap().ip.ttl, ttl - 1);
    }
    assert!(proxy.packets().is_empty(), "no pin notice: the ingress chose this proxy itself");
    assert_eq!(proxy.path(Path::JoinDeliver), 2);
}

#[test]
fn every_packet_of_a_flow_has_one_source_and_every_flow_its_own() {
    let mut proxy = jap();
    let mut source = |client: &str| {
        let mut packet = testing::udp(client, DNS, b"q");
        assert_eq!(proxy.tunnel(OTHER_TUNNEL, None, &mut packet), Verdict::Tun);
        transport(&packet).source
    };
    let first = source(CLIENT);
    assert_eq!(source(CLIENT), first);
    assert_ne!(source("192.0.2.1:40001"), first);
}

#[test]
fn an_ingress_that_asked_a_rap_is_told_where_its_flow_lives() {
    let mut proxy = jap();
    let mut packet = testing::udp(CLIENT, DNS, b"question");
    let headers = packet.bytes()[..28].to_vec();
    let relayed = resolve(Flags::default(), 2, THIRD_TUNNEL);
    assert_eq!(proxy.tunnel(OTHER_TUNNEL, relayed, &mut packet), Verdict::Tun);
    let (verdict, notice) = proxy.packet();
    let (tunnel, option) = option(&verdict);
    assert_eq!(tunnel, addr(THIRD_TUNNEL));
    assert_eq!(option, resolve(Flags::PIN, 3, "198.51.100.1").unwrap());
    assert_eq!(notice.bytes(), headers);

    let mut again = testing::udp(CLIENT, DNS, b"question");
    proxy.tunnel(OTHER_TUNNEL, relayed, &mut again);
    assert!(proxy.packets().is_empty(), "one notice is enough for a while");
}

#[test]
fn a_stranger_cannot_use_the_tunnel() {
    let mut proxy = jap();
    let verdict = proxy.tunnel("198.51.100.66", None, &mut testing::udp(CLIENT, DNS, b"q"));
    assert_eq!(verdict, Verdict::Drop(DropReason::UnknownPeer));
    proxy.apply(ForwardingUpdate::PeerGone { id: OTHER, heir: None });
    let verdict = proxy.tunnel(OTHER_TUNNEL, None, &mut testing::udp(CLIENT, DNS, b"q"));
    assert_eq!(verdict, Verdict::Drop(DropReason::UnknownPeer));
}

#[test]
fn nothing_but_anycast_comes_out_of_the_tunnel() {
    let mut proxy = jap();
    let verdict = proxy.tunnel(OTHER_TUNNEL, None, &mut testing::udp(CLIENT, "10.0.0.1:53", b"q"));
    assert_eq!(verdict, Verdict::Drop(DropReason::OutsidePrefix));
}

#[test]
fn the_sender_is_never_its_own_target() {
    let mut proxy = jap();
    let mut own = testing::udp("10.0.0.1:999", DNS, b"q");
    assert_eq!(proxy.tunnel(OTHER_TUNNEL, None, &mut own), Verdict::Parked);
    let events = proxy.events();
    assert!(
        matches!(
            events[..],
            [ForwardingEvent::SecondChance { cause: SecondChanceCause::OnlySender, .. }]
        ),
        "{events:?}"
    );

    proxy.target(8, "203.0.113.10:53/udp", "10.0.0.2:53", TargetState::Up);
    for port in 1000..1040 {
        let mut packet = testing::udp(&format!("10.0.0.1:{port}"), DNS, b"q");
        assert_eq!(proxy.tunnel(OTHER_TUNNEL, None, &mut packet), Verdict::Tun);
        assert_eq!(transport(&packet).destination, sock("10.0.0.2:53"));
    }
}

#[test]
fn a_segment_of_an_unknown_connection_gets_a_second_chance() {
    let mut proxy = jap();
    let mut segment = testing::tcp(CLIENT, WEB, tcp::ACK, b"data");
    assert_eq!(proxy.tunnel(OTHER_TUNNEL, None, &mut segment), Verdict::Parked);
    let events = proxy.events();
    let [ForwardingEvent::SecondChance { cause, opens, ingress, hops, parked, .. }] = events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((cause, opens), (SecondChanceCause::UnknownFlow, false));
    assert_eq!((ingress, hops), (OTHER, 2));

    let how = RelayHow::Resolve { tried: Some(SELF) };
    proxy.apply(ForwardingUpdate::Relay { parked, to: THIRD, how });
    let (verdict, relayed) = proxy.packet();
    let (_, option) = option(&verdict);
    let flags = Flags::RESOLVE.with(Flags::SECOND_CHANCE);
    assert_eq!(option, resolve(flags, 2, OTHER_TUNNEL).unwrap());
    testing::assert_checksums(relayed.bytes());
}

#[test]
fn a_rap_asks_the_overlay_and_passes_on() {
    let mut proxy = Proxy::new();
    let flags = Flags::RESOLVE.with(Flags::SECOND_CHANCE);
    let mut packet = testing::syn(CLIENT, WEB);
    let asked = resolve(flags, 2, THIRD_TUNNEL);
    assert_eq!(proxy.tunnel(OTHER_TUNNEL, asked, &mut packet), Verdict::Parked);
    let events = proxy.events();
    let [ForwardingEvent::Resolve { ingress, tried, opens, hops, parked, .. }] = events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((ingress, tried, opens, hops), (THIRD, Some(OTHER), true, 3));
    proxy.apply(ForwardingUpdate::Relay { parked, to: OTHER, how: RelayHow::Join });
    let (verdict, relayed) = proxy.packet();
    let expected = resolve(Flags::SECOND_CHANCE, 3, THIRD_TUNNEL).unwrap();
    assert_eq!(option(&verdict), (addr(OTHER_TUNNEL), expected));
    let ttl = |packet: &Packet| View::parse(packet.bytes()).unwrap().ip.ttl;
    assert_eq!(ttl(&relayed), ttl(&packet) - 1);
    assert_eq!(proxy.path(Path::RendezvousRelay), 1);
}

#[test]
fn a_rap_that_is_also_the_jap_delivers_and_tells_the_ingress() {
    let mut proxy = jap();
    let asked = resolve(Flags::RESOLVE, 1, OTHER_TUNNEL);
    proxy.tunnel(OTHER_TUNNEL, asked, &mut testing::syn(CLIENT, WEB));
    let parked = proxy.parked();
    proxy.apply(ForwardingUpdate::Deliver { parked });
    let packets = proxy.packets();
    let [(pin, _), (Verdict::Tun, delivered)] = &packets[..] else { panic!("{packets:?}") };
    assert!(option(pin).1.flags.contains(Flags::PIN));
    assert_eq!(transport(delivered).destination, sock("10.0.0.1:8080"));
}

#[test]
fn a_packet_that_has_seen_too_many_proxies_is_refused() {
    let mut proxy = jap();
    let weary = resolve(Flags::RESOLVE, MAX_HOPS, OTHER_TUNNEL);
    let verdict = proxy.tunnel(OTHER_TUNNEL, weary, &mut testing::syn(CLIENT, WEB));
    assert_eq!(verdict, Verdict::Drop(DropReason::HopLimit));
    let (_, reset) = proxy.packet();
    assert_eq!(transport(&reset).source, sock(WEB));
}

#[test]
fn an_overlay_that_keeps_delivering_what_cannot_be_taken_comes_to_an_end() {
    let mut proxy = jap();
    proxy.tunnel(OTHER_TUNNEL, None, &mut testing::tcp(CLIENT, WEB, tcp::ACK, b""));
    for _ in 0..10 {
        if let [ForwardingEvent::SecondChance { parked, .. }] = proxy.events()[..] {
            proxy.apply(ForwardingUpdate::Deliver { parked });
        }
    }
    assert_eq!(proxy.drops(DropReason::HopLimit), 1);
    assert_eq!(proxy.packets().len(), 1, "a reset");
}

#[test]
fn connections_of_a_dead_target_are_reset_and_datagrams_move() {
    let mut proxy = jap();
    proxy.delivered_through_candidates();
    proxy.target(8, "203.0.113.10:53/udp", "10.0.0.2:53", TargetState::Up);
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:5353", TargetState::Down);
    proxy.apply(ForwardingUpdate::TargetGone(TargetId(6)));

    let mut datagram = testing::udp(CLIENT, DNS, b"q");
    assert_eq!(proxy.tun(&mut datagram), Verdict::Tun);
    assert_eq!(transport(&datagram).destination, sock("10.0.0.2:53"));

    let mut segment = testing::tcp(CLIENT, WEB, tcp::ACK, b"data");
    assert_eq!(proxy.tun(&mut segment), Verdict::Answered);
    let (_, reset) = proxy.packet();
    assert!(transport(&reset).has(tcp::RST));
    assert_eq!(transport(&reset).source, sock(WEB));
}

impl Proxy {
    fn delivered_through_candidates(&mut self) {
        self.candidates("203.0.113.10:53/udp", &[SELF]);
        self.candidates("203.0.113.10:80/tcp", &[SELF]);
        self.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
        self.delivered(&mut testing::syn(CLIENT, WEB));
        self.events();
    }
}

#[test]
fn a_draining_target_keeps_its_flows_and_gets_no_new_ones() {
    let mut proxy = jap();
    proxy.delivered_through_candidates();
    proxy.target(6, "203.0.113.10:80/tcp", "10.0.0.1:8080", TargetState::Draining);
    let mut old = testing::tcp(CLIENT, WEB, tcp::ACK, b"data");
    assert_eq!(proxy.tun(&mut old), Verdict::Tun);
    let mut new = testing::syn("192.0.2.1:40001", WEB);
    assert_eq!(proxy.tun(&mut new), Verdict::Parked);
}

#[test]
fn a_flow_that_its_jap_gave_up_is_found_here_from_then_on() {
    let mut proxy = jap();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    proxy.tun(&mut testing::udp(CLIENT, DNS, b"q"));
    let back = resolve(Flags::default(), 3, "198.51.100.1");
    let mut packet = testing::udp(CLIENT, DNS, b"q");
    assert_eq!(proxy.tunnel(THIRD_TUNNEL, back, &mut packet), Verdict::Tun);
    assert_eq!(proxy.tun(&mut testing::udp(CLIENT, DNS, b"q")), Verdict::Tun);
    assert!(proxy.packets().is_empty(), "nobody else needs to know");
}

#[test]
fn a_pin_that_hides_a_flow_known_here_goes_when_the_flow_comes_back() {
    let mut proxy = jap();
    proxy.tunnel(THIRD_TUNNEL, None, &mut testing::syn(CLIENT, WEB));
    proxy.candidates("203.0.113.10:80/tcp", &[OTHER]);
    let pin = resolve(Flags::PIN, 3, OTHER_TUNNEL);
    proxy.tunnel(OTHER_TUNNEL, pin, &mut testing::syn(CLIENT, WEB));
    let data = || testing::tcp(CLIENT, WEB, tcp::ACK, b"data");
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut data())));
    let back = resolve(Flags::default(), 3, "198.51.100.1");
    assert_eq!(proxy.tunnel(THIRD_TUNNEL, back, &mut data()), Verdict::Tun);
    assert_eq!(proxy.tun(&mut data()), Verdict::Tun, "no more detours");
}

#[test]
fn a_ttl_that_runs_out_at_the_jap_is_told_to_the_client() {
    let mut proxy = jap();
    let mut packet = testing::udp(CLIENT, DNS, b"q");
    let ip = View::parse(packet.bytes()).unwrap().ip;
    for _ in 1..ip.ttl {
        let ip = View::parse(packet.bytes()).unwrap().ip;
        assert!(crate::rewrite::decrement_ttl(packet.bytes_mut(), &ip));
    }
    assert_eq!(proxy.tunnel(OTHER_TUNNEL, None, &mut packet), Verdict::Answered);
    let (_, error) = proxy.packet();
    testing::assert_checksums(error.bytes());
    let ip = View::parse(error.bytes()).unwrap().ip;
    assert_eq!((ip.source, ip.destination), (addr("192.0.2.200"), addr("192.0.2.1")));
    assert_eq!(error.bytes()[20], 11);
}
