//! The pipeline of the next process goes on where this one's ended.

use pias_protocol::flow::{FlowPhase, FlowRecord};

use super::*;
use crate::{limits::TCP_IDLE, wire::tcp};

const TARGET: &str = "10.0.0.1:8080";
const TARGET6: &str = "[2001:db8:9::1]:8080";
const MATES_NAT: &str = "192.0.2.201";

/// A proxy that delivers to one target of each family.
fn serving() -> Proxy {
    let mut proxy = Proxy::new();
    serve(&mut proxy);
    proxy
}

fn serve(proxy: &mut Proxy) {
    proxy.target(6, "203.0.113.10:80/tcp", TARGET, TargetState::Up);
    proxy.target(7, "[2001:db8:a::10]:80/tcp", TARGET6, TargetState::Up);
    proxy.candidates("203.0.113.10:80/tcp", &[SELF]);
    proxy.candidates("[2001:db8:a::10]:80/tcp", &[SELF]);
}

/// The proxy of the process after this one's, whom the overlay told what it told this one; `then`
/// comes between that and the flows.
fn next_with(proxy: &Proxy, then: impl FnOnce(&mut Proxy)) -> (Proxy, Adopted) {
    let mut next = Proxy::with(PipelineConfig { seed: 8, ..config() });
    next.now = proxy.now;
    serve(&mut next);
    then(&mut next);
    let adopted = next.pipeline.take_over(proxy.pipeline.hand_over(Has::Nothing), next.now);
    (next, adopted)
}

fn next(proxy: &Proxy) -> (Proxy, Adopted) {
    next_with(proxy, |_| {})
}

/// An established connection: what its target sees as its client.
fn connect(proxy: &mut Proxy, client: &str, web: &str, target: &str) -> std::net::SocketAddr {
    let nat = proxy.delivered(&mut testing::syn(client, web));
    proxy.tun(&mut testing::tcp_between(sock(target), nat, tcp::SYN | tcp::ACK, b""));
    proxy.tun(&mut testing::tcp(client, web, tcp::ACK, b""));
    nat
}

/// A mate's connection, as the mate told of it.
fn of_mate() -> (FlowRecord, std::net::SocketAddr) {
    let nat = std::net::SocketAddr::new(addr(MATES_NAT), 40_000);
    let record = FlowRecord {
        key: FlowKey { client: sock(CLIENT), group: "203.0.113.10:80/tcp".parse().unwrap() },
        target: sock(TARGET),
        nat,
        ingress: None,
        phase: FlowPhase::Open,
        client_finished: false,
        target_finished: false,
    };
    (record, nat)
}

/// A proxy that holds a mate's connection.
fn standing_by() -> Proxy {
    let mut proxy = serving();
    proxy.apply(ForwardingUpdate::StandbyNat(vec![(OTHER, addr(MATES_NAT))]));
    proxy.apply(ForwardingUpdate::Standby { of: OTHER, records: vec![of_mate().0] });
    proxy
}

#[test]
fn an_established_connection_goes_on_in_both_directions() {
    for (client, web, target) in [(CLIENT, WEB, TARGET), (CLIENT6, WEB6, TARGET6)] {
        let mut proxy = serving();
        let nat = connect(&mut proxy, client, web, target);
        let (mut proxy, adopted) = next(&proxy);
        assert_eq!(adopted, Adopted { flows: 1, ..Adopted::default() });
        assert_eq!(proxy.delivered(&mut testing::tcp(client, web, tcp::ACK, b"more")), nat);
        let mut answer = testing::tcp_between(sock(target), nat, tcp::ACK, b"yes");
        assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
        assert_eq!(transport(&answer).destination, sock(client));
        assert_eq!(proxy.events(), []);
    }
}

#[test]
fn a_connection_that_one_side_has_ended_is_over_when_the_other_does() {
    let mut proxy = serving();
    let nat = connect(&mut proxy, CLIENT, WEB, TARGET);
    proxy.tun(&mut testing::tcp(CLIENT, WEB, tcp::ACK | tcp::FIN, b""));
    let (mut proxy, _) = next(&proxy);
    proxy.tun(&mut testing::tcp_between(sock(TARGET), nat, tcp::ACK | tcp::FIN, b""));
    proxy.wait(Duration::from_secs(241));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 0);
}

#[test]
fn a_connection_that_nobody_uses_ends_as_any_other() {
    let mut proxy = serving();
    connect(&mut proxy, CLIENT, WEB, TARGET);
    let (mut proxy, _) = next(&proxy);
    proxy.wait(TCP_IDLE);
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 0);
}

#[test]
fn a_connection_that_was_never_established_is_still_the_first_to_go() {
    let mut proxy = serving();
    proxy.delivered(&mut testing::syn(CLIENT, WEB));
    let (proxy, _) = next(&proxy);
    assert_eq!(proxy.pipeline.occupancy().nat_embryonic, 1);
}

#[test]
fn a_connection_ends_with_its_target_as_before() {
    let mut proxy = serving();
    connect(&mut proxy, CLIENT, WEB, TARGET);
    let (mut proxy, _) = next(&proxy);
    proxy.apply(ForwardingUpdate::TargetGone(TargetId(6)));
    proxy.tun(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b"more"));
    assert_eq!(proxy.pipeline.occupancy().nat_flows, 0);
}

#[test]
fn a_flow_that_enters_here_stays_with_its_jap() {
    let mut proxy = serving();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"one"))));
    // New flows go elsewhere by now.
    let (mut proxy, adopted) =
        next_with(&proxy, |next| next.candidates("203.0.113.10:53/udp", &[THIRD]));
    assert_eq!(adopted, Adopted { pins: 1, ..Adopted::default() });
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"two"))));
    let other = "192.0.2.1:40001";
    assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut testing::udp(other, DNS, b"new"))));
}

#[test]
fn a_flow_whose_jap_is_dead_stays_with_the_heir() {
    let mut proxy = serving();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    proxy.tun(&mut testing::udp(CLIENT, DNS, b"one"));
    let gone = || ForwardingUpdate::PeerGone { id: OTHER, heir: Some(THIRD) };
    proxy.apply(gone());
    let (mut proxy, adopted) = next_with(&proxy, |next| next.apply(gone()));
    assert_eq!(adopted, Adopted { pins: 1, ..Adopted::default() });
    assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"two"))));
}

#[test]
fn lists_that_name_a_proxy_that_died_before_mean_its_heir() {
    let mut proxy = Proxy::new();
    let (dead, heir) = (ProxyId(77), Some(THIRD));
    proxy.apply(ForwardingUpdate::PeerGone { id: dead, heir });
    proxy.candidates("203.0.113.10:53/udp", &[dead]);
    assert!(direct(THIRD_TUNNEL)(&proxy.tun(&mut testing::udp(CLIENT, DNS, b"one"))));
}

#[test]
fn a_connection_that_a_dead_mate_began_goes_on_with_the_mates_address() {
    let mut proxy = standing_by();
    let (_, nat) = of_mate();
    let gone = || ForwardingUpdate::PeerGone { id: OTHER, heir: Some(SELF) };
    // In time to be gone on with here, or not yet: the next process does.
    for promoted in [true, false] {
        if promoted {
            proxy.apply(gone());
            assert_eq!(proxy.pipeline.occupancy().nat_flows, 1);
        } else {
            proxy = standing_by();
            proxy.pipeline.table.remove_peer(OTHER, Some(SELF));
            assert_eq!(proxy.pipeline.occupancy().standby_flows, 1);
        }
        let (mut next, adopted) = next_with(&proxy, |next| next.apply(gone()));
        assert_eq!(adopted, Adopted { flows: 1, ..Adopted::default() });
        next.apply(ForwardingUpdate::StandbyNat(vec![(OTHER, addr(MATES_NAT))]));
        assert_eq!(next.delivered(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b"more")), nat);
        let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"yes");
        assert_eq!(next.tun(&mut answer), Verdict::Tun);
    }
}

#[test]
fn what_a_live_mate_told_is_held_on_until_the_mate_dies() {
    let proxy = standing_by();
    let (mut proxy, adopted) = next(&proxy);
    assert_eq!(adopted, Adopted { standby: 1, ..Adopted::default() });
    proxy.apply(ForwardingUpdate::PeerGone { id: OTHER, heir: Some(SELF) });
    assert_eq!(proxy.delivered(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b"more")), of_mate().1);
}

#[test]
fn a_mate_that_waits_for_its_flows_gets_them_from_the_next_process() {
    let mut proxy = standing_by();
    proxy.apply(ForwardingUpdate::HandBack { to: OTHER, nat: vec![addr(MATES_NAT)] });
    let (mut proxy, _) = next(&proxy);
    for _ in 0..3 {
        proxy.wait(Duration::from_millis(50));
    }
    let (mut handed, mut ended) = (Vec::new(), false);
    for event in proxy.events() {
        if let ForwardingEvent::HandedBack { to: OTHER, records, last } = event {
            handed.extend(records);
            ended |= last;
        }
    }
    assert_eq!((handed, ended), (vec![of_mate().0], true));
}

#[test]
fn there_is_never_more_than_there_is_room_for() {
    let mut proxy = serving();
    connect(&mut proxy, CLIENT, WEB, TARGET);
    for port in 1..=20 {
        proxy.delivered(&mut testing::syn(&format!("192.0.2.9:{port}"), WEB));
    }
    let limits = Limits { nat_flows: 8, nat_embryonic: 4, ..Limits::default() };
    let mut next = Proxy::with(PipelineConfig { limits, ..config() });
    serve(&mut next);
    next.pipeline.take_over(proxy.pipeline.hand_over(Has::Nothing), next.now);
    let occupancy = next.pipeline.occupancy();
    assert!(occupancy.nat_flows <= 8 && occupancy.nat_embryonic <= 8, "{occupancy:?}");
    assert_eq!(occupancy.nat_flows - occupancy.nat_embryonic, 1, "the established one stays");
}
