//! What RFC 5508 asks of ICMP messages that cross a translator.

use std::net::SocketAddr;

use super::{
    icmp::{error, read},
    *,
};
use crate::{
    checksum,
    icmp_error::Problem,
    wire::{build, ipv4, set_word, tcp, udp, word},
};

const ROUTER: &str = "172.16.0.1";
const ROUTER6: &str = "2001:db8:dead::1";

/// Client, group, target and a router that is none of them.
fn families() -> [(&'static str, &'static str, &'static str, &'static str); 2] {
    [(CLIENT, WEB, "10.0.0.1:8080", ROUTER), (CLIENT6, WEB6, "[2001:db8:9::1]:8080", ROUTER6)]
}

/// A join proxy of a group for both protocols.
fn jap(group: &str, target: &str) -> Proxy {
    let mut proxy = Proxy::new();
    for (id, protocol) in [(5, "udp"), (6, "tcp")] {
        let key = format!("{group}/{protocol}");
        proxy.target(id, &key, target, TargetState::Up);
        proxy.candidates(&key, &[SELF]);
    }
    proxy
}

fn between(from: SocketAddr, to: SocketAddr, protocol: Protocol) -> Packet {
    match protocol {
        Protocol::Udp => testing::udp_between(from, to, b"datagram"),
        Protocol::Tcp => testing::tcp_between(from, to, tcp::ACK, b"data"),
    }
}

/// A flow's first packet as the target got it, its answer as the client did, and its NAT address.
fn talk(
    proxy: &mut Proxy,
    (client, group, target): (&str, &str, &str),
    protocol: Protocol,
) -> (Packet, Packet, SocketAddr) {
    let mut question = match protocol {
        Protocol::Udp => testing::udp(client, group, b"datagram"),
        Protocol::Tcp => testing::syn(client, group),
    };
    let nat = proxy.delivered(&mut question);
    let mut answer = between(sock(target), nat, protocol);
    assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
    (question, answer, nat)
}

/// Fills in the checksum of an ICMP message that was changed.
fn seal(packet: &mut Packet) {
    let ip = View::parse(packet.bytes()).unwrap().ip;
    let upper = &mut packet.bytes_mut()[ip.payload..ip.end];
    build::fill_checksum(upper, ip.source, ip.destination, ip.protocol);
}

/// Fills in the header checksum and the total length of an IPv4 packet that was changed.
fn seal_header(packet: &mut Packet) {
    let (length, header) = (packet.len() as u16, usize::from(packet.bytes()[0] & 15) * 4);
    let bytes = packet.bytes_mut();
    set_word(bytes, ipv4::TOTAL_LENGTH, length);
    set_word(bytes, ipv4::CHECKSUM, 0);
    let sum = checksum::finish(&bytes[..header], 0);
    set_word(bytes, ipv4::CHECKSUM, sum);
}

/// Types and codes of errors.
fn kinds(v6: bool) -> Vec<(u8, u8)> {
    if v6 {
        let unreachable = (0..=7).map(|code| (1, code));
        unreachable.chain([(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]).collect()
    } else {
        let unreachable = (0..=15).map(|code| (3, code));
        unreachable.chain([(11, 0), (11, 1), (12, 0)]).collect()
    }
}

#[test]
fn type_code_and_value_of_every_error_carry_over_in_both_directions() {
    for (client, group, target, router) in families() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut proxy = jap(group, target);
            let (delivered, returned, _) = talk(&mut proxy, (client, group, target), protocol);
            for (kind, code) in kinds(sock(client).is_ipv6()) {
                for (about, receiver) in [(&delivered, client), (&returned, target)] {
                    let mut error = error(about, Problem::Port, router);
                    let at = View::parse(error.bytes()).unwrap().ip.payload;
                    error.bytes_mut()[at..at + 2].copy_from_slice(&[kind, code]);
                    error.bytes_mut()[at + 4..at + 8].copy_from_slice(&[0, 0, 5, 20]);
                    seal(&mut error);
                    assert_eq!(proxy.tun(&mut error), Verdict::Tun, "{kind} {code}");
                    assert_eq!(read(&error).1, sock(receiver).ip());
                    assert_eq!(error.bytes()[at..at + 2], [kind, code]);
                    assert_eq!(error.bytes()[at + 4..at + 8], [0, 0, 5, 20]);
                }
            }
        }
    }
}

#[test]
fn an_error_neither_ends_nor_prolongs_a_mapping() {
    for (client, group, target, router) in families() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut proxy = jap(group, target);
            let ends = (client, group, target);
            let (delivered, returned, nat) = talk(&mut proxy, ends, protocol);
            let all = |proxy: &mut Proxy| {
                for about in [&delivered, &returned] {
                    for problem in [Problem::Port, Problem::TooBig(1300), Problem::TimeExceeded] {
                        assert_eq!(proxy.tun(&mut error(about, problem, router)), Verdict::Tun);
                    }
                }
            };
            all(&mut proxy);
            let mut next = between(sock(client), sock(group), protocol);
            assert_eq!(proxy.delivered(&mut next), nat, "the same mapping");
            let mut answer = between(sock(target), nat, protocol);
            assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
            assert_eq!(transport(&answer).destination, sock(client));

            let flow = proxy.pipeline.nat.iter().next().unwrap();
            proxy.now = proxy.now + (flow.phase.idle() - Duration::from_secs(1));
            all(&mut proxy);
            proxy.wait(Duration::from_secs(1));
            assert_eq!(proxy.pipeline.occupancy().nat_flows, 0, "not prolonged");
        }
    }
}

#[test]
fn an_error_without_a_mapping_ends_in_silence() {
    for (client, group, target, router) in families() {
        let mut proxy = jap(group, target);
        let (mut delivered, ..) = talk(&mut proxy, (client, group, target), Protocol::Udp);
        let ip = View::parse(delivered.bytes()).unwrap().ip;
        let port = word(delivered.bytes(), ip.payload);
        set_word(delivered.bytes_mut(), ip.payload, port ^ 1);
        let mut stray = error(&delivered, Problem::Port, router);
        assert_eq!(proxy.tun(&mut stray), Verdict::Drop(DropReason::IcmpUnrelated));
        assert!(proxy.packets().is_empty());
    }
}

#[test]
fn ip_options_before_what_an_error_is_about_are_passed_over() {
    let mut proxy = jap(WEB, "10.0.0.1:8080");
    let mut bytes = testing::udp(CLIENT, WEB, b"datagram").bytes().to_vec();
    bytes[0] = 0x47;
    bytes.splice(20..20, [1; 8]);
    let mut packet = Packet::from_bytes(&bytes);
    seal_header(&mut packet);
    proxy.delivered(&mut packet);
    let mut error = error(&packet, Problem::Port, ROUTER);
    assert_eq!(proxy.tun(&mut error), Verdict::Tun);
    let (_, destination, about) = read(&error);
    assert_eq!(destination, sock(CLIENT).ip());
    assert_eq!((about.source, about.destination), (sock(CLIENT), sock(WEB)));
    assert_eq!(error.bytes()[28 + 20..28 + 28], [1; 8], "the options");
}

#[test]
fn checksums_within_an_error_are_carried_along_and_not_judged() {
    for at in [ipv4::CHECKSUM, ipv4::HEADER + udp::CHECKSUM] {
        let mut proxy = jap(WEB, "10.0.0.1:8080");
        let original = testing::udp(CLIENT, WEB, b"datagram");
        let mut packet = original.clone();
        proxy.delivered(&mut packet);
        let mut error = error(&packet, Problem::Port, ROUTER);
        error.bytes_mut()[28 + at] ^= 0x10;
        seal(&mut error);
        assert_eq!(proxy.tun(&mut error), Verdict::Tun);
        testing::assert_checksums(error.bytes());
        let ports = &error.bytes()[28 + ipv4::HEADER..][..4];
        assert_eq!(ports, &original.bytes()[ipv4::HEADER..][..4]);
    }
}

#[test]
fn extensions_of_an_error_stay_as_they_are() {
    const EXTENSION: [u8; 12] = [0x20, 0, 0x1D, 0xFF, 0, 8, 1, 1, 0, 0x3E, 0x81, 1];
    let mut proxy = jap(WEB, "10.0.0.1:8080");
    let (delivered, ..) = talk(&mut proxy, (CLIENT, WEB, "10.0.0.1:8080"), Protocol::Udp);
    let mut bytes = error(&delivered, Problem::TimeExceeded, ROUTER).bytes().to_vec();
    // RFC 4884 section 4.1: padded to 128 octets, which are told in words of four.
    bytes.resize(28 + 128, 0);
    bytes[20 + 5] = 128 / 4;
    bytes.extend(EXTENSION);
    let mut error = Packet::from_bytes(&bytes);
    seal_header(&mut error);
    seal(&mut error);
    assert_eq!(proxy.tun(&mut error), Verdict::Tun);
    let (_, destination, about) = read(&error);
    assert_eq!((destination, about.source), (sock(CLIENT).ip(), sock(CLIENT)));
    assert_eq!(error.bytes()[25], 128 / 4);
    let padding = 28 + delivered.len()..28 + 128;
    assert!(error.bytes()[padding].iter().all(|&octet| octet == 0));
    assert!(error.bytes().ends_with(&EXTENSION));
}

#[test]
fn messages_that_are_neither_errors_nor_echoes_end_here() {
    for (client, group, target, _) in families() {
        let v6 = sock(client).is_ipv6();
        // Echo reply, source quench, redirect, router messages, timestamps, masks; for IPv6 echo
        // reply, multicast listeners, neighbour discovery, redirect.
        let kinds: &[u8] = if v6 {
            &[129, 130, 131, 132, 133, 134, 135, 136, 137, 143]
        } else {
            &[0, 4, 5, 9, 10, 13, 14, 17, 18]
        };
        let mut proxy = jap(group, target);
        let nat = proxy.delivered(&mut testing::udp(client, group, b"q")).ip();
        proxy.events();
        for to in [sock(group).ip(), nat] {
            for &kind in kinds {
                let from = sock(target).ip().to_string();
                let mut message = testing::echo(&from, &to.to_string(), &[0; 40]);
                let at = View::parse(message.bytes()).unwrap().ip.payload;
                message.bytes_mut()[at] = kind;
                seal(&mut message);
                let verdict = proxy.tun(&mut message);
                assert_eq!(verdict, Verdict::Drop(DropReason::IcmpIgnored), "{kind} to {to}");
            }
        }
        assert!(proxy.packets().is_empty() && proxy.events().is_empty());
    }
}
