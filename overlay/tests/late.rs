//! What one node does about news that came late, or not at all.

mod support;

use pias_overlay::{AgentId, Effect, Node, NodeConfig, Seed};
use pias_protocol::{
    agent::Join,
    group::GroupKey,
    ids::ProxyId,
    overlay::{
        AgentLink, CountAck, CountReport, CountsWanted, MemberRecord, MemberState, MemberUpdate,
        OverlayMessage,
    },
    time::Time,
};
use support::{config, effects, ms};

const AGENT: AgentId = AgentId(1);

fn record(name: &str, incarnation: u64, state: MemberState) -> MemberRecord {
    MemberRecord {
        name: name.into(),
        cluster: format!("at-{name}"),
        unicast: vec!["198.51.100.10".parse().unwrap()],
        nat: vec![],
        incarnation,
        state,
    }
}

fn group() -> GroupKey {
    "203.0.113.10:53/udp".parse().unwrap()
}

/// The node fra1, which knows nyc1 besides itself: both are RAPs of everything.
fn pair() -> Node {
    let seeds = vec![Seed { name: "nyc1".into(), address: "198.51.100.10".parse().unwrap() }];
    let mut node = Node::new(NodeConfig { seeds, ..config() }, 1, Time::ZERO);
    tell(&mut node, record("nyc1", 1, MemberState::Up), Time::ZERO);
    effects(&mut node);
    node
}

fn tell(node: &mut Node, record: MemberRecord, now: Time) {
    let update = MemberUpdate { pushed: true, members: vec![record], clusters: vec![] };
    hear(node, update, now);
}

fn hear(node: &mut Node, message: impl Into<OverlayMessage>, now: Time) {
    node.handle_message(ProxyId::of("nyc1"), message.into(), now);
}

/// What the node says to nyc1 until `end`, and when; nothing is answered.
fn said(node: &mut Node, end: Time) -> Vec<(Time, OverlayMessage)> {
    let (mut all, mut now) = (Vec::new(), Time::ZERO);
    loop {
        all.extend(effects(node).into_iter().filter_map(|effect| match effect {
            Effect::Send { message, .. } => Some((now, message)),
            _ => None,
        }));
        match node.next_timeout() {
            Some(deadline) if deadline.at <= end => {
                now = deadline.at;
                node.handle_timeout(now);
            }
            _ => return all,
        }
    }
}

fn asks_for_counts(node: &mut Node) -> bool {
    said(node, Time::ZERO).iter().any(|(_, message)| *message == CountsWanted {}.into())
}

#[test]
fn a_jap_whose_new_life_was_heard_before_the_news_of_it_is_asked_for_its_counts() {
    let mut node = pair();
    let counted = |node: &Node| node.group(&group(), ms(30)).counts.len();
    hear(&mut node, CountReport { group: group(), count: 3 }, ms(10));
    effects(&mut node);
    assert_eq!(counted(&node), 1);
    // What it reported may be of its former life.
    tell(&mut node, record("nyc1", 1 << 16, MemberState::Up), ms(20));
    assert_eq!(counted(&node), 0);
    assert!(asks_for_counts(&mut node));
    // Nothing was reported since.
    tell(&mut node, record("nyc1", 2 << 16, MemberState::Up), ms(30));
    assert!(!asks_for_counts(&mut node));
}

#[test]
fn a_jap_that_was_taken_for_dead_is_asked_for_its_counts_when_it_is_back() {
    let mut node = pair();
    hear(&mut node, CountReport { group: group(), count: 3 }, ms(10));
    tell(&mut node, record("nyc1", 1, MemberState::Left), ms(20));
    assert!(!asks_for_counts(&mut node));
    tell(&mut node, record("nyc1", 1 << 16, MemberState::Up), ms(30));
    assert!(asks_for_counts(&mut node));
}

#[test]
fn a_rap_that_forgot_what_it_was_told_is_told_again_though_it_had_acknowledged_it() {
    let mut node = pair();
    let link = AgentLink {
        remote: "10.0.0.1:5000".parse().unwrap(),
        anycast: "203.0.113.10".parse().unwrap(),
        connection: [7; 8],
    };
    let target = "10.0.0.1:53".parse().unwrap();
    let join = Join { request: 1, group: group(), target, weight: 1, healthy: true };
    node.agent_connected(AGENT, link, ms(10));
    node.agent_message(AGENT, join.into(), ms(10));
    hear(&mut node, CountAck { group: group(), count: 1, band_percent: 25 }, ms(20));
    effects(&mut node);
    hear(&mut node, CountsWanted {}, ms(30));
    let report = CountReport { group: group(), count: 1 }.into();
    assert!(said(&mut node, ms(300)).iter().any(|(_, message)| *message == report));
}

#[test]
fn a_seed_that_left_is_called_for_it_may_come_back_and_not_know_whom_to_call() {
    let mut node = pair();
    tell(&mut node, record("nyc1", 1, MemberState::Left), ms(10));
    effects(&mut node);
    let said = said(&mut node, ms(3_000));
    let calls = said.iter().filter(|(_, message)| matches!(message, OverlayMessage::Compare(_)));
    assert!((1..=4).contains(&calls.count()), "{said:?}");
}
