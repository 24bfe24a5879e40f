//! The node of the next process goes on where this one's ended.

mod support;

use std::{net::SocketAddr, time::Duration};

use pias_overlay::{AgentId, Effect, Node, NodeState};
use pias_protocol::{
    agent::{AgentMessage, JapMessage, Join, KeepAlive},
    forwarding::{ForwardingEvent, ForwardingUpdate, TargetState},
    group::GroupKey,
    hash::FlowHash,
    ids::{ParkedId, ProxyId, TargetId},
    overlay::{
        AgentLink, CandidateList, CountReport, Lease, LeaseReplica, LeaseState, LeaseTaken,
        MemberRecord, MemberState, MemberUpdate, OverlayMessage,
    },
    placement::Candidate,
    time::Time,
};
use support::{config, effects, ms};

const AGENT: AgentId = AgentId(1);
const MATE: &str = "fra2";

fn group() -> GroupKey {
    "203.0.113.10:53/udp".parse().unwrap()
}

fn updates(node: &mut Node) -> Vec<ForwardingUpdate> {
    let update = |effect| match effect {
        Effect::Forward(update) => Some(update),
        _ => None,
    };
    effects(node).into_iter().filter_map(update).collect()
}

/// Lets timers fire up to `end`; what the node wished meanwhile.
fn run(node: &mut Node, end: Time) -> Vec<Effect> {
    let mut all = Vec::new();
    while let Some(deadline) = node.next_timeout().filter(|deadline| deadline.at <= end) {
        node.handle_timeout(deadline.at);
        all.extend(effects(node));
    }
    all
}

fn link(remote: &str) -> AgentLink {
    let (remote, anycast) = (remote.parse().unwrap(), group().address);
    AgentLink { remote, anycast, connection: [7; 8] }
}

fn target() -> SocketAddr {
    "10.0.0.1:53".parse().unwrap()
}

fn wish() -> AgentMessage {
    Join { request: 1, group: group(), target: target(), weight: 3, healthy: true }.into()
}

fn mate() -> MemberRecord {
    MemberRecord {
        name: MATE.into(),
        cluster: "fra".into(),
        unicast: vec!["198.51.100.2".parse().unwrap()],
        nat: vec!["192.0.2.2".parse().unwrap()],
        incarnation: 1,
        state: MemberState::Up,
    }
}

/// A node that is ready, has a mate, and serves a target.
fn busy() -> (Node, Time) {
    let mut node = Node::new(config(), 1, Time::ZERO);
    let now = ms(2_000);
    run(&mut node, now);
    let update = MemberUpdate { pushed: true, members: vec![mate()], clusters: vec![] };
    node.handle_message(ProxyId::of(MATE), update.into(), now);
    node.agent_connected(AGENT, link("10.0.0.1:5000"), now);
    node.agent_message(AGENT, wish(), now);
    let report = CountReport { group: group(), count: 5 };
    node.handle_message(ProxyId::of(MATE), report.into(), now);
    effects(&mut node);
    (node, now)
}

fn state(node: &Node) -> NodeState {
    node.hand_over().expect("a node that is ready")
}

fn next(node: &Node, now: Time) -> Node {
    Node::take_over(config(), state(node), 2, now)
}

#[test]
fn it_is_the_same_proxy_to_all_others() {
    let (node, now) = busy();
    let mut heir = next(&node, now);
    assert_eq!(state(&heir).own, state(&node).own);
    let said = effects(&mut heir);
    let news = |effect: &Effect| {
        matches!(effect, Effect::Send { message: OverlayMessage::MemberUpdate(_), .. })
    };
    assert!(!said.iter().any(news), "nobody is told that anything changed: {said:?}");
    assert!(said.contains(&Effect::Announce(true)), "its routes stay");
}

#[test]
fn a_state_reads_as_it_was_written() {
    let (node, now) = busy();
    let known = state(&node);
    assert_ne!(known, NodeState::default());
    assert_eq!(state(&next(&node, now)), known);
}

#[test]
fn the_datapath_is_told_of_the_mate_and_of_the_target() {
    let (node, now) = busy();
    let updates = updates(&mut next(&node, now));
    let tunnel = "198.51.100.2".parse().unwrap();
    assert!(updates.contains(&ForwardingUpdate::Peer { id: ProxyId::of(MATE), tunnel }));
    let up = |update: &&ForwardingUpdate| matches!(update, ForwardingUpdate::Target(t) if t.state == TargetState::Up && t.weight == 3);
    assert_eq!(updates.iter().filter(up).count(), 1);
}

#[test]
fn the_raps_are_told_again_within_a_moment() {
    let (node, now) = busy();
    let said = run(&mut next(&node, now), now + Duration::from_millis(200));
    let told = said.iter().any(|effect| {
        matches!(effect, Effect::Send { message: OverlayMessage::CountReport(r), .. } if r.count == 3)
    });
    assert!(told, "{said:?}");
}

#[test]
fn a_target_gets_new_flows_until_its_lease_is_over_and_no_longer() {
    let (node, now) = busy();
    let mut node = next(&node, now);
    effects(&mut node);
    let (before, after) = (now + Duration::from_millis(4_900), now + Duration::from_millis(5_100));
    let withdrawn = |said: &[Effect]| {
        let draining = |e: &Effect| matches!(e, Effect::Forward(ForwardingUpdate::Target(t)) if t.state == TargetState::Draining);
        said.iter().any(draining)
    };
    assert!(!withdrawn(&run(&mut node, before)));
    assert!(withdrawn(&run(&mut node, after)));
}

#[test]
fn agents_are_reset_so_that_they_join_again() {
    let (node, now) = busy();
    let said = run(&mut next(&node, now), now + Duration::from_millis(10));
    assert!(said.contains(&Effect::ResetAgent(link("10.0.0.1:5000"))), "{said:?}");
}

#[test]
fn an_agent_that_joins_again_keeps_its_targets_flows() {
    let (node, now) = busy();
    let mut node = next(&node, now);
    effects(&mut node);
    node.agent_connected(AGENT, link("10.0.0.1:5001"), now);
    node.agent_message(AGENT, wish(), now);
    let said = effects(&mut node);
    let updated = |effect: &Effect| matches!(effect, Effect::Forward(ForwardingUpdate::Target(t)) if t.id == TargetId(1));
    assert!(said.iter().any(updated), "the membership is the one before: {said:?}");
    // It keeps the membership alive from now on.
    for step in 1..=6 {
        let now = now + Duration::from_secs(step);
        let said = run(&mut node, now);
        let gone = |e: &Effect| matches!(e, Effect::Forward(ForwardingUpdate::TargetGone(_)));
        assert!(!said.iter().any(gone), "{step}: {said:?}");
        node.agent_message(AGENT, KeepAlive { sequence: step }.into(), now);
        effects(&mut node);
    }
}

#[test]
fn an_agent_that_has_no_connection_yet_is_not_taken_for_dead() {
    let (node, now) = busy();
    let mut node = next(&node, now);
    effects(&mut node);
    let now = now + Duration::from_millis(300);
    node.handle_event(ForwardingEvent::TargetUsed(TargetId(1)), now);
    let said = run(&mut node, now + Duration::from_secs(2));
    let pinged = |e: &Effect| {
        matches!(e, Effect::Agent { message: JapMessage::Ping(_), .. })
            || matches!(e, Effect::Forward(ForwardingUpdate::TargetGone(_)))
    };
    assert!(!said.iter().any(pinged), "{said:?}");
}

#[test]
fn a_list_is_used_on_and_asked_for_again() {
    let (mut node, now) = busy();
    let other: GroupKey = "203.0.113.99:53/udp".parse().unwrap();
    let (flow, parked) = (FlowHash(1), ParkedId(1));
    node.handle_event(ForwardingEvent::Missed { group: other, flow, parked }, now);
    let candidates = vec![Candidate { proxy: ProxyId::of(MATE), tier: 0, weight: 1 }];
    let list = CandidateList { group: other, candidates: candidates.clone(), fresh_ms: 30_000 };
    node.handle_message(ProxyId::of(MATE), list.into(), now);
    let known = state(&node);
    let own_or_listed = known.lists.iter().any(|(group, list)| *group == other && !list.is_empty());
    assert!(own_or_listed, "{:?}", known.lists);
    let node = next(&node, now);
    assert_eq!(state(&node).lists, known.lists);
}

#[test]
fn a_rap_does_not_refuse_a_group_whose_report_its_former_process_may_have_swallowed() {
    let (node, now) = busy();
    let refuses = |node: &mut Node, now| {
        let (flow, parked) = (FlowHash(1), ParkedId(1));
        let group = "203.0.113.77:53/udp".parse().unwrap();
        let ingress = ProxyId::of(MATE);
        let (tried, opens, hops) = (None, true, 1);
        let asks = ForwardingEvent::Resolve { group, flow, ingress, tried, opens, hops, parked };
        node.handle_event(asks, now);
        updates(node).contains(&ForwardingUpdate::Refuse { parked })
    };
    let mut next = next(&node, now);
    updates(&mut next);
    assert!(!refuses(&mut next, now));
    assert!(refuses(&mut next, now + Duration::from_millis(1_500)));
}

#[test]
fn a_mate_that_was_gone_then_hears_of_what_has_joined_since_when_it_is_back() {
    let (mut node, now) = busy();
    let mate = |incarnation, state| {
        let members = vec![MemberRecord { incarnation, state, ..mate() }];
        MemberUpdate { pushed: true, members, clusters: vec![] }
    };
    node.handle_message(ProxyId::of("nyc1"), mate(1, MemberState::Left).into(), now);
    let mut node = next(&node, now);
    node.agent_connected(AGENT, link("10.0.0.1:5001"), now);
    node.agent_message(AGENT, wish(), now);
    run(&mut node, now + Duration::from_millis(100));
    let now = now + Duration::from_millis(200);
    node.handle_message(ProxyId::of("nyc1"), mate(2, MemberState::Up).into(), now);
    let said = run(&mut node, now + Duration::from_millis(100));
    let taken = LeaseTaken { leases: vec![(group(), target())] };
    let told = said.iter().any(|effect| {
        matches!(effect, Effect::Send { message: OverlayMessage::LeaseTaken(t), .. } if *t == taken)
    });
    assert!(told, "{said:?}");
}

#[test]
fn a_node_that_is_not_ready_or_drains_has_nothing_to_hand_over() {
    let mut node = Node::new(config(), 1, Time::ZERO);
    assert_eq!(node.hand_over(), None);
    let (ready, now) = busy();
    assert!(ready.hand_over().is_some());
    node = ready;
    node.drain(now);
    assert_eq!(node.hand_over(), None);
}

/// A lease as the mate tells it.
fn of_mate(id: u64) -> Lease {
    let target = SocketAddr::new([10, 0, 0, 9].into(), 53);
    let (id, link) = (TargetId(id), link("10.0.0.9:5000"));
    Lease { id, group: group(), target, weight: 1, state: LeaseState::Up, link }
}

#[test]
fn what_mates_left_here_is_there_when_they_die() {
    let (mut node, now) = busy();
    let replica = LeaseReplica { epoch: 5, sequence: 0, leases: vec![of_mate(1)], ended: vec![] };
    node.handle_message(ProxyId::of(MATE), replica.into(), now);
    let mut node = next(&node, now);
    effects(&mut node);
    // What the mate tells next is in order.
    let more = LeaseReplica { epoch: 5, sequence: 1, leases: vec![], ended: vec![] };
    node.handle_message(ProxyId::of(MATE), more.into(), now);
    let acknowledged = |effect: &Effect| matches!(effect, Effect::Send { message: OverlayMessage::LeaseAck(ack), .. } if ack.known);
    assert!(effects(&mut node).iter().any(acknowledged));
    let said = run(&mut node, now + Duration::from_secs(10));
    let served = |effect: &Effect| matches!(effect, Effect::Forward(ForwardingUpdate::Target(t)) if t.address == of_mate(1).target);
    assert!(said.iter().any(served), "the mate is silent, and so dead: {said:?}");
}

#[test]
fn what_a_dead_mate_left_is_gone_on_with() {
    let (mut node, now) = busy();
    let now = now + Duration::from_secs(3);
    run(&mut node, now);
    let said = updates(&mut next(&node, now));
    let (dead, heir) = (ProxyId::of(MATE), Some(ProxyId::of("fra1")));
    assert!(said.contains(&ForwardingUpdate::PeerGone { id: dead, heir }), "{said:?}");
    let nat = vec![(dead, "192.0.2.2".parse().unwrap())];
    assert!(said.contains(&ForwardingUpdate::StandbyNat(nat)), "{said:?}");
}
