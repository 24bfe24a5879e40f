//! One node by itself: what it asks of its driver, and what it does at its bounds.

mod support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use pias_overlay::{AgentId, CloseReason, Effect, Node, NodeConfig, Seed};
use pias_protocol::{
    agent::{AgentMessage, JapMessage, Join, Leave, Pong, RefusalCode},
    forwarding::{
        ForwardingEvent, ForwardingUpdate, IngressEntry, ProbeOutcome, RelayHow, TargetState,
    },
    group::GroupKey,
    hash::FlowHash,
    ids::{ParkedId, ProxyId, TargetId},
    overlay::{
        AgentLink, CandidateList, Coordinate, CountAck, Have, Heartbeat, HeartbeatAck, MemberKey,
        MemberRecord, MemberState, MemberUpdate, NoTarget, OverlayMessage, Resolve,
    },
    placement::Candidate,
    time::Time,
};
use support::{config, effects, ms};

const AGENT: AgentId = AgentId(1);

fn link(remote: &str) -> AgentLink {
    AgentLink {
        remote: remote.parse().unwrap(),
        anycast: "203.0.113.10".parse().unwrap(),
        connection: [7; 8],
    }
}

fn group(port: u16) -> GroupKey {
    format!("203.0.113.10:{port}/udp").parse().unwrap()
}

/// A group that others are the RAPs of.
fn foreign(node: &Node) -> GroupKey {
    let others = |g: &GroupKey| !node.group(g, Time::ZERO).summary.rendezvous;
    (1..2_000).map(group).find(others).expect("some group is another's")
}

fn lone() -> Node {
    let seeds = vec![Seed { name: "fra1".into(), address: "198.51.100.1".parse().unwrap() }];
    let config = NodeConfig { seeds, ..config() };
    Node::new(config, 1, Time::ZERO)
}

/// A node that knows of some others, each in a cluster of its own.
fn among(others: &[&str]) -> Node {
    knowing(others, |name| format!("at-{name}"))
}

/// A node that knows of some others.
fn knowing(others: &[&str], cluster: impl Fn(&str) -> String) -> Node {
    let mut node = lone();
    let members = others.iter().enumerate().map(|(n, name)| MemberRecord {
        name: (*name).into(),
        cluster: cluster(name),
        unicast: vec![[198, 51, 100, 10 + n as u8].into()],
        nat: vec![],
        incarnation: 1,
        state: MemberState::Up,
    });
    let update =
        MemberUpdate { pushed: true, members: members.collect(), ..MemberUpdate::default() };
    node.handle_message(ProxyId::of(others[0]), update.into(), Time::ZERO);
    effects(&mut node);
    node
}

fn updates(node: &mut Node) -> Vec<ForwardingUpdate> {
    let forwarded = |effect| match effect {
        Effect::Forward(update) => Some(update),
        _ => None,
    };
    effects(node).into_iter().filter_map(forwarded).collect()
}

fn said(node: &mut Node) -> Vec<JapMessage> {
    let said = |effect| match effect {
        Effect::Agent { message, .. } => Some(message),
        _ => None,
    };
    effects(node).into_iter().filter_map(said).collect()
}

/// Lets the node's timers fire up to `end`, answering nothing; what it wished meanwhile.
fn run(node: &mut Node, end: Time) -> Vec<(Time, Effect)> {
    let mut all = Vec::new();
    while let Some(deadline) = node.next_timeout().filter(|deadline| deadline.at <= end) {
        node.handle_timeout(deadline.at);
        all.extend(effects(node).into_iter().map(|effect| (deadline.at, effect)));
        let next = node.next_timeout().map(|deadline| deadline.at);
        assert!(next > Some(deadline.at), "{deadline:?} is due for ever");
    }
    all
}

fn wish(request: u32, group: GroupKey, target: u32) -> AgentMessage {
    let target = SocketAddr::from(([10, 0, (target >> 8) as u8, target as u8], 53));
    Join { request, group, target, weight: 1, healthy: true }.into()
}

/// A node with one agent and one UDP target, warmed up.
fn with_target() -> (Node, TargetId, Time) {
    let mut node = lone();
    let now = ms(2_000);
    run(&mut node, now);
    node.agent_connected(AGENT, link("10.0.0.1:5000"), now);
    node.agent_message(AGENT, wish(1, group(53), 1), now);
    let lease = said(&mut node).into_iter().find_map(|message| match message {
        JapMessage::Joined(joined) => Some(joined.lease),
        _ => None,
    });
    (node, lease.expect("the join is granted"), now)
}

fn missed(node: &mut Node, group: GroupKey, parked: u64, now: Time) -> Vec<ForwardingUpdate> {
    let (flow, parked) = (FlowHash(parked), ParkedId(parked));
    node.handle_event(ForwardingEvent::Missed { group, flow, parked }, now);
    updates(node)
}

#[test]
fn a_lone_proxy_is_ready_after_a_grace_and_not_ready_once_it_drains() {
    let mut node = lone();
    let at = run(&mut node, ms(3_000))
        .into_iter()
        .find_map(|(at, effect)| matches!(effect, Effect::Announce(true)).then_some(at));
    assert_eq!(at, Some(ms(1_000)));
    node.drain(ms(3_000));
    assert!(effects(&mut node).contains(&Effect::Announce(false)));
    assert_eq!(node.status().state, "draining");
}

#[test]
fn a_proxy_that_is_its_own_rap_and_jap_delivers_without_a_message() {
    let (mut node, _, now) = with_target();
    let all = missed(&mut node, group(53), 9, now);
    assert!(all.contains(&ForwardingUpdate::Deliver { parked: ParkedId(9) }), "{all:?}");
    let own = Candidate { proxy: ProxyId::of("fra1"), tier: 0, weight: 1 };
    let entry = IngressEntry::Candidates(vec![own]);
    assert!(all.contains(&ForwardingUpdate::Ingress { group: group(53), entry }), "{all:?}");
}

#[test]
fn a_refusal_is_remembered_for_half_a_second() {
    let mut node = lone();
    run(&mut node, ms(2_000));
    let all = missed(&mut node, group(53), 1, ms(2_000));
    assert!(all.contains(&ForwardingUpdate::Refuse { parked: ParkedId(1) }), "{all:?}");
    let forgotten = run(&mut node, ms(4_000)).into_iter().find_map(|(at, effect)| {
        (effect == Effect::Forward(ForwardingUpdate::IngressForget(group(53)))).then_some(at)
    });
    assert_eq!(forgotten, Some(ms(2_500)));
}

#[test]
fn a_packet_that_comes_before_any_report_is_held_and_refused_at_last() {
    let mut node = lone();
    assert_eq!(missed(&mut node, group(53), 1, ms(100)), []);
    let refused = run(&mut node, ms(2_000)).into_iter().find_map(|(at, effect)| {
        let refusal = ForwardingUpdate::Refuse { parked: ParkedId(1) };
        (effect == Effect::Forward(refusal)).then_some(at)
    });
    assert_eq!(refused, Some(ms(900)));
    assert_eq!(node.status().counters.held_packets, 1);
}

#[test]
fn a_packet_for_a_group_that_has_just_lost_its_last_target_waits_for_the_next() {
    let (mut node, lease, now) = with_target();
    node.agent_message(AGENT, Leave { lease }.into(), now);
    effects(&mut node);
    assert_eq!(missed(&mut node, group(53), 1, now + Duration::from_millis(10)), []);
    let back = now + Duration::from_millis(300);
    node.agent_message(AGENT, wish(2, group(53), 1), back);
    let delivery = ForwardingUpdate::Deliver { parked: ParkedId(1) };
    assert!(updates(&mut node).contains(&delivery));
}

#[test]
fn a_packet_for_a_group_without_targets_is_refused_once_none_came_for_a_second() {
    let (mut node, lease, now) = with_target();
    node.agent_message(AGENT, Leave { lease }.into(), now);
    effects(&mut node);
    let refusal = |parked| ForwardingUpdate::Refuse { parked: ParkedId(parked) };
    assert_eq!(missed(&mut node, group(53), 1, now), []);
    let given_up = run(&mut node, now + Duration::from_millis(1_000)).into_iter();
    let refused = given_up.filter(|(_, effect)| *effect == Effect::Forward(refusal(1)));
    assert_eq!(refused.map(|(at, _)| at).next(), Some(now + Duration::from_millis(800)));
    let all = missed(&mut node, group(53), 2, now + Duration::from_millis(1_000));
    assert!(all.contains(&refusal(2)), "{all:?}");
}

#[test]
fn silent_raps_are_asked_in_turn_and_given_up_after_eight() {
    let mut node = among(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let foreign = foreign(&node);
    let all = missed(&mut node, foreign, 1, ms(1));
    let how = RelayHow::Resolve { tried: None };
    assert!(all.iter().any(|u| matches!(u, ForwardingUpdate::Relay { how: h, .. } if *h == how)));
    let wished = run(&mut node, ms(2_900));
    let asked: Vec<_> = wished
        .iter()
        .filter_map(|(_, effect)| match effect {
            Effect::Send { to, message: OverlayMessage::Resolve(Resolve { .. }), .. } => Some(*to),
            _ => None,
        })
        .collect();
    assert_eq!(asked.len(), 7);
    assert_eq!(asked[..3].iter().collect::<BTreeSet<_>>().len(), 3);
    let forget = Effect::Forward(ForwardingUpdate::IngressForget(foreign));
    assert_eq!(wished.iter().filter(|(_, effect)| *effect == forget).count(), 1);
}

#[test]
fn a_jap_without_targets_is_dropped_and_a_used_up_list_goes_back_to_the_rap() {
    let mut node = among(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let foreign = foreign(&node);
    missed(&mut node, foreign, 1, ms(1));
    let japs = [ProxyId::of("a"), ProxyId::of("b")];
    let candidates: Vec<_> =
        japs.iter().map(|&proxy| Candidate { proxy, tier: 0, weight: 1 }).collect();
    let list = CandidateList { group: foreign, candidates: candidates.clone(), fresh_ms: 30_000 };
    node.handle_message(ProxyId::of("c"), list.into(), ms(2));
    updates(&mut node);
    node.handle_message(japs[0], NoTarget { group: foreign }.into(), ms(3));
    let entry = IngressEntry::Candidates(candidates[1..].to_vec());
    assert_eq!(updates(&mut node), [ForwardingUpdate::Ingress { group: foreign, entry }]);
    node.handle_message(japs[1], NoTarget { group: foreign }.into(), ms(4));
    let all = effects(&mut node);
    let asks = |e: &Effect| matches!(e, Effect::Send { message: OverlayMessage::Resolve(_), .. });
    assert!(all.iter().any(asks), "{all:?}");
}

#[test]
fn a_jap_that_had_no_target_is_tried_again_where_a_rap_names_it_alone() {
    let mut node = among(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let foreign = foreign(&node);
    missed(&mut node, foreign, 1, ms(1));
    let jap = ProxyId::of("a");
    let candidates = vec![Candidate { proxy: jap, tier: 0, weight: 1 }];
    let list = CandidateList { group: foreign, candidates: candidates.clone(), fresh_ms: 30_000 };
    node.handle_message(ProxyId::of("c"), list.clone().into(), ms(2));
    node.handle_message(jap, NoTarget { group: foreign }.into(), ms(3));
    effects(&mut node);
    // A target joins it, and the RAP hears of that.
    node.handle_message(ProxyId::of("c"), list.into(), ms(100));
    let entry = IngressEntry::Candidates(candidates);
    assert_eq!(updates(&mut node), [ForwardingUpdate::Ingress { group: foreign, entry }]);
    // What it said before is late, or the RAP is: that one is asked in a second.
    let asks = |e: &Effect| matches!(e, Effect::Send { message: OverlayMessage::Resolve(_), .. });
    let said = |node: &mut Node| effects(node).into_iter().filter(asks).count();
    node.handle_message(jap, NoTarget { group: foreign }.into(), ms(101));
    node.handle_event(ForwardingEvent::IngressUsed(foreign), ms(1_000));
    assert_eq!(said(&mut node), 0);
    node.handle_event(ForwardingEvent::IngressUsed(foreign), ms(1_100));
    assert_eq!(said(&mut node), 1);
}

#[test]
fn the_least_recently_used_group_makes_room() {
    let mut node = lone();
    run(&mut node, ms(2_000));
    let address = |n: u32| std::net::IpAddr::from([203, 0, 113, (n >> 14) as u8]);
    let bound = 16_384_u32;
    for n in 0..=bound {
        let group = GroupKey { address: address(n), port: (n & 0x3FFF) as u16 + 1, ..group(1) };
        missed(&mut node, group, n.into(), Time::from_micros(2_000_000 + u64::from(n)));
    }
    let status = node.status();
    assert_eq!(status.ingress_groups, bound as usize);
    assert_eq!(status.counters.table_full, 1);
    let first = GroupKey { address: address(0), port: 1, ..group(1) };
    assert_eq!(node.group(&first, ms(2_100)).summary.ingress, None);
}

#[test]
fn a_connection_holds_so_many_targets_and_no_more() {
    let (mut node, _, now) = with_target();
    for n in 2..=257 {
        node.agent_message(AGENT, wish(n, group(53), n), now);
    }
    let refusals: Vec<_> = said(&mut node)
        .into_iter()
        .filter_map(|message| match message {
            JapMessage::Refused(refused) => Some((refused.request, refused.code)),
            _ => None,
        })
        .collect();
    assert_eq!(refusals, [(257, RefusalCode::Full)]);
    assert_eq!(node.targets(now).len(), 256);
}

#[test]
fn a_draining_proxy_refuses_joins() {
    let (mut node, _, now) = with_target();
    node.drain(now);
    assert!(said(&mut node).iter().any(|message| matches!(message, JapMessage::Draining(_))));
    node.agent_message(AGENT, wish(2, group(53), 2), now);
    assert!(said(&mut node).iter().any(|message| matches!(message, JapMessage::Refused(_))));
}

#[test]
fn a_target_that_left_keeps_its_flows_though_its_agent_closes() {
    let (mut node, lease, now) = with_target();
    node.agent_message(AGENT, Leave { lease }.into(), now);
    node.agent_closed(AGENT, now);
    let all = updates(&mut node);
    assert!(
        matches!(&all[..], [ForwardingUpdate::Target(t)] if t.state == TargetState::Draining),
        "{all:?}"
    );
    let gone =
        run(&mut node, now + Duration::from_secs(400)).into_iter().find_map(|(at, effect)| {
            (effect == Effect::Forward(ForwardingUpdate::TargetGone(lease))).then_some(at)
        });
    assert_eq!(gone, Some(now + Duration::from_secs(300)));
}

#[test]
fn a_target_whose_agent_vanishes_is_gone_at_once() {
    let (mut node, lease, now) = with_target();
    node.agent_closed(AGENT, now);
    assert!(updates(&mut node).contains(&ForwardingUpdate::TargetGone(lease)));
}

#[test]
fn a_refused_target_is_probed_taken_out_and_probed_again() {
    let (mut node, lease, now) = with_target();
    node.handle_event(ForwardingEvent::TargetRefuses(lease), now);
    node.handle_event(ForwardingEvent::TargetRefuses(lease), now);
    assert_eq!(updates(&mut node), [ForwardingUpdate::Probe { target: lease }]);
    let outcome = ProbeOutcome::Refused;
    node.handle_event(ForwardingEvent::ProbeDone { target: lease, outcome }, now);
    let all = effects(&mut node);
    let told = |e: &Effect| matches!(e, Effect::Agent { message: JapMessage::TargetChange(c), .. } if !c.up);
    assert!(all.iter().any(told), "{all:?}");
    assert_eq!(node.targets(now)[0].state, "down");
    let probe = Effect::Forward(ForwardingUpdate::Probe { target: lease });
    let again = run(&mut node, now + Duration::from_secs(1))
        .into_iter()
        .find_map(|(at, effect)| (effect == probe).then_some(at));
    assert_eq!(again, Some(now + Duration::from_millis(250)));
}

/// Its machine refuses few packets a second, and flows used that up: the probe hears nothing.
#[test]
fn a_udp_target_that_refuses_a_flow_and_answers_no_other_is_taken_out() {
    use ForwardingEvent::{TargetAnswers, TargetRefuses, TargetSilent};
    let state_if_apart = |events: &[fn(TargetId) -> ForwardingEvent], apart| {
        let (mut node, lease, mut now) = with_target();
        for event in events {
            node.handle_event(event(lease), now);
            now = now + apart;
        }
        let outcome = ProbeOutcome::Silent;
        node.handle_event(ForwardingEvent::ProbeDone { target: lease, outcome }, now);
        node.targets(now)[0].state
    };
    let state = |events: &[_]| state_if_apart(events, Duration::ZERO);
    let silent = |target| TargetSilent { target, unanswered: 3 };
    assert_eq!(state(&[TargetRefuses, silent]), "down");
    assert_eq!(state_if_apart(&[TargetRefuses, silent], Duration::from_secs(3)), "up");
    assert_eq!(state(&[TargetRefuses]), "up");
    assert_eq!(state(&[silent]), "up");
    assert_eq!(state(&[TargetRefuses, TargetAnswers, silent]), "up");
}

#[test]
fn a_silent_agent_whose_target_is_used_is_pinged_a_quarter_of_a_second_after_its_last_word() {
    let (mut node, target, heard) = with_target();
    let ms = Duration::from_millis;
    let pings = |node: &mut Node, end| -> Vec<Duration> {
        let pings = run(node, end).into_iter().filter(|(_, effect)| {
            matches!(effect, Effect::Agent { message: JapMessage::Ping(_), .. })
        });
        pings.map(|(at, _)| at - heard).collect()
    };
    node.handle_event(ForwardingEvent::TargetUsed(target), heard + ms(10));
    let first = pings(&mut node, heard + ms(300));
    assert_eq!(first, [ms(250)]);
    node.agent_message(AGENT, Pong { sequence: 1 }.into(), heard + ms(300));
    assert_eq!(pings(&mut node, heard + ms(700)), [], "nobody uses it since");
}

#[test]
fn an_agent_that_sends_nothing_loses_its_lease() {
    let (mut node, _, now) = with_target();
    let lease = Duration::from_millis(node.targets(now)[0].lease_ms);
    let reason = CloseReason::LeaseExpired;
    let closed = run(&mut node, now + Duration::from_secs(10))
        .into_iter()
        .find_map(|(at, e)| (e == Effect::CloseAgent { agent: AGENT, reason }).then_some(at));
    assert_eq!(closed, Some(now + lease));
    assert!(node.targets(now).is_empty());
}

#[test]
fn news_of_the_death_of_a_proxy_that_was_just_heard_is_not_believed() {
    let mut node = knowing(&["a", "b"], |_| "fra".into());
    let dead = MemberRecord {
        name: "b".into(),
        cluster: "fra".into(),
        unicast: vec![[198, 51, 100, 11].into()],
        nat: vec![],
        incarnation: 1,
        state: MemberState::Down,
    };
    let rumour =
        || MemberUpdate { pushed: true, members: vec![dead.clone()], clusters: vec![] }.into();
    let state = |node: &Node, now| {
        node.proxies(now).into_iter().find(|proxy| proxy.name == "b").unwrap().state
    };
    node.handle_message(ProxyId::of("b"), Heartbeat { sequence: 1, asks: false }.into(), ms(100));
    effects(&mut node);
    node.handle_message(ProxyId::of("a"), rumour(), ms(200));
    assert_eq!(state(&node, ms(200)), "up");
    let told = effects(&mut node).into_iter().any(|effect| {
        matches!(effect, Effect::Send { to, message: OverlayMessage::MemberUpdate(update), .. }
            if to == ProxyId::of("b") && update.members.contains(&dead))
    });
    assert!(told, "it can deny the rumour");
    // One that has not been heard for a while is believed to be dead.
    run(&mut node, ms(300));
    assert_eq!(state(&node, ms(300)), "up");
    node.handle_message(ProxyId::of("a"), rumour(), ms(300));
    assert_eq!(state(&node, ms(300)), "down");
}

#[test]
fn news_of_a_death_that_waited_while_this_proxy_did_not_run_is_doubted_for_it_may_be_old() {
    let mut node = among(&["a", "b"]);
    run(&mut node, ms(300));
    let dead = |node: &Node, now| {
        let b = node.proxies(now).into_iter().find(|proxy| proxy.name == "b").unwrap();
        b.state == "down"
    };
    node.handle_message(ProxyId::of("a"), death("b"), ms(5_300));
    assert!(!dead(&node, ms(5_300)));
    let asked = effects(&mut node).into_iter().any(|effect| {
        matches!(effect, Effect::Send { to, message: OverlayMessage::MemberUpdate(_), .. }
            if to == ProxyId::of("b"))
    });
    assert!(asked, "it can deny it");
    node.handle_timeout(ms(5_300));
    run(&mut node, ms(6_700));
    assert!(!dead(&node, ms(6_700)));
    run(&mut node, ms(6_900));
    assert!(dead(&node, ms(6_900)), "nobody denied it");
}

#[test]
fn an_announcement_within_a_life_is_believed_and_a_new_life_is_asked_for() {
    let mut node = among(&["a", "b"]);
    let b = ProxyId::of("b");
    let state = |node: &Node| {
        node.proxies(ms(1)).into_iter().find(|proxy| proxy.name == "b").unwrap().state
    };
    let announce = |node: &mut Node, incarnation, state| {
        let members = vec![MemberKey { proxy: b, incarnation, state }];
        node.handle_message(ProxyId::of("a"), Have { members, clusters: vec![] }.into(), ms(1));
        effects(node);
    };
    announce(&mut node, 1, MemberState::Down);
    assert_eq!(state(&node), "down");
    announce(&mut node, 2, MemberState::Up);
    assert_eq!(state(&node), "up");
    announce(&mut node, 1, MemberState::Down);
    assert_eq!(state(&node), "up", "that is old");
    // Its addresses may be others now.
    announce(&mut node, 1 << 20, MemberState::Draining);
    assert_eq!(state(&node), "up");
    let asked = run(&mut node, ms(500)).into_iter().any(|(_, effect)| {
        matches!(effect, Effect::Send { to, message: OverlayMessage::Want(want), .. }
            if to == ProxyId::of("a") && want.members == [b])
    });
    assert!(asked);
}

fn death(name: &str) -> OverlayMessage {
    let dead = MemberRecord {
        name: name.into(),
        cluster: format!("at-{name}"),
        unicast: vec![[198, 51, 100, 10].into()],
        nat: vec![],
        incarnation: 1,
        state: MemberState::Down,
    };
    MemberUpdate { pushed: true, members: vec![dead], clusters: vec![] }.into()
}

fn resolve(node: &mut Node, group: GroupKey, now: Time) -> Vec<ForwardingUpdate> {
    let event = ForwardingEvent::Resolve {
        group,
        flow: FlowHash(7),
        ingress: ProxyId::of("h"),
        tried: None,
        opens: true,
        hops: 2,
        parked: ParkedId(1),
    };
    node.handle_event(event, now);
    updates(node)
}

#[test]
fn a_death_makes_a_rap_careful_about_the_groups_that_it_was_handed_and_no_others() {
    let others = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut node = among(&others);
    let now = ms(1_600);
    run(&mut node, now);
    let mine = |node: &Node, g: &GroupKey| node.group(g, now).summary.rendezvous;
    let groups: Vec<_> = (1..2_000).map(group).collect();
    let before: BTreeSet<_> = groups.iter().filter(|g| mine(&node, g)).copied().collect();
    node.handle_message(ProxyId::of("b"), death("a"), now);
    effects(&mut node);
    let after: BTreeSet<_> = groups.iter().filter(|g| mine(&node, g)).copied().collect();
    let kept = before.intersection(&after).next().expect("groups stay");
    let handed = after.difference(&before).next().expect("groups are handed down");
    let refusal = ForwardingUpdate::Refuse { parked: ParkedId(1) };
    assert!(resolve(&mut node, *kept, now).contains(&refusal));
    assert!(!resolve(&mut node, *handed, now).contains(&refusal));
    let later = now + Duration::from_millis(1_500);
    assert!(resolve(&mut node, *handed, later).contains(&refusal));
}

/// As [`run`], but others answer beats and reports. The reports that were sent.
fn run_answered(node: &mut Node, end: Time) -> Vec<(ProxyId, GroupKey)> {
    let (mut reports, mut now) = (Vec::new(), end);
    loop {
        for effect in effects(node) {
            let Effect::Send { to, message, .. } = effect else { continue };
            match message {
                OverlayMessage::CountReport(report) => {
                    reports.push((to, report.group));
                    let ack =
                        CountAck { group: report.group, count: report.count, band_percent: 25 };
                    node.handle_message(to, ack.into(), now);
                }
                OverlayMessage::Heartbeat(beat) if beat.asks => {
                    let coordinate = Coordinate::default();
                    let ack = HeartbeatAck { sequence: beat.sequence, coordinate };
                    node.handle_message(to, ack.into(), now);
                }
                _ => {}
            }
        }
        match node.next_timeout() {
            Some(deadline) if deadline.at <= end => {
                now = deadline.at;
                node.handle_timeout(now);
            }
            _ => return reports,
        }
    }
}

#[test]
fn a_death_makes_a_jap_report_again_only_the_groups_whose_raps_it_changed() {
    let names: Vec<String> = (0..39).map(|n| format!("p{n}")).collect();
    let others: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut node = among(&others);
    run_answered(&mut node, ms(1_600));
    let key = |n: u32| GroupKey { port: n as u16 + 1, ..group(1) };
    let groups = 10_000_u32;
    for n in 0..groups {
        let agent = AgentId(u64::from(n / 250) + 1);
        if n % 250 == 0 {
            let remote = format!("10.0.0.1:{}", 5_000 + n / 250);
            node.agent_connected(agent, link(&remote), ms(1_600));
        }
        node.agent_message(agent, wish(n + 1, key(n), n + 1), ms(1_600));
        run_answered(&mut node, ms(1_600));
    }
    let of_it = |n: &u32| node.group(&key(*n), ms(1_600)).raps.contains(&"p0".to_owned());
    let changed: BTreeSet<_> = (0..groups).filter(of_it).map(key).collect();
    let mean = groups as usize * 4 / 40;
    assert!(changed.len() > mean / 2 && changed.len() < mean * 2, "{} of it", changed.len());
    node.handle_message(ProxyId::of("p1"), death("p0"), ms(1_700));
    let again = run_answered(&mut node, ms(3_500));
    let told: BTreeSet<_> = again.iter().map(|&(_, group)| group).collect();
    assert_eq!(told.len(), again.len(), "one new RAP for each");
    assert!(told.is_subset(&changed));
    // The rest this proxy was handed itself.
    let kept = changed.difference(&told);
    assert!(kept.clone().all(|g| node.group(g, ms(3_500)).summary.rendezvous));
    assert!(kept.count() < mean / 10);
}

#[test]
fn a_proxy_says_where_it_is_as_soon_as_it_has_looked() {
    let mut node = among(&["nyc1"]);
    let located = |node: &mut Node, now| {
        let beat = Heartbeat { sequence: 1, asks: true };
        node.handle_message(ProxyId::of("nyc1"), beat.into(), now);
        let answer = std::iter::from_fn(|| node.poll_effect()).find_map(|effect| match effect {
            Effect::Send { message: OverlayMessage::HeartbeatAck(ack), .. } => Some(ack),
            _ => None,
        });
        answer.expect("an answer").coordinate.is_known()
    };
    assert!(!located(&mut node, ms(100)), "others must not be drawn to where it is not");
    let _ = run(&mut node, ms(2_000));
    assert!(located(&mut node, ms(2_000)), "others need somebody to begin with");
}

#[test]
fn a_rumour_of_its_own_death_is_denied() {
    let mut node = among(&["a"]);
    let rumour = MemberRecord {
        name: "fra1".into(),
        cluster: "fra".into(),
        unicast: vec!["198.51.100.1".parse().unwrap()],
        nat: vec![],
        incarnation: node.status().incarnation,
        state: MemberState::Down,
    };
    let before = rumour.incarnation;
    let update = MemberUpdate { pushed: true, members: vec![rumour], clusters: vec![] };
    node.handle_message(ProxyId::of("a"), update.into(), ms(5));
    assert_eq!(node.status().incarnation, before + 1);
    let denied = effects(&mut node).into_iter().any(|effect| match effect {
        Effect::Send { message: OverlayMessage::MemberUpdate(update), .. } => {
            update.members.iter().any(|m| m.incarnation == before + 1)
        }
        _ => false,
    });
    assert!(denied);
}

#[test]
fn an_agent_hears_that_it_is_a_member_once_all_raps_but_one_know() {
    let others = ["nyc1", "sin1", "tyo1"];
    let mut node = among(&others);
    node.agent_connected(AGENT, link("10.0.0.1:5000"), ms(1));
    node.agent_message(AGENT, wish(1, group(53), 1), ms(1));
    let joined = |messages: Vec<JapMessage>| {
        messages.iter().any(|message| matches!(message, JapMessage::Joined(_)))
    };
    assert!(!joined(said(&mut node)), "only this proxy knows, which is a RAP itself");
    let ack = CountAck { group: group(53), count: 1, band_percent: 25 };
    node.handle_message(ProxyId::of(others[0]), ack.clone().into(), ms(40));
    assert!(!joined(said(&mut node)), "two know");
    node.handle_message(ProxyId::of(others[1]), ack.into(), ms(80));
    assert!(joined(said(&mut node)), "three know");
}

#[test]
fn an_agent_does_not_wait_for_silent_raps_for_longer_than_half_a_second() {
    let mut node = among(&["nyc1", "sin1", "tyo1"]);
    node.agent_connected(AGENT, link("10.0.0.1:5000"), ms(1));
    node.agent_message(AGENT, wish(1, group(53), 1), ms(1));
    let told = run(&mut node, ms(1_000)).into_iter().find_map(|(at, effect)| {
        matches!(effect, Effect::Agent { message: JapMessage::Joined(_), .. }).then_some(at)
    });
    assert_eq!(told, Some(ms(501)));
}

#[test]
fn what_a_lost_connection_may_have_swallowed_is_reported_again_at_once() {
    let raps = ["nyc1", "sin1", "tyo1"].map(ProxyId::of);
    let mut node = among(&["nyc1", "sin1", "tyo1"]);
    node.agent_connected(AGENT, link("10.0.0.1:5000"), ms(1));
    node.agent_message(AGENT, wish(1, group(53), 1), ms(1));
    effects(&mut node);
    let ack = CountAck { group: group(53), count: 1, band_percent: 25 };
    node.handle_message(raps[0], ack.into(), ms(2));
    for rap in raps {
        node.undelivered(rap, ms(3));
    }
    let again = run(&mut node, ms(30)).into_iter().filter_map(|(at, effect)| match effect {
        Effect::Send { to, message: OverlayMessage::CountReport(_), .. } => Some((at, to)),
        _ => None,
    });
    let again: Vec<_> = again.collect();
    assert_eq!(again.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [ms(3), ms(3)]);
    assert!(again.iter().all(|(_, to)| raps[1..].contains(to)), "{again:?}");
}
