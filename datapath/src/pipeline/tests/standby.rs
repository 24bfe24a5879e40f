//! Flows that outlive their proxy: A translates them, B stands by.

use std::collections::BTreeSet;

use pias_protocol::{flow::FlowRecord, forwarding::RelayHow, limits::MAX_FLOWS_PER_MESSAGE};

use super::{
    icmp::{error, read},
    *,
};
use crate::{
    icmp_error::Problem,
    limits::{BATCHES_PER_TICK, STANDBY_FOR},
    wire::tcp,
};

pub(super) const TARGET: &str = "10.0.0.1:8080";
const TARGET6: &str = "[2001:db8:9::1]:8080";
pub(super) const A: ProxyId = SELF;
pub(super) const B: ProxyId = OTHER;
pub(super) const A_TUNNEL: &str = "198.51.100.1";
const B_TUNNEL: &str = OTHER_TUNNEL;
const A_NAT: [&str; 2] = ["192.0.2.200", "2001:db8:2::1"];
pub(super) const TICK: Duration = Duration::from_millis(50);

/// The proxy A, whose flows are told.
fn a() -> Proxy {
    let mut proxy = Proxy::new();
    register(&mut proxy);
    proxy.apply(ForwardingUpdate::Replicate { wanted: true, young: false });
    proxy
}

/// The proxy B, A's heir.
fn b() -> Proxy {
    let mut proxy = Proxy::with(PipelineConfig {
        self_id: B,
        nat: vec![addr("192.0.2.201"), addr("2001:db8:2::2")],
        unicast: vec![addr(B_TUNNEL), addr("2001:db8:1::2")],
        ..config()
    });
    proxy.apply(ForwardingUpdate::Peer { id: A, tunnel: addr(A_TUNNEL) });
    let nat = A_NAT.iter().map(|nat| (A, addr(nat))).collect();
    proxy.apply(ForwardingUpdate::StandbyNat(nat));
    proxy
}

fn register(proxy: &mut Proxy) {
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:53", TargetState::Up);
    proxy.target(6, "203.0.113.10:80/tcp", TARGET, TargetState::Up);
    proxy.target(7, "[2001:db8:a::10]:80/tcp", TARGET6, TargetState::Up);
}

/// What a proxy told its mate since it was last asked.
fn told(proxy: &mut Proxy) -> (Vec<FlowRecord>, Vec<FlowKey>) {
    let (mut records, mut flows) = (Vec::new(), Vec::new());
    for event in proxy.events() {
        if let ForwardingEvent::Flows { records: more, ended } = event {
            assert!(more.len() <= MAX_FLOWS_PER_MESSAGE);
            records.extend(more);
            flows.extend(ended);
        }
    }
    (records, flows)
}

/// The mate hears what a proxy tells.
pub(super) fn pass(from: &mut Proxy, of: ProxyId, to: &mut Proxy) -> usize {
    to.now = to.now.max(from.now);
    let (records, flows) = told(from);
    let count = records.len();
    to.apply(ForwardingUpdate::Standby { of, records });
    to.apply(ForwardingUpdate::StandbyEnded { of, flows });
    count
}

pub(super) fn die(mate: ProxyId, of: &mut Proxy, heir: ProxyId) {
    of.apply(ForwardingUpdate::PeerGone { id: mate, heir: Some(heir) });
}

/// A connection through the ingress at `THIRD`; what the target sees as source.
fn connect(proxy: &mut Proxy, client: &str, group: &str, target: &str) -> std::net::SocketAddr {
    let mut syn = testing::syn(client, group);
    assert_eq!(proxy.tunnel(THIRD_TUNNEL, None, &mut syn), Verdict::Tun);
    let nat = transport(&syn).source;
    let mut answer = testing::tcp_between(sock(target), nat, tcp::SYN | tcp::ACK, b"");
    assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
    let mut third = testing::tcp(client, group, tcp::ACK, b"");
    assert_eq!(proxy.tunnel(THIRD_TUNNEL, None, &mut third), Verdict::Tun);
    nat
}

/// Addresses, ports and what follows them: all but what differs from packet to packet.
fn gist(packet: &Packet) -> (IpAddr, IpAddr, u8, Vec<u8>) {
    testing::assert_checksums(packet.bytes());
    let ip = View::parse(packet.bytes()).unwrap().ip;
    (ip.source, ip.destination, ip.ttl, packet.bytes()[ip.payload..ip.end].to_vec())
}

/// A with a connection of a client, and B that heard of it.
pub(super) fn pair(
    client: &str,
    group: &str,
    target: &str,
) -> (Proxy, Proxy, std::net::SocketAddr) {
    let (mut a, mut b) = (a(), b());
    let nat = connect(&mut a, client, group, target);
    a.wait(Duration::from_secs(1));
    assert_eq!(pass(&mut a, A, &mut b), 1);
    (a, b, nat)
}

/// A's target is down and B has another; B does not know yet that A gave the flow up.
#[test]
fn a_datagram_that_the_mate_with_its_flow_sent_back_does_not_go_there_again() {
    let (mut a, mut b) = (a(), b());
    let mut question = testing::udp(CLIENT, DNS, b"q");
    a.tunnel(OTHER_TUNNEL, None, &mut question);
    let nat = transport(&question).source;
    a.tun(&mut testing::udp_between(sock("10.0.0.1:53"), nat, b"a"));
    a.wait(Duration::from_secs(1));
    a.tunnel(OTHER_TUNNEL, None, &mut testing::udp(CLIENT, DNS, b"q"));
    a.wait(TICK);
    assert_eq!(pass(&mut a, A, &mut b), 1);
    a.target(5, "203.0.113.10:53/udp", "10.0.0.1:53", TargetState::Down);
    b.target(8, "203.0.113.10:53/udp", "10.0.0.2:53", TargetState::Up);
    b.candidates("203.0.113.10:53/udp", &[B]);

    assert!(direct(A_TUNNEL)(&b.tun(&mut testing::udp(CLIENT, DNS, b"q"))));
    let mut packet = testing::udp(CLIENT, DNS, b"q");
    assert_eq!(a.tunnel(B_TUNNEL, None, &mut packet), Verdict::Parked);
    let parked = a.parked();
    // A is a RAP of the group itself.
    a.apply(ForwardingUpdate::Relay { parked, to: B, how: RelayHow::Join });
    let (verdict, mut packet) = a.packet();
    let (_, option) = option(&verdict);
    assert_eq!(option.flags, Flags::SECOND_CHANCE);
    assert_eq!(b.tunnel(A_TUNNEL, Some(option), &mut packet), Verdict::Tun);
    assert_eq!(transport(&packet).destination, sock("10.0.0.2:53"));
}

#[test]
fn a_connection_goes_on_through_the_heir_as_if_nothing_had_happened() {
    for (client, group, target) in [(CLIENT, WEB, TARGET), (CLIENT6, WEB6, TARGET6)] {
        let (mut a, mut b, nat) = pair(client, group, target);
        die(A, &mut b, B);
        for (from, to, tunnelled) in [(sock(client), sock(group), true), (sock(target), nat, false)]
        {
            let packet = testing::tcp_between(from, to, tcp::ACK, b"more");
            let (mut before, mut after) = (packet.clone(), packet);
            for (proxy, packet) in [(&mut a, &mut before), (&mut b, &mut after)] {
                let verdict = if tunnelled {
                    proxy.tunnel(THIRD_TUNNEL, None, packet)
                } else {
                    proxy.tun(packet)
                };
                assert_eq!(verdict, Verdict::Tun);
            }
            assert_eq!(gist(&after), gist(&before));
        }
        assert_eq!((b.path(Path::FlowPromoted), b.pipeline.occupancy().standby_flows), (1, 0));
    }
}

#[test]
fn a_target_that_speaks_first_after_the_death_finds_its_client() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    b.pipeline.table.remove_peer(A, Some(B));
    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
    assert_eq!(b.tun(&mut answer), Verdict::Tun);
    let seen = transport(&answer);
    assert_eq!((seen.source, seen.destination), (sock(WEB), sock(CLIENT)));
}

#[test]
fn a_client_that_enters_at_the_heir_finds_its_flow_there() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    b.candidates("203.0.113.10:80/tcp", &[A, THIRD]);
    die(A, &mut b, B);
    let seen = b.delivered(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b"more"));
    assert_eq!(seen, nat);
}

#[test]
fn the_ingress_is_told_where_its_flow_goes_on() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    let (verdict, notice) = b.packet();
    let (tunnel, told) = option(&verdict);
    assert_eq!((tunnel, told.flags), (addr(THIRD_TUNNEL), Flags::PIN));
    let mut ingress = Proxy::with(PipelineConfig { self_id: THIRD, ..config() });
    ingress.apply(ForwardingUpdate::Peer { id: A, tunnel: addr(A_TUNNEL) });
    ingress.candidates("203.0.113.10:80/tcp", &[A]);
    assert!(direct(A_TUNNEL)(&ingress.tun(&mut testing::syn(CLIENT, WEB))));
    assert_eq!(ingress.tunnel(B_TUNNEL, Some(told), &mut notice.clone()), Verdict::Answered);
    let verdict = ingress.tun(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b"more"));
    assert!(direct(B_TUNNEL)(&verdict), "though it does not know yet that A is dead: {verdict:?}");
}

#[test]
fn packets_that_go_astray_while_the_mate_lives_are_passed_on_to_it() {
    let (mut a, mut b, nat) = pair(CLIENT, WEB, TARGET);
    let mut astray = testing::tcp(CLIENT, WEB, tcp::ACK, b"more");
    let (tunnel, told) = option(&b.tunnel(THIRD_TUNNEL, None, &mut astray));
    assert_eq!(
        (tunnel, told),
        (addr(A_TUNNEL), resolve(Flags::default(), 2, THIRD_TUNNEL).unwrap())
    );
    assert_eq!(a.tunnel(B_TUNNEL, Some(told), &mut astray), Verdict::Tun);
    let (verdict, _) = a.packet();
    assert_eq!(option(&verdict).1.flags, Flags::PIN, "the ingress learns better");

    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
    assert!(direct(A_TUNNEL)(&b.tun(&mut answer)));
    assert_eq!(a.tunnel(B_TUNNEL, None, &mut answer), Verdict::Tun);
    assert_eq!(transport(&answer).destination, sock(CLIENT));
    assert_eq!((b.path(Path::StandbyRelay), b.path(Path::FlowPromoted)), (2, 0));
}

#[test]
fn a_new_flow_from_a_port_of_an_old_one_is_not_passed_on() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    register(&mut b);
    let mut syn = testing::syn(CLIENT, WEB);
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut syn), Verdict::Tun);
    assert_eq!(transport(&syn).source.ip(), addr("192.0.2.201"));
}

#[test]
fn a_packet_for_a_mates_address_does_not_bounce_between_two_proxies() {
    let (mut a, mut b, nat) = pair(CLIENT, WEB, TARGET);
    let mut stray = testing::tcp_between(sock("10.0.0.9:1"), nat, tcp::ACK, b"");
    assert!(direct(A_TUNNEL)(&b.tun(&mut stray)));
    assert_eq!(a.tunnel(B_TUNNEL, None, &mut stray), Verdict::Drop(DropReason::UnknownFlow));
    assert_eq!(b.tunnel(A_TUNNEL, None, &mut stray), Verdict::Drop(DropReason::UnknownFlow));
}

#[test]
fn short_flows_are_not_told() {
    let mut a = a();
    let mut question = testing::udp(CLIENT, DNS, b"q");
    a.tunnel(THIRD_TUNNEL, None, &mut question);
    let nat = transport(&question).source;
    a.tun(&mut testing::udp_between(sock("10.0.0.1:53"), nat, b"a"));
    let web = connect(&mut a, CLIENT, WEB, TARGET);
    a.wait(Duration::from_millis(500));
    a.tun(&mut testing::tcp_between(sock(TARGET), web, tcp::RST, b""));
    for _ in 0..100 {
        a.wait(TICK);
    }
    assert_eq!(told(&mut a), (vec![], vec![]));
    // A conversation, after all.
    a.tunnel(THIRD_TUNNEL, None, &mut testing::udp(CLIENT, DNS, b"q"));
    a.wait(TICK);
    assert_eq!(told(&mut a).0.len(), 1);
}

#[test]
fn the_mate_hears_of_changes_and_of_the_end() {
    let (mut a, mut b, nat) = pair(CLIENT, WEB, TARGET);
    let target = sock(TARGET);
    a.tun(&mut testing::tcp_between(target, nat, tcp::FIN | tcp::ACK, b""));
    a.wait(TICK);
    let (records, _) = told(&mut a);
    assert_eq!((records[0].client_finished, records[0].target_finished), (false, true));
    a.tunnel(THIRD_TUNNEL, None, &mut testing::tcp(CLIENT, WEB, tcp::FIN | tcp::ACK, b""));
    a.wait(TICK);
    assert_eq!(pass(&mut a, A, &mut b), 0);
    assert_eq!(b.pipeline.occupancy().standby_flows, 0, "a connection that is over");
}

#[test]
fn all_flows_are_told_in_bounded_steps_and_again_for_a_new_mate() {
    let mut a = a();
    let clients: Vec<_> = (0..9_000_u16).map(|n| format!("192.0.2.1:{}", 1_000 + n)).collect();
    for client in &clients {
        connect(&mut a, client, WEB, TARGET);
        a.side.clear();
    }
    let heard = |a: &mut Proxy, ticks: usize| -> usize {
        let counts = (0..ticks).map(|_| {
            a.wait(TICK);
            assert!(a.side.events.len() <= BATCHES_PER_TICK, "{}", a.side.events.len());
            told(a).0.len()
        });
        counts.sum()
    };
    let first = heard(&mut a, 30);
    assert!((clients.len()..clients.len() + 300).contains(&first), "{first}");
    let steady = heard(&mut a, 20);
    assert_eq!(steady, clients.len() * 20 / 1_200, "a part of them again in every tick");
    a.apply(ForwardingUpdate::Replicate { wanted: true, young: false });
    assert!(heard(&mut a, 5) >= clients.len());
    a.apply(ForwardingUpdate::Replicate { wanted: false, young: false });
    assert_eq!(heard(&mut a, 40), 0);
}

#[test]
fn of_a_proxy_that_drains_the_mate_hears_of_young_connections_too() {
    let heard = |a: &mut Proxy| -> BTreeSet<_> {
        a.wait(TICK);
        told(a).0.iter().map(|record| record.key.client).collect()
    };
    let (first, second) = (sock(CLIENT), sock("198.18.0.1:4001"));
    let mut a = a();
    connect(&mut a, CLIENT, WEB, TARGET);
    assert!(heard(&mut a).is_empty(), "most flows do not live long enough");
    a.apply(ForwardingUpdate::Replicate { wanted: true, young: true });
    assert!(heard(&mut a).contains(&first));
    connect(&mut a, "198.18.0.1:4001", WEB, TARGET);
    assert!(heard(&mut a).contains(&second), "one that began since then");
}

#[test]
fn every_flow_is_told_again_within_a_minute() {
    let (mut a, mut b, _) = pair(CLIENT, WEB, TARGET);
    let mut again = 0;
    for _ in 0..1_200 {
        a.wait(TICK);
        again += told(&mut a).0.len();
    }
    assert!(again >= 1, "{again}");
    b.wait(STANDBY_FOR);
    assert_eq!(b.pipeline.occupancy().standby_flows, 0, "nobody told of it any more");
}

#[test]
fn an_orphan_is_held_as_long_as_a_connection_may_rest() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    b.wait(Duration::from_secs(7_000));
    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
    assert_eq!(b.tun(&mut answer), Verdict::Tun);
}

#[test]
fn a_full_room_for_mates_flows_is_counted() {
    let mut b = Proxy::with(PipelineConfig {
        limits: Limits { standby_flows: 2, ..Limits::default() },
        self_id: B,
        ..config()
    });
    let (mut a, _, _) = pair(CLIENT, WEB, TARGET);
    for port in 1..4 {
        connect(&mut a, &format!("192.0.2.9:{port}"), WEB, TARGET);
    }
    a.wait(Duration::from_secs(1));
    pass(&mut a, A, &mut b);
    assert_eq!((b.pipeline.occupancy().standby_flows, b.drops(DropReason::StandbyFull)), (2, 1));
}

#[test]
fn a_promoted_flow_shares_its_port_with_one_of_the_heirs_own() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    register(&mut b);
    let record = b.pipeline.nat.iter().next().unwrap();
    // The heir's own flow to the same target from the same port of its own address.
    let own = std::net::SocketAddr::new(addr("192.0.2.201"), nat.port());
    let mut twin = record.record(None);
    twin.key.client.set_port(4_242);
    twin.nat = own;
    b.apply(ForwardingUpdate::Adopt(vec![twin]));
    for (to, client) in [(nat, sock(CLIENT)), (own, twin.key.client)] {
        let mut answer = testing::tcp_between(sock(TARGET), to, tcp::ACK, b"data");
        assert_eq!(b.tun(&mut answer), Verdict::Tun);
        assert_eq!(transport(&answer).destination, client);
    }
}

#[test]
fn a_memory_of_a_port_gives_way_to_the_flow_that_has_it_now() {
    let reset = testing::tcp(CLIENT, WEB, tcp::RST, &[]);
    for last in [None, Some(reset)] {
        // A client's flow of this proxy's former life is handed back to it; then the client begins
        // another at the mate, from the same port.
        let (mut a, mut b, _) = pair(CLIENT, WEB, TARGET);
        let mut before = b.pipeline.standby.iter().next().unwrap().record;
        before.nat = (addr("192.0.2.201"), 1_024).into();
        b.apply(ForwardingUpdate::Adopt(vec![before]));
        if let Some(mut last) = last {
            b.wait(TICK);
            b.tunnel(THIRD_TUNNEL, None, &mut last);
        }
        a.apply(ForwardingUpdate::Replicate { wanted: true, young: false });
        a.wait(TICK);
        let now = a.pipeline.nat.iter().next().unwrap().nat;
        pass(&mut a, A, &mut b);
        die(A, &mut b, B);
        let seen = b.delivered(&mut testing::tcp(CLIENT, WEB, tcp::ACK, b"more"));
        assert_eq!(seen, now);
    }
}

#[test]
fn a_promoted_flow_that_is_in_use_does_not_give_way() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    let mut record = b.pipeline.nat.iter().next().unwrap().record(None);
    let more = || testing::tcp(CLIENT, WEB, tcp::ACK, b"more");
    assert_eq!(b.delivered(&mut more()), nat);
    record.nat = (addr("192.0.2.202"), 1_024).into();
    b.apply(ForwardingUpdate::Standby { of: OTHER, records: vec![record] });
    assert_eq!(b.delivered(&mut more()), nat);
}

#[test]
fn no_port_of_a_mates_address_is_taken_for_a_new_flow() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    register(&mut b);
    for port in 1..2_000 {
        let mut syn = testing::syn(&format!("192.0.2.7:{port}"), WEB);
        assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut syn), Verdict::Tun);
        assert_eq!(transport(&syn).source.ip(), addr("192.0.2.201"));
    }
}

#[test]
fn errors_about_a_promoted_flow_are_translated_in_both_directions() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    let mut packet = testing::tcp(CLIENT, WEB, tcp::ACK, &[7; 1_000]);
    b.tunnel(THIRD_TUNNEL, None, &mut packet);
    let mut about = error(&packet, Problem::TooBig(900), "172.16.0.1");
    assert_eq!(b.tun(&mut about), Verdict::Tun);
    assert_eq!(read(&about).1, sock(CLIENT).ip());

    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, &[7; 1_000]);
    b.tun(&mut answer);
    let mut about = error(&answer, Problem::TooBig(900), "172.16.0.1");
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut about), Verdict::Tun);
    let (source, destination, inner) = read(&about);
    assert_eq!((source, destination), (nat.ip(), sock(TARGET).ip()));
    assert_eq!(inner.destination, nat);
}

#[test]
fn a_promoted_flow_needs_no_registered_target_but_ends_with_one_that_is_down() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    let more = || testing::tcp(CLIENT, WEB, tcp::ACK, b"more");
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut more()), Verdict::Tun);
    b.target(6, "203.0.113.10:80/tcp", TARGET, TargetState::Up);
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut more()), Verdict::Tun);
    b.apply(ForwardingUpdate::TargetGone(TargetId(6)));
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut more()), Verdict::Tun, "it registered elsewhere");
    b.target(9, "203.0.113.10:80/tcp", TARGET, TargetState::Down);
    b.packets();
    b.tunnel(THIRD_TUNNEL, None, &mut more());
    let (_, reset) = b.packet();
    assert!(transport(&reset).has(tcp::RST));
}

/// What a proxy hands back to A, while something happens after the first step of it.
fn handed_back_while(from: &mut Proxy, happen: impl FnOnce(&mut Proxy)) -> Vec<FlowRecord> {
    let nat = A_NAT.iter().map(|nat| addr(nat)).collect();
    from.apply(ForwardingUpdate::HandBack { to: A, nat });
    let (mut handed, mut happen) = (Vec::new(), Some(happen));
    for _ in 0..4 {
        from.wait(TICK);
        let events = from.events();
        if let Some(happen) = happen.take() {
            happen(from);
        }
        for event in events {
            if let ForwardingEvent::HandedBack { to, records, last } = event {
                assert_eq!(to, A);
                handed.extend(records);
                if last {
                    return handed;
                }
            }
        }
    }
    panic!("no end of {} flows", handed.len());
}

/// What a proxy hands back to A.
fn handed_back(from: &mut Proxy) -> Vec<FlowRecord> {
    handed_back_while(from, |_| {})
}

#[test]
fn a_flow_that_is_promoted_while_flows_are_handed_back_is_among_them() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    let records = handed_back_while(&mut b, |b| die(A, b, B));
    assert_eq!(b.pipeline.occupancy().nat_flows, 1, "promoted");
    assert!(!records.is_empty());
}

#[test]
fn a_proxy_that_is_back_gets_its_flows_back() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    die(A, &mut b, B);
    // A starts again, and B knows it.
    let mut again = a();
    again.now = b.now;
    b.apply(ForwardingUpdate::Peer { id: A, tunnel: addr(A_TUNNEL) });
    let more = || testing::tcp(CLIENT, WEB, tcp::ACK, b"more");
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut more()), Verdict::Tun, "B goes on meanwhile");
    let records = handed_back(&mut b);
    assert_eq!(records.len(), 1);
    again.apply(ForwardingUpdate::Adopt(records));
    assert_eq!(again.path(Path::FlowAdopted), 1);
    // Both have it now: whichever way routing turns, it goes on.
    for proxy in [&mut again, &mut b] {
        assert_eq!(proxy.tunnel(THIRD_TUNNEL, None, &mut more()), Verdict::Tun);
        let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
        assert_eq!(proxy.tun(&mut answer), Verdict::Tun);
    }
    // A tells of it, and B only stands by again.
    again.wait(TICK);
    assert_eq!(pass(&mut again, A, &mut b), 1);
    assert_eq!((b.pipeline.occupancy().nat_flows, b.pipeline.occupancy().standby_flows), (0, 1));
    let mut last = more();
    let (tunnel, told) = option(&b.tunnel(THIRD_TUNNEL, None, &mut last));
    assert_eq!(tunnel, addr(A_TUNNEL));
    assert_eq!(again.tunnel(B_TUNNEL, Some(told), &mut last), Verdict::Tun);
    assert_eq!(transport(&last).source, nat);
}

#[test]
fn flows_that_rested_are_handed_back_too() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    b.pipeline.table.remove_peer(A, Some(B));
    assert_eq!(handed_back(&mut b).len(), 1);
}

#[test]
fn a_flow_of_a_former_life_is_gone_on_with_though_its_proxy_is_back() {
    let (_, mut b, _) = pair(CLIENT, WEB, TARGET);
    // Gone and back in one breath, and no orphan was promoted in between.
    b.pipeline.standby.gone(A, B, b.now);
    let mut more = testing::tcp(CLIENT, WEB, tcp::ACK, b"more");
    assert_eq!(b.tunnel(THIRD_TUNNEL, None, &mut more), Verdict::Tun);
    assert_eq!(b.path(Path::FlowPromoted), 1);
}

#[test]
fn an_heir_that_dies_leaves_what_it_inherited() {
    let (_, mut b, nat) = pair(CLIENT, WEB, TARGET);
    b.apply(ForwardingUpdate::Replicate { wanted: true, young: false });
    die(A, &mut b, B);
    b.wait(TICK);
    let mut c = Proxy::with(PipelineConfig { self_id: ProxyId(9), nat: vec![], ..config() });
    c.apply(ForwardingUpdate::StandbyNat(A_NAT.iter().map(|nat| (A, addr(nat))).collect()));
    assert_eq!(pass(&mut b, B, &mut c), 1);
    let mut answer = testing::tcp_between(sock(TARGET), nat, tcp::ACK, b"data");
    assert!(direct(B_TUNNEL)(&c.tun(&mut answer)), "B lives");
    die(B, &mut c, ProxyId(9));
    assert_eq!(c.tun(&mut answer), Verdict::Tun);
    assert_eq!(transport(&answer).destination, sock(CLIENT));
}

#[test]
fn nobody_makes_a_proxy_translate_with_an_address_that_is_not_its_own() {
    let (mut a, b, _) = pair(CLIENT, WEB, TARGET);
    let record = a.pipeline.nat.iter().next().unwrap().record(None);
    let mut stranger = record;
    stranger.nat = sock("192.0.2.77:1024");
    stranger.key.client.set_port(9);
    a.apply(ForwardingUpdate::Adopt(vec![stranger, record]));
    assert_eq!(a.pipeline.occupancy().nat_flows, 1);
    drop(b);
}
