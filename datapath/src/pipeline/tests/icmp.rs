//! Echoes, and errors in both directions.

use super::*;
use crate::{
    icmp_error::{self, Problem},
    wire::embedded::Embedded,
};

const TARGET: &str = "10.0.0.1:5353";
const TARGET6: &str = "[2001:db8:9::1]:5353";
const DNS6: &str = "[2001:db8:a::10]:53";
const ROUTER: &str = "172.16.0.1";
const ROUTER6: &str = "2001:db8:dead::1";

pub(super) fn error(packet: &Packet, problem: Problem, from: &str) -> Packet {
    let ip = View::parse(packet.bytes()).unwrap().ip;
    icmp_error::about(packet.bytes(), &ip, problem, addr(from)).unwrap()
}

/// The addresses of an error, and what it is about.
pub(super) fn read(packet: &Packet) -> (IpAddr, IpAddr, Embedded) {
    testing::assert_checksums(packet.bytes());
    let ip = View::parse(packet.bytes()).unwrap().ip;
    testing::assert_header_checksum(&packet.bytes()[ip.payload + 8..]);
    (ip.source, ip.destination, Embedded::parse(&packet.bytes()[ip.payload + 8..]).unwrap())
}

fn families() -> [(&'static str, &'static str, &'static str, &'static str); 2] {
    [(CLIENT, DNS, TARGET, ROUTER), (CLIENT6, DNS6, TARGET6, ROUTER6)]
}

fn jap(group: &str, target: &str) -> Proxy {
    let mut proxy = Proxy::new();
    proxy.target(5, &format!("{group}/udp"), target, TargetState::Up);
    proxy.candidates(&format!("{group}/udp"), &[SELF]);
    proxy
}

#[test]
fn ping_is_answered() {
    let mut proxy = Proxy::new();
    for (client, anycast) in [("192.0.2.1", "203.0.113.99"), ("2001:db8:c::1", "2001:db8:a::9")] {
        let mut packet = testing::echo(client, anycast, b"ping");
        assert_eq!(proxy.tun(&mut packet), Verdict::Tun);
        testing::assert_checksums(packet.bytes());
        assert_eq!(View::parse(packet.bytes()).unwrap().ip.destination, addr(client));
    }
    assert_eq!(proxy.path(Path::Echo), 2);
}

#[test]
fn an_error_about_a_delivered_packet_goes_to_the_client_in_its_own_terms() {
    for (client, group, target, router) in families() {
        let mut proxy = jap(group, target);
        let mut packet = testing::udp(client, group, &[7; 1200]);
        let original = packet.clone();
        proxy.delivered(&mut packet);
        proxy.events();
        let mut error = error(&packet, Problem::TooBig(1300), router);
        let value = error.bytes()[error.len() - 1];
        assert_eq!(proxy.tun(&mut error), Verdict::Tun);
        let (source, destination, about) = read(&error);
        assert_eq!((source, destination), (sock(group).ip(), sock(client).ip()));
        assert_eq!((about.source, about.destination), (sock(client), sock(group)));
        assert_eq!(error.bytes()[error.len() - 1], value);
        assert_eq!(proxy.events(), [], "too big is no refusal");
        let ip = View::parse(error.bytes()).unwrap().ip;
        let inner = &error.bytes()[ip.payload + 8..];
        assert_eq!(
            crate::wire::word(inner, about.checksum.unwrap()),
            crate::wire::word(original.bytes(), about.checksum.unwrap()),
            "the checksum that the client sent"
        );
    }
}

#[test]
fn a_closed_port_is_a_refusal_and_the_client_hears_of_it() {
    for (client, group, target, _) in families() {
        let mut proxy = jap(group, target);
        let mut packet = testing::udp(client, group, b"q");
        proxy.delivered(&mut packet);
        proxy.events();
        let host = sock(target).ip().to_string();
        let mut error = error(&packet, Problem::Port, &host);
        assert_eq!(proxy.tun(&mut error), Verdict::Tun);
        assert_eq!(proxy.events(), [ForwardingEvent::TargetRefuses(TargetId(5))]);
    }
}

#[test]
fn an_error_about_a_returned_packet_goes_to_the_target() {
    for (client, group, target, router) in families() {
        let mut proxy = jap(group, target);
        let nat = proxy.delivered(&mut testing::udp(client, group, b"q"));
        let mut answer = testing::udp_between(sock(target), nat, &[7; 1200]);
        proxy.tun(&mut answer);
        let mut error = error(&answer, Problem::TooBig(1300), router);
        assert_eq!(proxy.tun(&mut error), Verdict::Tun);
        let (source, destination, about) = read(&error);
        assert_eq!((source, destination), (nat.ip(), sock(target).ip()));
        assert_eq!((about.source, about.destination), (sock(target), nat));
    }
}

#[test]
fn an_error_that_enters_elsewhere_finds_the_jap_by_what_it_is_about() {
    for (client, group, target, router) in families() {
        let mut ingress = Proxy::new();
        ingress.candidates(&format!("{group}/udp"), &[OTHER]);
        let answer = testing::udp(group, client, b"a");
        let mut error = error(&answer, Problem::TooBig(1300), router);
        assert!(direct(OTHER_TUNNEL)(&ingress.tun(&mut error)));

        let mut jap = jap(group, target);
        jap.delivered(&mut testing::udp(client, group, b"q"));
        assert_eq!(jap.tunnel(OTHER_TUNNEL, None, &mut error), Verdict::Tun);
        assert_eq!(read(&error).1, sock(target).ip());
    }
}

#[test]
fn an_error_that_enters_where_nothing_is_known_is_sent_to_all_who_may_know() {
    let mut proxy = Proxy::new();
    let mut big = error(&testing::udp(DNS, CLIENT, b"a"), Problem::TooBig(1300), ROUTER);
    let first = proxy.tun(&mut big);
    let (second, copy) = proxy.packet();
    let to = |verdict: &Verdict| [OTHER_TUNNEL, THIRD_TUNNEL].map(|t| direct(t)(verdict));
    assert!([[true, false], [false, true]].contains(&to(&first)), "{first:?}");
    assert_ne!(to(&first), to(&second), "each gets one");
    assert_eq!(copy.bytes(), big.bytes());
}

#[test]
fn an_error_about_nothing_known_is_counted() {
    let mut proxy = Proxy::new();
    for peer in [OTHER, THIRD] {
        proxy.apply(ForwardingUpdate::PeerGone { id: peer, heir: None });
    }
    let answer = testing::udp(DNS, CLIENT, b"a");
    let mut stray = error(&answer, Problem::Port, ROUTER);
    assert_eq!(proxy.tun(&mut stray), Verdict::Drop(DropReason::IcmpUnrelated));
    let mut forged = error(&testing::udp("203.0.113.77:53", CLIENT, b"a"), Problem::Port, ROUTER);
    forged.bytes_mut()[19] = 10;
    assert!(matches!(proxy.tun(&mut forged), Verdict::Drop(_)));
    let mut broken = error(&answer, Problem::Port, ROUTER);
    broken.bytes_mut()[24] ^= 1;
    assert_eq!(proxy.tun(&mut broken), Verdict::Drop(DropReason::Malformed));
}

#[test]
fn an_agent_that_is_gone_is_a_hint_to_the_overlay() {
    let mut proxy = Proxy::new();
    let datagram = testing::udp("203.0.113.10:7427", CLIENT, b"quic");
    let mut gone = error(&datagram, Problem::Port, "192.0.2.1");
    assert_eq!(proxy.tun(&mut gone), Verdict::Answered);
    assert_eq!(proxy.events(), [ForwardingEvent::AgentUnreachable(sock(CLIENT))]);
    let mut big = error(&datagram, Problem::TooBig(1300), ROUTER);
    assert_eq!(proxy.tun(&mut big), Verdict::Drop(DropReason::IcmpIgnored));
    assert_eq!(proxy.events(), []);
}

#[test]
fn another_protocol_is_told_that_it_is_not_served() {
    let mut proxy = Proxy::new();
    let mut packet = testing::udp(CLIENT, DNS, b"not udp");
    packet.bytes_mut()[9] = 47;
    assert_eq!(proxy.tun(&mut packet), Verdict::Drop(DropReason::ProtocolUnsupported));
    assert_eq!(proxy.packet().1.bytes()[20..22], [3, 2]);

    let mut packet = testing::udp(CLIENT6, DNS6, b"not udp");
    packet.bytes_mut()[6] = 47;
    proxy.tun(&mut packet);
    let (_, error) = proxy.packet();
    assert_eq!(error.bytes()[40..42], [4, 1]);
    assert_eq!(error.bytes()[44..48], [0, 0, 0, 6], "the pointer names the next-header field");
}
