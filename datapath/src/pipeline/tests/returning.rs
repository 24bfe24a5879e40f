//! What a target sends back.

use super::*;
use crate::wire::{tcp, word};

fn opened(client: &str, group: &str, target: &str) -> (Proxy, std::net::SocketAddr) {
    let mut proxy = Proxy::new();
    let key = format!("{group}/tcp");
    proxy.target(6, &key, target, TargetState::Up);
    proxy.candidates(&key, &[SELF]);
    let nat = proxy.delivered(&mut testing::syn(client, group));
    (proxy, nat)
}

#[test]
fn an_answer_comes_from_the_group() {
    for (client, group, target) in
        [(CLIENT, WEB, "10.0.0.1:8080"), (CLIENT6, WEB6, "[2001:db8:9::1]:8080")]
    {
        let (mut proxy, nat) = opened(client, group, target);
        let mut answer = testing::tcp_between(sock(target), nat, tcp::ACK, b"data");
        assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
        testing::assert_checksums(answer.bytes());
        let seen = transport(&answer);
        assert_eq!((seen.source, seen.destination), (sock(group), sock(client)));
        assert!(answer.bytes().ends_with(b"data"));
    }
}

#[test]
fn a_partial_checksum_stays_partial_and_right() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    let mut answer = testing::tcp_between(sock("10.0.0.1:8080"), nat, tcp::ACK, &[7; 3000]);
    testing::make_partial(&mut answer);
    assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
    crate::checksum::complete(&mut answer);
    testing::assert_checksums(answer.bytes());
}

#[test]
fn nobody_else_reaches_the_client_through_the_nat() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    for stranger in ["10.0.0.2:8080", "10.0.0.1:8081"] {
        let mut packet = testing::tcp_between(sock(stranger), nat, tcp::ACK, b"");
        assert_eq!(proxy.tun(&mut packet), Verdict::Drop(DropReason::UnknownFlow));
    }
}

#[test]
fn the_answer_to_a_syn_offers_only_what_fits_the_tunnel() {
    // 1500 - 20 - 8 - 8 - 24 leaves 1440 for the inner packet.
    for (client, group, target, most) in
        [(CLIENT, WEB, "10.0.0.1:8080", 1400), (CLIENT6, WEB6, "[2001:db8:9::1]:8080", 1380)]
    {
        let (mut proxy, nat) = opened(client, group, target);
        let mut answer = testing::syn_with_mss(sock(target), nat, 1460, 0);
        assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
        testing::assert_checksums(answer.bytes());
        let ip = View::parse(answer.bytes()).unwrap().ip;
        let header = &answer.bytes()[ip.payload..];
        assert_eq!(word(header, tcp::mss_at(header).unwrap()), most);
    }
}

#[test]
fn a_connection_that_is_over_goes_and_one_that_rests_stays() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    let target = sock("10.0.0.1:8080");
    proxy.tun(&mut testing::tcp_between(target, nat, tcp::SYN | tcp::ACK, b""));
    proxy.tun(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b""));
    proxy.wait(Duration::from_secs(2 * 3600 + 4 * 60 - 1));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 1);
    proxy.tun(&mut testing::tcp_between(target, nat, tcp::RST, b""));
    proxy.wait(Duration::from_secs(239));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 1);
    proxy.wait(Duration::from_secs(1));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 0);
}

#[test]
fn a_syn_that_nobody_answers_holds_its_port_for_half_a_minute() {
    let (mut proxy, _) = opened(CLIENT, WEB, "10.0.0.1:8080");
    assert_eq!(proxy.pipeline.occupancy().nat_embryonic, 1);
    proxy.wait(Duration::from_secs(30));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 0);
    assert_eq!(proxy.pipeline.occupancy().nat_embryonic, 0);
}

#[test]
fn a_forged_syn_that_the_target_answers_holds_nothing_for_long() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    let target = sock("10.0.0.1:8080");
    proxy.tun(&mut testing::tcp_between(target, nat, tcp::SYN | tcp::ACK, b""));
    assert_eq!(proxy.pipeline.occupancy().nat_embryonic, 1);
    proxy.events();
    proxy.tun(&mut testing::tcp_between(target, nat, tcp::RST, b""));
    assert_eq!(proxy.events(), [], "a handshake given up is no refusal");
    proxy.wait(Duration::from_secs(240));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 0);
}

#[test]
fn a_forged_reset_does_not_end_a_connection_that_goes_on() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    proxy.tun(&mut testing::tcp_between(sock("10.0.0.1:8080"), nat, tcp::SYN | tcp::ACK, b""));
    for flags in [tcp::ACK, tcp::RST, tcp::ACK] {
        assert_eq!(proxy.tun(&mut testing::tcp(CLIENT, WEB, flags, b"")), Verdict::Tun);
    }
    proxy.wait(Duration::from_secs(7200));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 1);
}

#[test]
fn a_forged_reset_and_a_forged_syn_do_not_move_a_connection() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    proxy.tun(&mut testing::tcp_between(sock("10.0.0.1:8080"), nat, tcp::SYN | tcp::ACK, b""));
    for id in 20..40 {
        let address = format!("10.0.0.{id}:8080");
        proxy.target(id, "203.0.113.10:80/tcp", &address, TargetState::Up);
    }
    proxy.tun(&mut testing::tcp(CLIENT, WEB, tcp::RST, b""));
    proxy.tun(&mut testing::syn(CLIENT, WEB));
    let mut genuine = testing::tcp(CLIENT, WEB, tcp::ACK, b"data");
    assert_eq!(proxy.tun(&mut genuine), Verdict::Tun);
    let seen = transport(&genuine);
    assert_eq!((seen.source, seen.destination), (nat, sock("10.0.0.1:8080")));
}

#[test]
fn a_port_is_opened_again_after_it_was_closed() {
    let (mut proxy, nat) = opened(CLIENT, WEB, "10.0.0.1:8080");
    proxy.tun(&mut testing::tcp_between(sock("10.0.0.1:8080"), nat, tcp::RST, b""));
    proxy.target(6, "203.0.113.10:80/tcp", "10.0.0.1:8080", TargetState::Draining);
    proxy.target(9, "203.0.113.10:80/tcp", "10.0.0.9:8080", TargetState::Up);
    let mut again = testing::syn(CLIENT, WEB);
    assert_eq!(proxy.tun(&mut again), Verdict::Tun);
    assert_eq!(transport(&again).destination, sock("10.0.0.9:8080"), "a new connection");
}
