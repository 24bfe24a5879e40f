//! Leases at the heir, seen from one node: a cluster of two, of which the other one is played here.

mod support;

use std::{net::SocketAddr, time::Duration};

use pias_overlay::{AgentId, Effect, Node};
use pias_protocol::{
    agent::{Join, KeepAlive, Leave, Pong},
    forwarding::{ForwardingEvent, ForwardingUpdate, SecondChanceCause, TargetState},
    group::GroupKey,
    hash::FlowHash,
    ids::{ParkedId, ProxyId, TargetId},
    overlay::{
        AgentLink, Heartbeat, Lease, LeaseAck, LeaseReplica, LeaseState, LeaseTaken, MemberRecord,
        MemberState, MemberUpdate, OverlayMessage,
    },
    time::Time,
};
use support::{config, effects, ms};

const AGENT: AgentId = AgentId(1);
const MATE: &str = "fra2";

fn group(port: u16) -> GroupKey {
    GroupKey { port, ..key() }
}

fn key() -> GroupKey {
    "203.0.113.10:53/udp".parse().unwrap()
}

fn link(n: u64) -> AgentLink {
    AgentLink {
        remote: ([10, 0, (n >> 8) as u8, n as u8], 5_000).into(),
        anycast: "203.0.113.10".parse().unwrap(),
        connection: n.to_be_bytes(),
    }
}

fn target(n: u64) -> SocketAddr {
    ([10, 0, (n >> 8) as u8, n as u8], 53).into()
}

/// A lease of the mate, of a group of its own.
fn lease(n: u64) -> Lease {
    Lease {
        id: TargetId(n),
        group: group(n as u16),
        target: target(n),
        weight: 1,
        state: LeaseState::Up,
        link: link(n),
    }
}

/// A node of a cluster of two that has met the other one.
fn with_mate() -> Node {
    let mut node = Node::new(config(), 1, Time::ZERO);
    let mate = MemberRecord {
        name: MATE.into(),
        cluster: "fra".into(),
        unicast: vec!["198.51.100.2".parse().unwrap()],
        nat: Vec::new(),
        incarnation: 1,
        state: MemberState::Up,
    };
    let update = MemberUpdate { pushed: true, members: vec![mate], clusters: vec![] };
    hear(&mut node, update, Time::ZERO);
    let told = replicas(&run(&mut node, Time::ZERO, ms(2_000), true));
    acknowledge(&mut node, told.last().expect("the heir is told at once"), true, ms(2_000));
    node
}

/// The mate says something.
fn hear(node: &mut Node, message: impl Into<OverlayMessage>, now: Time) {
    node.handle_message(ProxyId::of(MATE), message.into(), now);
}

/// Lets time pass, in which the mate beats or is silent; what the node wished.
fn run(node: &mut Node, from: Time, end: Time, beats: bool) -> Vec<(Time, Effect)> {
    let (mut all, mut beat) = (Vec::new(), from);
    while let Some(at) = node.next_timeout().map(|deadline| deadline.at).filter(|at| *at <= end) {
        let at = at.max(from);
        while beats && beat <= at {
            hear(node, Heartbeat { sequence: 1, asks: false }, beat);
            beat = beat + Duration::from_millis(50);
        }
        node.handle_timeout(at);
        all.extend(effects(node).into_iter().map(|effect| (at, effect)));
    }
    all
}

fn replicas(effects: &[(Time, Effect)]) -> Vec<LeaseReplica> {
    let replica = |(_, effect): &(Time, Effect)| match effect {
        Effect::Send { message: OverlayMessage::LeaseReplica(replica), .. } => {
            Some(replica.clone())
        }
        _ => None,
    };
    effects.iter().filter_map(replica).collect()
}

fn acknowledge(node: &mut Node, replica: &LeaseReplica, known: bool, now: Time) {
    let (epoch, sequence) = (replica.epoch, replica.sequence);
    hear(node, LeaseAck { epoch, sequence, known }, now);
}

/// The mate tells its leases, and dies; what the node wished until its death was known.
fn inherit(node: &mut Node, leases: std::ops::Range<u64>) -> (Vec<Effect>, Time) {
    inherit_these(node, &leases.map(lease).collect::<Vec<_>>())
}

fn inherit_these(node: &mut Node, leases: &[Lease]) -> (Vec<Effect>, Time) {
    for (sequence, leases) in (0..).zip(leases.chunks(256)) {
        let leases = leases.to_vec();
        let batch = LeaseReplica { epoch: 5, sequence, leases, ended: Vec::new() };
        hear(node, batch, ms(2_000));
    }
    effects(node);
    let mut now = ms(2_000);
    loop {
        let wished = run(node, now, now + Duration::from_millis(5), false);
        now = now + Duration::from_millis(5);
        assert!(now < ms(8_000), "the mate is not taken for dead");
        let gone = |effect: &Effect| {
            matches!(effect, Effect::Forward(ForwardingUpdate::PeerGone { heir: Some(_), .. }))
        };
        if wished.iter().any(|(_, effect)| gone(effect)) {
            return (wished.into_iter().map(|(_, effect)| effect).collect(), now);
        }
    }
}

fn joins(node: &mut Node, n: u64, now: Time) {
    node.agent_connected(AGENT, link(900), now);
    let wish =
        Join { request: 1, group: group(n as u16), target: target(n), weight: 1, healthy: true };
    node.agent_message(AGENT, wish.into(), now);
}

/// The targets that the datapath was told to serve, by address, and how.
fn served(effects: &[Effect]) -> Vec<(SocketAddr, TargetState)> {
    let served = |effect: &Effect| match effect {
        Effect::Forward(ForwardingUpdate::Target(target)) => Some((target.address, target.state)),
        _ => None,
    };
    effects.iter().filter_map(served).collect()
}

#[test]
fn a_lease_that_the_heir_did_not_acknowledge_is_in_the_next_batch_again() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    let first = replicas(&run(&mut node, ms(2_000), ms(2_900), true));
    let [first] = &first[..] else { panic!("one batch at a time: {first:?}") };
    assert_eq!(first.leases[0].target, target(1));
    assert_eq!(first.leases[0].link, link(900));
    let second = replicas(&run(&mut node, ms(2_900), ms(3_500), true));
    assert_eq!(second.len(), 1);
    assert_eq!((second[0].epoch, &second[0].leases), (first.epoch, &first.leases));
    assert!(second[0].sequence > first.sequence);

    acknowledge(&mut node, &second[0], true, ms(3_500));
    assert_eq!(replicas(&run(&mut node, ms(3_500), ms(4_500), true)), []);
    node.agent_closed(AGENT, ms(4_500));
    let last = replicas(&run(&mut node, ms(4_500), ms(4_900), true));
    assert_eq!(last[0].ended, [first.leases[0].id]);
}

#[test]
fn an_heir_that_knows_nothing_is_told_everything_anew() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    let told = replicas(&run(&mut node, ms(2_000), ms(2_500), true));
    acknowledge(&mut node, &told[0], false, ms(2_500));
    let anew = replicas(&run(&mut node, ms(2_500), ms(2_900), true));
    assert_eq!((anew[0].sequence, anew[0].leases.len()), (0, 1));
    assert_ne!(anew[0].epoch, told[0].epoch);
}

#[test]
fn the_heir_serves_the_targets_and_resets_the_agents_the_moment_it_knows() {
    let mut node = with_mate();
    let (wished, now) = inherit(&mut node, 1..4);
    let up = |n| (target(n), TargetState::Up);
    assert_eq!(served(&wished), [up(1), up(2), up(3)]);
    let resets = |all: Vec<(Time, Effect)>| {
        all.into_iter().filter(|(_, effect)| matches!(effect, Effect::ResetAgent(_))).count()
    };
    // Each reset may be lost: three for each agent.
    let early = wished.into_iter().map(|effect| (now, effect)).collect();
    assert_eq!(resets(early) + resets(run(&mut node, now, now + Duration::from_secs(3), false)), 9);
}

#[test]
fn a_packet_does_not_wait_for_the_turn_of_its_group() {
    let mut node = with_mate();
    let (wished, now) = inherit(&mut node, 1..2_001);
    assert_eq!(served(&wished).len(), 512);
    let packet = ForwardingEvent::SecondChance {
        group: group(2_000),
        flow: FlowHash(1),
        ingress: ProxyId::of("fra1"),
        opens: true,
        hops: 1,
        cause: SecondChanceCause::NoTarget,
        parked: ParkedId(3),
    };
    node.handle_event(packet, now);
    let wished = effects(&mut node);
    assert_eq!(served(&wished), [(target(2_000), TargetState::Up)]);
    assert!(wished.contains(&Effect::Forward(ForwardingUpdate::Deliver { parked: ParkedId(3) })));
}

#[test]
fn an_agent_that_joins_at_the_heir_takes_its_lease_over_and_keeps_its_flows() {
    let mut node = with_mate();
    let (_, now) = inherit(&mut node, 1..2);
    let inherited = node.targets(now);
    assert_eq!(inherited[0].why, "inherited; its agent is not back yet");
    joins(&mut node, 1, now);
    let wished = run(&mut node, now, now + Duration::from_secs(2), false);
    assert!(!wished.iter().any(|(_, effect)| matches!(effect, Effect::ResetAgent(_))));
    let taken = node.targets(now);
    assert_eq!((taken.len(), taken[0].id), (1, inherited[0].id));
}

#[test]
fn an_inherited_lease_ends_when_a_mate_has_it_but_its_flows_may_go_on() {
    let mut node = with_mate();
    let (_, now) = inherit(&mut node, 1..2);
    // The mate is back, and its agent answers it.
    hear(&mut node, LeaseTaken { leases: vec![(group(1), target(1))] }, now);
    assert_eq!(served(&effects(&mut node)), [], "the dead are not listened to");
    let back = MemberRecord {
        name: MATE.into(),
        cluster: "fra".into(),
        unicast: vec!["198.51.100.2".parse().unwrap()],
        nat: Vec::new(),
        incarnation: 2,
        state: MemberState::Up,
    };
    hear(&mut node, MemberUpdate { pushed: true, members: vec![back], clusters: vec![] }, now);
    hear(&mut node, LeaseTaken { leases: vec![(group(1), target(1))] }, now);
    assert_eq!(served(&effects(&mut node)), [], "the RAPs may not know the mate's yet");
    let all = run(&mut node, now, now + Duration::from_secs(2), true);
    assert_eq!(fate(&all), (false, Some(TargetState::Draining)));
}

#[test]
fn a_group_of_many_targets_is_taken_over_in_steps_too() {
    let mut node = with_mate();
    let all = 2_000;
    let leases = (1..=all).map(|n| Lease { group: group(1), ..lease(n) });
    let (wished, now) = inherit_these(&mut node, &leases.collect::<Vec<_>>());
    let first = served(&wished).len();
    assert!((1..=512).contains(&first), "{first} at once");
    let later = run(&mut node, now, now + Duration::from_millis(200), false);
    let later: Vec<_> = later.into_iter().map(|(_, effect)| effect).collect();
    assert_eq!(first + served(&later).len(), all as usize);
    assert_eq!(node.group(&group(1), now).local.len(), all as usize);
}

#[test]
fn an_agent_of_many_inherited_targets_is_reset_no_more_often_than_any_other() {
    let mut node = with_mate();
    let leases = (1..=2_000).map(|n| Lease { link: link(1), ..lease(n) });
    let (wished, now) = inherit_these(&mut node, &leases.collect::<Vec<_>>());
    let later = run(&mut node, now, now + Duration::from_secs(4), false);
    let all = wished.into_iter().chain(later.into_iter().map(|(_, effect)| effect));
    assert_eq!(all.filter(|effect| matches!(effect, Effect::ResetAgent(_))).count(), 3);
}

#[test]
fn a_target_that_left_at_once_is_not_announced_to_mates_where_it_may_be_now() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    let lease = TargetId(node.targets(ms(2_000))[0].id);
    node.agent_message(AGENT, Leave { lease }.into(), ms(2_001));
    let wished = run(&mut node, ms(2_001), ms(2_300), true);
    let taken = |effect: &Effect| {
        matches!(effect, Effect::Send { message: OverlayMessage::LeaseTaken(_), .. })
    };
    assert!(!wished.iter().any(|(_, effect)| taken(effect)));
}

#[test]
fn an_answer_to_a_batch_that_was_never_sent_changes_nothing() {
    let mut node = with_mate();
    let told = replicas(&run(&mut node, ms(2_000), ms(8_000), true));
    let last = told.last().expect("the heir is asked now and then whether it knows");
    let wrong = LeaseReplica { sequence: u64::MAX, ..last.clone() };
    acknowledge(&mut node, &wrong, false, ms(8_000));
    let again = replicas(&run(&mut node, ms(8_000), ms(9_500), true));
    assert!(again.iter().all(|replica| replica.epoch == last.epoch));
}

#[test]
fn a_lost_batch_is_told_again_at_once_when_the_connection_is_known_to_be_lost() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    let lost = replicas(&run(&mut node, ms(2_000), ms(2_100), true));
    assert_eq!(lost.len(), 1);
    node.undelivered(ProxyId::of(MATE), ms(2_200));
    let again = replicas(&run(&mut node, ms(2_200), ms(2_220), true));
    assert_eq!(again.iter().map(|replica| &replica.leases).collect::<Vec<_>>(), [&lost[0].leases]);
}

/// What became of the agent's target: whether the datapath was told that it is no more, and what it
/// was told last.
fn fate(all: &[(Time, Effect)]) -> (bool, Option<TargetState>) {
    let updates = all.iter().filter_map(|(_, effect)| match effect {
        Effect::Forward(update) => Some(update),
        _ => None,
    });
    let mut fate = (false, None);
    for update in updates {
        match update {
            ForwardingUpdate::TargetGone(_) => fate.0 = true,
            ForwardingUpdate::Target(target) => fate.1 = Some(target.state),
            _ => {}
        }
    }
    fate
}

#[test]
fn a_proxy_that_did_not_run_takes_no_agent_for_dead() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    let _ = run(&mut node, ms(2_000), ms(2_200), true);
    // Longer than the lease; the agent's word waits in the socket.
    node.handle_timeout(ms(9_000));
    let mut all: Vec<_> =
        effects(&mut node).into_iter().map(|effect| (ms(9_000), effect)).collect();
    node.agent_message(AGENT, KeepAlive { sequence: 1 }.into(), ms(9_010));
    all.extend(run(&mut node, ms(9_010), ms(10_500), true));
    assert_eq!(fate(&all), (false, None));
}

#[test]
fn a_target_whose_agent_went_elsewhere_while_its_proxy_did_not_run_keeps_its_flows() {
    // Its mate has reset the agent. Who notices first is chance: the connection is found closed, or the
    // agent does not answer.
    for closed in [true, false] {
        let mut node = with_mate();
        joins(&mut node, 1, ms(2_000));
        let _ = run(&mut node, ms(2_000), ms(2_200), true);
        if closed {
            node.agent_closed(AGENT, ms(9_000));
        }
        let all = run(&mut node, ms(9_000), ms(20_000), true);
        assert_eq!(fate(&all), (false, Some(TargetState::Draining)), "closed: {closed}");
    }
}

#[test]
fn a_target_that_a_mate_took_keeps_its_flows_for_long() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    hear(&mut node, LeaseTaken { leases: vec![(group(1), target(1))] }, ms(3_000));
    node.agent_closed(AGENT, ms(3_100));
    let all = run(&mut node, ms(3_100), ms(900_000), true);
    assert_eq!(fate(&all), (false, Some(TargetState::Draining)));
}

#[test]
fn the_flows_of_a_target_whose_agent_falls_silent_wait_for_it_to_join_at_a_mate() {
    for joins_there in [false, true] {
        let mut node = with_mate();
        joins(&mut node, 1, ms(2_000));
        node.agent_message(AGENT, Pong { sequence: 1 }.into(), ms(2_003));
        let _ = run(&mut node, ms(2_003), ms(4_400), true);
        // It was heard long ago, as of a proxy with many agents. Routing has led its packets to the mate, which has reset it: its old port is closed.
        node.handle_event(ForwardingEvent::AgentUnreachable(link(900).remote), ms(4_400));
        let all = run(&mut node, ms(4_400), ms(5_500), true);
        assert_eq!(fate(&all), (false, Some(TargetState::Draining)), "no new flows from now on");
        if joins_there {
            let leases = vec![(group(1), target(1))];
            hear(&mut node, LeaseTaken { leases }, ms(5_500));
        }
        let all = run(&mut node, ms(5_500), ms(900_000), true);
        assert_eq!(fate(&all).0, !joins_there, "gone; joins there: {joins_there}");
    }
}

fn taken(effects: &[(Time, Effect)]) -> Vec<Time> {
    let taken = |(at, effect): &(Time, Effect)| {
        let message = matches!(effect, Effect::Send { message: OverlayMessage::LeaseTaken(_), .. });
        message.then_some(*at)
    };
    effects.iter().filter_map(taken).collect()
}

#[test]
fn a_mate_hears_again_what_joined_when_the_connection_to_it_was_lost() {
    let mut node = with_mate();
    joins(&mut node, 1, ms(2_000));
    assert_eq!(taken(&run(&mut node, ms(2_000), ms(3_000), true)).len(), 1);
    node.undelivered(ProxyId::of(MATE), ms(4_000));
    assert_eq!(taken(&run(&mut node, ms(4_000), ms(5_000), true)).len(), 1);
    node.undelivered(ProxyId::of(MATE), ms(20_000));
    assert_eq!(taken(&run(&mut node, ms(20_000), ms(21_000), true)).len(), 0, "long ago");
}

#[test]
fn an_inherited_target_whose_agent_does_not_come_keeps_its_flows() {
    let mut node = with_mate();
    let (_, now) = inherit(&mut node, 1..2);
    let all = run(&mut node, now, now + Duration::from_secs(60), false);
    assert_eq!(fate(&all), (false, Some(TargetState::Draining)));
}
