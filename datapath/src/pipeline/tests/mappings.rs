//! How long a mapping lives, which port it has, and whom it lets through (RFC 4787, RFC 5382,
//! RFC 7857).

use std::net::SocketAddr;

use super::*;
use crate::{
    flow::Phase,
    wire::{ipv4, tcp, word},
};

const TARGET: &str = "10.0.0.1:9000";

fn jap() -> Proxy {
    jap_with(config())
}

fn jap_with(config: PipelineConfig) -> Proxy {
    let mut proxy = Proxy::with(config);
    for (id, group, target) in [
        (5, "203.0.113.10:53/udp", TARGET),
        (6, "203.0.113.10:80/tcp", TARGET),
        (7, "[2001:db8:a::10]:80/tcp", "[2001:db8:9::1]:9000"),
        (8, "203.0.113.11:53/udp", "10.0.0.2:9000"),
    ] {
        proxy.target(id, group, target, TargetState::Up);
        proxy.candidates(group, &[SELF]);
    }
    proxy
}

fn flows(proxy: &Proxy) -> usize {
    proxy.pipeline.occupancy().nat_flows
}

/// Opens a connection from the client to the target; returns what the target sees as its source.
fn connect(proxy: &mut Proxy) -> SocketAddr {
    let nat = proxy.delivered(&mut testing::syn(CLIENT, WEB));
    from_target(proxy, nat, tcp::SYN | tcp::ACK);
    proxy.delivered(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b""));
    nat
}

fn from_target(proxy: &mut Proxy, nat: SocketAddr, flags: u8) {
    let mut segment = testing::tcp_between(sock(TARGET), nat, flags, b"");
    assert_eq!(proxy.tun(&mut segment), Verdict::Tun);
    assert_eq!(transport(&segment).destination, sock(CLIENT));
}

#[test]
fn a_mapping_of_datagrams_lives_for_five_minutes_without_a_packet() {
    for answered in [false, true] {
        let mut proxy = jap();
        let nat = proxy.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
        if answered {
            proxy.tun(&mut testing::udp_between(sock(TARGET), nat, b"a"));
        }
        proxy.wait(Duration::from_secs(299));
        assert_eq!(flows(&proxy), 1);
        proxy.wait(Duration::from_secs(1));
        assert_eq!(flows(&proxy), 0);
    }
}

#[test]
fn a_packet_of_either_side_refreshes_a_mapping() {
    for from_client in [true, false] {
        let mut proxy = jap();
        let nat = proxy.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
        proxy.wait(Duration::from_secs(200));
        let mut packet = if from_client {
            testing::udp(CLIENT, DNS, b"q")
        } else {
            testing::udp_between(sock(TARGET), nat, b"a")
        };
        assert_eq!(proxy.tun(&mut packet), Verdict::Tun);
        proxy.wait(Duration::from_secs(299));
        assert_eq!(flows(&proxy), 1, "from the client: {from_client}");
    }
}

#[test]
fn a_reset_passes_and_keeps_nothing_alive() {
    let mut proxy = jap();
    let nat = connect(&mut proxy);
    from_target(&mut proxy, nat, tcp::RST);
    proxy.wait(Duration::from_secs(239));
    assert_eq!(proxy.delivered(&mut testing::tcp(CLIENT, WEB, tcp::RST, b"")), nat);
    from_target(&mut proxy, nat, tcp::RST);
    proxy.wait(Duration::from_secs(1));
    assert_eq!(flows(&proxy), 0);
}

#[test]
fn both_ends_may_open_a_connection_at_once() {
    let mut proxy = jap();
    let nat = proxy.delivered(&mut testing::syn(CLIENT, WEB));
    from_target(&mut proxy, nat, tcp::SYN);
    let client = |flags| testing::tcp(CLIENT, WEB, flags, b"");
    assert_eq!(proxy.delivered(&mut client(tcp::SYN | tcp::ACK)), nat);
    from_target(&mut proxy, nat, tcp::SYN | tcp::ACK);
    assert_eq!(proxy.delivered(&mut client(tcp::ACK)), nat);
    assert_eq!(proxy.pipeline.nat.iter().map(|flow| flow.phase).collect::<Vec<_>>(), [Phase::Open]);
}

#[test]
fn a_syn_that_no_client_asked_for_is_dropped_in_silence() {
    let mut proxy = jap();
    let nat = connect(&mut proxy);
    for (from, to) in [("10.0.0.66:9000", nat), (TARGET, sock("192.0.2.200:1024"))] {
        let mut syn = testing::syn(from, &to.to_string());
        assert_eq!(proxy.tun(&mut syn), Verdict::Drop(DropReason::UnknownFlow), "{from}");
        proxy.wait(Duration::from_secs(7));
        assert!(proxy.packets().is_empty(), "{from}");
    }
}

#[test]
fn a_client_has_one_address_and_another_port_in_every_group() {
    let mut proxy = jap();
    let first = proxy.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
    let second = proxy.delivered(&mut testing::udp(CLIENT, "203.0.113.11:53", b"q"));
    let third = proxy.delivered(&mut testing::syn(CLIENT, WEB));
    assert_eq!((first.ip(), first.ip()), (second.ip(), third.ip()));
    assert_ne!(first.port(), second.port());
    assert_ne!(first.port(), third.port());
}

#[test]
fn nobody_guesses_a_port_from_that_of_another_flow() {
    let ports = |seed| {
        let mut proxy = jap_with(PipelineConfig { seed, ..config() });
        let port = |client| {
            let client = format!("192.0.2.1:{client}");
            proxy.delivered(&mut testing::udp(&client, DNS, b"q")).port()
        };
        (1000..1100).map(port).collect::<Vec<u16>>()
    };
    let here = ports(7);
    assert!(here.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1), "{here:?}");
    let same = here.iter().zip(ports(8)).filter(|(here, there)| *here == there).count();
    assert_eq!(same, 0, "another proxy's ports");
}

#[test]
fn what_may_be_fragmented_on_its_way_gets_an_identification_that_no_other_has() {
    let mut proxy = jap();
    let id = |packet: &Packet| word(packet.bytes(), ipv4::ID);
    let mut seen = Vec::new();
    for client in ["192.0.2.1:1", "192.0.2.2:1"] {
        let mut question = testing::udp(client, DNS, b"q");
        let nat = proxy.delivered(&mut question);
        let mut answer = testing::udp_between(sock(TARGET), nat, b"a");
        assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
        testing::assert_checksums(answer.bytes());
        seen.extend([id(&question), id(&answer)]);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4, "all came with one identification: {seen:x?}");
}

#[test]
fn a_client_for_whom_there_is_no_room_is_told() {
    let limits = Limits { nat_flows: 1, ..Limits::default() };
    let mut proxy = jap_with(PipelineConfig { limits, ..config() });
    connect(&mut proxy);
    let full = Verdict::Drop(DropReason::NatTableFull);
    assert_eq!(proxy.tun(&mut testing::udp(CLIENT, DNS, b"q")), full);
    let (verdict, error) = proxy.packet();
    assert_eq!(verdict, Verdict::Tun);
    let (source, destination, about) = icmp::read(&error);
    assert_eq!((source, destination), (sock(DNS).ip(), sock(CLIENT).ip()));
    assert_eq!((about.source, about.destination), (sock(CLIENT), sock(DNS)));
    assert_eq!(error.bytes()[20..22], [3, 13]);
    assert_eq!(proxy.tun(&mut testing::syn(CLIENT6, WEB6)), full);
    assert_eq!(proxy.packet().1.bytes()[40..42], [1, 1]);

    let nat = vec![addr("192.0.2.200")];
    let mut proxy = jap_with(PipelineConfig { nat, ..config() });
    let verdict = proxy.tun(&mut testing::syn(CLIENT6, WEB6));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoNatAddress));
    assert_eq!(proxy.packet().1.bytes()[40..42], [1, 1]);
}
