//! Flows that outlive their proxy, as one node sees it: whom it tells, whose it holds, and what it
//! waits for at its start.

mod support;

use std::net::IpAddr;

use pias_overlay::{Effect, Node, StandbyAddress};
use pias_protocol::{
    flow::{FlowPhase, FlowRecord},
    forwarding::{ForwardingEvent, ForwardingUpdate, SecondChanceCause},
    hash::FlowKey,
    ids::{ParkedId, ProxyId},
    overlay::{
        Buckets, FlowRecords, FlowsGone, FlowsHanded, FlowsWanted, MemberRecord, MemberState,
        MemberUpdate, OverlayMessage,
    },
    time::Time,
};
use support::{config, effects, ms};

fn nat(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

/// The proxy `fra1`, which has just started.
fn started() -> Node {
    Node::new(config(), 1, Time::ZERO)
}

/// The proxy number `n` of a cluster.
fn member(name: &str, cluster: &str, n: u8, state: MemberState) -> MemberRecord {
    MemberRecord {
        name: name.into(),
        cluster: cluster.into(),
        unicast: vec![[198, 51, 100, n].into()],
        nat: vec![nat(n)],
        incarnation: 1,
        state,
    }
}

/// News of these, from the first of them, which knows no more than that; what follows from it.
fn hear(node: &mut Node, members: Vec<MemberRecord>, now: Time) -> Vec<Effect> {
    let from = ProxyId::of(&members[0].name);
    let update = MemberUpdate { pushed: true, members, clusters: vec![] };
    node.handle_message(from, update.into(), now);
    node.handle_message(from, Buckets { digests: vec![] }.into(), now);
    effects(node)
}

/// The proxy `fra1`, announced, with its mate `fra2` and another cluster's `nyc1`.
fn paired() -> (Node, Vec<Effect>) {
    let mut node = started();
    let others =
        vec![member("fra2", "fra", 2, MemberState::Up), member("nyc1", "nyc", 3, MemberState::Up)];
    let all = hear(&mut node, others, ms(1));
    node.handle_message(ProxyId::of("fra2"), FlowsHanded {}.into(), ms(2));
    assert!(effects(&mut node).contains(&Effect::Announce(true)));
    (node, all)
}

fn flow(nat: IpAddr) -> FlowRecord {
    FlowRecord {
        key: FlowKey {
            client: "198.18.0.1:4000".parse().unwrap(),
            group: "203.0.113.10:80/tcp".parse().unwrap(),
        },
        target: "10.0.0.1:80".parse().unwrap(),
        nat: (nat, 1024).into(),
        ingress: None,
        phase: FlowPhase::Open,
        client_finished: false,
        target_finished: false,
    }
}

fn sent(effects: &[Effect], to: &str) -> Vec<OverlayMessage> {
    let to = ProxyId::of(to);
    let message = |effect: &Effect| match effect {
        Effect::Send { to: receiver, message, .. } if *receiver == to => Some(message.clone()),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

fn standing_by(effects: &[Effect]) -> Option<Vec<StandbyAddress>> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::StandBy(addresses) => Some(addresses.clone()),
        _ => None,
    })
}

#[test]
fn a_proxy_stands_by_for_its_mate_and_tells_it_of_its_flows() {
    let (mut node, met) = paired();
    let held = StandbyAddress { address: nat(2), of: ProxyId::of("fra2"), live: true };
    assert_eq!(standing_by(&met), Some(vec![held]));
    let owned = ForwardingUpdate::StandbyNat(vec![(held.of, held.address)]);
    assert!(met.contains(&Effect::Forward(owned)));
    assert!(
        met.contains(&Effect::Forward(ForwardingUpdate::Replicate { wanted: true, young: false }))
    );

    let ended = vec![flow(nat(1)).key];
    let told = ForwardingEvent::Flows { records: vec![flow(nat(1))], ended: ended.clone() };
    node.handle_event(told, ms(10));
    let all = effects(&mut node);
    let records = FlowRecords { records: vec![flow(nat(1))] };
    assert_eq!(sent(&all, "fra2"), [FlowsGone { flows: ended }.into(), records.into()]);
    assert_eq!(sent(&all, "nyc1"), []);
}

#[test]
fn an_heir_hears_of_young_flows_as_soon_as_its_mate_drains() {
    let (mut node, _) = paired();
    node.drain(ms(10));
    let all = effects(&mut node);
    let replicate = ForwardingUpdate::Replicate { wanted: true, young: true };
    assert!(all.contains(&Effect::Forward(replicate)));
}

#[test]
fn who_has_left_judges_nobody() {
    let (mut node, _) = paired();
    node.leave(ms(10));
    effects(&mut node);
    assert_eq!(node.next_timeout(), None);
    node.handle_timeout(ms(60_000));
    assert_eq!(effects(&mut node), []);
}

#[test]
fn flows_of_a_mate_are_held_and_its_own_taken_back() {
    let (mut node, _) = paired();
    let records = vec![flow(nat(1)), flow(nat(2))];
    node.handle_message(ProxyId::of("fra2"), FlowRecords { records }.into(), ms(10));
    let of = ProxyId::of("fra2");
    assert_eq!(
        effects(&mut node),
        [
            Effect::Forward(ForwardingUpdate::Adopt(vec![flow(nat(1))])),
            Effect::Forward(ForwardingUpdate::Standby { of, records: vec![flow(nat(2))] }),
        ]
    );
}

#[test]
fn flows_are_taken_from_mates_alone() {
    let (mut node, _) = paired();
    let records = FlowRecords { records: vec![flow(nat(1))] };
    node.handle_message(ProxyId::of("nyc1"), records.into(), ms(10));
    node.handle_message(ProxyId::of("nyc1"), FlowsWanted {}.into(), ms(10));
    let ended = FlowsGone { flows: vec![flow(nat(2)).key] };
    node.handle_message(ProxyId::of("nyc1"), ended.into(), ms(10));
    assert_eq!(effects(&mut node), []);
    assert_eq!(node.status().counters.strangers, 3);
}

#[test]
fn a_mate_that_wants_its_flows_again_and_again_is_heard_once_in_a_while_or_when_it_started_anew() {
    let (mut node, _) = paired();
    let mut handed = |now, started: u64| {
        if started > 1 {
            let incarnation = started << 16;
            let again = MemberRecord { incarnation, ..member("fra2", "fra", 2, MemberState::Up) };
            hear(&mut node, vec![again], now);
        }
        node.handle_message(ProxyId::of("fra2"), FlowsWanted {}.into(), now);
        let wanted = |e: &&Effect| matches!(e, Effect::Forward(ForwardingUpdate::HandBack { .. }));
        effects(&mut node).iter().filter(wanted).count()
    };
    let first: usize = (10..110).map(|at| handed(ms(at), 1)).sum();
    assert_eq!(first, 1);
    assert_eq!(handed(ms(200), 2), 1, "it has another life, and asks for the first time");
    assert_eq!(handed(ms(300), 1), 0);
    assert_eq!(handed(ms(2_800), 1), 1);
}

#[test]
fn a_proxy_that_starts_is_announced_when_its_mates_have_handed_back_its_flows() {
    let mut node = started();
    let met = hear(
        &mut node,
        vec![
            member("fra2", "fra", 2, MemberState::Up),
            member("fra3", "fra", 3, MemberState::Up),
            member("nyc1", "nyc", 4, MemberState::Up),
        ],
        ms(1),
    );
    for mate in ["fra2", "fra3"] {
        assert!(sent(&met, mate).contains(&FlowsWanted {}.into()), "{mate}");
    }
    assert!(!sent(&met, "nyc1").contains(&FlowsWanted {}.into()));
    let announced = Effect::Announce(true);
    assert!(!met.contains(&announced));
    node.handle_message(ProxyId::of("fra2"), FlowsHanded {}.into(), ms(30));
    assert!(!effects(&mut node).contains(&announced), "fra3 may have some");
    node.handle_message(ProxyId::of("fra3"), FlowsHanded {}.into(), ms(60));
    assert!(effects(&mut node).contains(&announced));
}

/// A client's packet that the datapath has nothing for.
fn in_vain(parked: u64, cause: SecondChanceCause) -> ForwardingEvent {
    let key = flow(nat(1)).key;
    ForwardingEvent::SecondChance {
        group: key.group,
        flow: key.hash(),
        ingress: ProxyId::of("nyc1"),
        opens: cause == SecondChanceCause::NoTarget,
        hops: 2,
        cause,
        parked: ParkedId(parked),
    }
}

fn delivered(effects: &[Effect]) -> Vec<u64> {
    let delivered = |effect: &Effect| match effect {
        Effect::Forward(ForwardingUpdate::Deliver { parked }) => Some(parked.0),
        _ => None,
    };
    effects.iter().filter_map(delivered).collect()
}

#[test]
fn packets_of_its_former_life_wait_for_what_mates_hand_back() {
    let mut node = started();
    let mates = vec![member("fra2", "fra", 2, MemberState::Up)];
    let others = vec![member("nyc1", "nyc", 3, MemberState::Up)];
    hear(&mut node, [mates, others].concat(), ms(1));
    for (parked, cause) in [(1, SecondChanceCause::UnknownFlow), (2, SecondChanceCause::NoTarget)] {
        node.handle_event(in_vain(parked, cause), ms(10));
        assert_eq!(effects(&mut node), [], "{cause:?}");
    }
    let mate = ProxyId::of("fra2");
    node.handle_message(mate, FlowRecords { records: vec![flow(nat(1))] }.into(), ms(20));
    node.handle_message(mate, FlowsHanded {}.into(), ms(20));
    let all = effects(&mut node);
    assert_eq!(delivered(&all), [1, 2]);
    let at = |wanted: &dyn Fn(&Effect) -> bool| all.iter().position(wanted).expect("it happens");
    let adopted = at(&|e| matches!(e, Effect::Forward(ForwardingUpdate::Adopt(_))));
    let first = at(&|e| matches!(e, Effect::Forward(ForwardingUpdate::Deliver { .. })));
    assert!(adopted < first && first < at(&|e| *e == Effect::Announce(true)), "{all:?}");
}

#[test]
fn of_more_packets_than_may_wait_none_is_refused_that_belongs_to_a_flow() {
    let mut node = started();
    hear(&mut node, vec![member("fra2", "fra", 2, MemberState::Up)], ms(1));
    for parked in 0..5_000 {
        node.handle_event(in_vain(parked, SecondChanceCause::UnknownFlow), ms(10));
    }
    assert_eq!(effects(&mut node), []);
    node.handle_message(ProxyId::of("fra2"), FlowsHanded {}.into(), ms(20));
    assert_eq!(delivered(&effects(&mut node)).len(), 4_096);
}

#[test]
fn a_mate_that_hands_nothing_back_is_waited_for_in_vain_and_not_for_long() {
    let mut node = started();
    hear(&mut node, vec![member("fra2", "fra", 2, MemberState::Up)], ms(1));
    let announced = std::iter::from_fn(|| {
        let at = node.next_timeout()?.at;
        node.handle_timeout(at);
        Some((at, effects(&mut node)))
    })
    .find_map(|(at, all)| all.contains(&Effect::Announce(true)).then_some(at));
    assert_eq!(announced, Some(ms(2_501)));
}

#[test]
fn the_address_of_a_dead_mate_is_answered_to_until_the_mate_is_back() {
    let (mut node, _) = paired();
    let gone = hear(&mut node, vec![member("fra2", "fra", 2, MemberState::Left)], ms(10));
    let of = ProxyId::of("fra2");
    let held = |live| vec![StandbyAddress { address: nat(2), of, live }];
    assert_eq!(standing_by(&gone), Some(held(false)));
    assert!(
        gone.contains(&Effect::Forward(ForwardingUpdate::Replicate {
            wanted: false,
            young: false
        }))
    );
    let mut again = member("fra2", "fra", 2, MemberState::Up);
    again.incarnation = 2;
    assert_eq!(standing_by(&hear(&mut node, vec![again], ms(5_000))), Some(held(true)));
}

#[test]
fn a_mate_that_starts_gets_what_the_datapath_finds_for_it() {
    let (mut node, _) = paired();
    let to = ProxyId::of("fra2");
    node.handle_message(to, FlowsWanted {}.into(), ms(10));
    let wanted = ForwardingUpdate::HandBack { to, nat: vec![nat(2)] };
    assert_eq!(effects(&mut node), [Effect::Forward(wanted)]);
    for (records, last) in [(vec![flow(nat(2))], false), (vec![], true)] {
        node.handle_event(ForwardingEvent::HandedBack { to, records, last }, ms(20));
    }
    let all = effects(&mut node);
    let records = FlowRecords { records: vec![flow(nat(2))] };
    assert_eq!(sent(&all, "fra2"), [records.into(), FlowsHanded {}.into()]);
}

#[test]
fn what_a_dead_heir_went_on_with_goes_to_its_own_heir() {
    // Of fra2 and fra3 the one that dies first leaves its flows to whom the hash names.
    let mut node = started();
    let mates =
        |state2, state3| vec![member("fra2", "fra", 2, state2), member("fra3", "fra", 3, state3)];
    let (up, left) = (MemberState::Up, MemberState::Left);
    hear(&mut node, mates(up, up), ms(1));
    hear(&mut node, mates(left, up), ms(10));
    let last = hear(&mut node, vec![member("fra3", "fra", 3, left)], ms(20));
    let held = |n, name| StandbyAddress { address: nat(n), of: ProxyId::of(name), live: false };
    assert_eq!(standing_by(&last), Some(vec![held(2, "fra2"), held(3, "fra3")]));
}
