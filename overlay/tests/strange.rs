//! What one node makes of what no honest proxy says.

mod support;

use std::time::Duration;

use pias_overlay::{AgentId, Effect, Node, Notice};
use pias_protocol::{
    forwarding::{ForwardingEvent, ForwardingUpdate},
    group::GroupKey,
    hash::FlowHash,
    ids::{ClusterId, ParkedId, ProxyId},
    overlay::{
        AgentLink, ClusterRecord, ClusterWord, Compare, Coordinate, CountReport, Heartbeat,
        HeartbeatAck, MemberRecord, MemberState, MemberUpdate, OverlayMessage, Word,
    },
    time::Time,
};
use support::{config, effects, ms};

/// A record; the last digit of the name makes the address.
fn record(name: &str, cluster: &str, incarnation: u64, state: MemberState) -> MemberRecord {
    let host = name.bytes().fold(0_u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet));
    MemberRecord {
        name: name.into(),
        cluster: cluster.into(),
        unicast: vec![[198, 51, 100, host].into()],
        nat: Vec::new(),
        incarnation,
        state,
    }
}

/// The node fra1, which knows some others of these clusters.
fn among(others: &[(&str, &str)]) -> Node {
    let mut node = Node::new(config(), 1, Time::ZERO);
    let members = others.iter().map(|(name, at)| record(name, at, 1, MemberState::Up)).collect();
    tell(&mut node, members, Time::ZERO);
    effects(&mut node);
    node
}

fn tell(node: &mut Node, members: Vec<MemberRecord>, now: Time) {
    let update = MemberUpdate { pushed: true, members, clusters: Vec::new() };
    hear(node, "sin1", update, now);
}

fn hear(node: &mut Node, from: &str, message: impl Into<OverlayMessage>, now: Time) {
    node.handle_message(ProxyId::of(from), message.into(), now);
}

/// Lets time pass; before each step `step` may say something to the node. When it took whom for
/// dead.
fn deaths(
    node: &mut Node,
    from: Time,
    end: Time,
    mut step: impl FnMut(&mut Node, Time),
) -> Vec<(Time, ProxyId)> {
    let (mut all, mut now) = (Vec::new(), from);
    while now < end {
        now = now + Duration::from_millis(5);
        step(node, now);
        while node.next_timeout().is_some_and(|deadline| deadline.at <= now) {
            node.handle_timeout(now);
        }
        all.extend(effects(node).into_iter().filter_map(|effect| match effect {
            Effect::Forward(ForwardingUpdate::PeerGone { id, .. }) => Some((now, id)),
            _ => None,
        }));
    }
    all
}

fn beat(node: &mut Node, from: &str, now: Time) {
    hear(node, from, Heartbeat { sequence: 1, asks: false }, now);
}

#[test]
fn a_proxy_that_is_said_to_be_in_two_clusters_is_in_one() {
    let mut node = among(&[("sin1", "sin")]);
    let both = [("nyc", 2), ("ewr", 3), ("bos", 1)];
    let records = both.map(|(at, age)| record("nyc1", at, age, MemberState::Up));
    tell(&mut node, records.to_vec(), ms(1));
    let rows = node.proxies(ms(1));
    let places: Vec<_> = rows.iter().filter(|p| p.name == "nyc1").map(|p| &p.cluster).collect();
    assert_eq!(places, ["ewr"]);
    assert_eq!((node.status().proxies_known, node.status().proxies_alive), (3, 3));
}

#[test]
fn who_claims_to_know_nobody_again_and_again_is_told_all_once_a_second() {
    let others: Vec<_> = (1..=9).map(|n| (format!("sin{n}"), "sin")).collect();
    let others: Vec<_> = others.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    let mut node = among(&others);
    let mut told = |now| {
        hear(&mut node, "sin1", Compare { root: 1, members: 0 }, now);
        let of = |effect: &Effect| match effect {
            Effect::Send { message: OverlayMessage::MemberUpdate(update), .. } => {
                update.members.len()
            }
            _ => 0,
        };
        effects(&mut node).iter().map(of).sum::<usize>()
    };
    assert_eq!(told(ms(10)), 10);
    assert_eq!((11..1_010).map(|at| told(ms(at))).sum::<usize>(), 0);
    assert_eq!(told(ms(1_010)), 10);
}

#[test]
fn a_rumour_that_could_not_be_denied_is_refused() {
    let mut node = among(&[("sin1", "sin")]);
    let before = node.status().incarnation;
    for _ in 0..3 {
        tell(&mut node, vec![record("fra1", "fra", u64::MAX, MemberState::Down)], ms(1));
    }
    tell(&mut node, vec![record("sin1", "sin", u64::MAX, MemberState::Down)], ms(1));
    assert_eq!(node.status().incarnation, before);
    assert_eq!(node.status().proxies_alive, 2);
    let said = effects(&mut node);
    let refused = |e: &&Effect| matches!(e, Effect::Notice(Notice::RecordRefused { .. }));
    assert_eq!(said.iter().filter(refused).count(), 4);
}

#[test]
fn the_loss_of_a_cluster_that_could_not_be_denied_is_refused() {
    let mut node = among(&[("sin1", "sin")]);
    for cluster in ["fra", "sin"].map(ClusterId::of) {
        let coordinate = Coordinate::default();
        let record = ClusterRecord { cluster, version: u32::MAX, down: true, stamp: 0, coordinate };
        let update = MemberUpdate { pushed: true, members: Vec::new(), clusters: vec![record] };
        hear(&mut node, "sin1", update, ms(1));
    }
    assert_eq!(node.status().proxies_alive, 2);
    let denied = |e: &Effect| matches!(e, Effect::Notice(Notice::ClusterRefuted { .. }));
    assert!(!effects(&mut node).iter().any(denied));
}

#[test]
fn only_a_mate_is_a_witness_of_a_mates_death() {
    let mut node = among(&[("fra2", "fra"), ("fra3", "fra"), ("sin1", "sin")]);
    let silent = ProxyId::of("fra2");
    let met = deaths(&mut node, Time::ZERO, ms(500), |node, now| {
        beat(node, "fra2", now);
        beat(node, "fra3", now);
    });
    assert_eq!(met, []);
    let word = Word { proxy: silent, silent: true };
    let alone = deaths(&mut node, ms(500), ms(2_000), |node, now| {
        beat(node, "fra3", now);
        hear(node, "sin1", word, now);
    });
    assert_eq!(alone, [], "the other mate does not say so");
    let agreed = deaths(&mut node, ms(2_000), ms(2_200), |node, now| {
        beat(node, "fra3", now);
        hear(node, "fra3", word, now);
    });
    assert_eq!(agreed.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [silent]);
}

#[test]
fn mates_are_no_witnesses_of_the_loss_of_another_cluster() {
    let mut watched = 0;
    for lost in ["nyc", "ewr", "bos", "lax", "tyo", "lon"] {
        let name = format!("{lost}1");
        let mut node = among(&[("fra2", "fra"), (&name, lost), ("sin1", "sin")]);
        let word = ClusterWord { cluster: ClusterId::of(lost), version: 0, silent: true };
        let gone = deaths(&mut node, Time::ZERO, ms(5_000), |node, now| {
            beat(node, "fra2", now);
            beat(node, "sin1", now);
            hear(node, "fra2", word, now);
        });
        // Silent for 2.2 s, asked for 0.5 s; then three words to the other watcher, which is silent.
        if let Some((at, _)) = gone.iter().find(|(_, id)| *id == ProxyId::of(&name)) {
            assert!(*at > ms(3_400), "{lost} was taken for lost at {at}");
            watched += 1;
        }
    }
    assert!(watched > 0, "the mate watched all of them");
}

#[test]
fn an_answer_after_a_long_pause_does_not_prolong_the_patience_with_a_mate() {
    let mut node = among(&[("fra2", "fra"), ("sin1", "sin")]);
    let met = deaths(&mut node, Time::ZERO, ms(60_000), |node, now| {
        beat(node, "fra2", now);
        beat(node, "sin1", now);
    });
    assert_eq!(met, []);
    let coordinate = Coordinate::default();
    hear(&mut node, "fra2", HeartbeatAck { sequence: 1, coordinate }, ms(60_000));
    let gone = deaths(&mut node, ms(60_000), ms(62_000), |node, now| beat(node, "sin1", now));
    assert_eq!(gone.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [ProxyId::of("fra2")]);
}

#[test]
fn agents_are_not_pinged_twice_for_two_rumours_of_their_proxys_death() {
    let mut node = among(&[("sin1", "sin")]);
    let link = AgentLink {
        remote: "10.0.0.1:5000".parse().unwrap(),
        anycast: "203.0.113.10".parse().unwrap(),
        connection: [7; 8],
    };
    node.agent_connected(AgentId(1), link, ms(1));
    for n in 2..5 {
        let rumour = record("fra1", "fra", node.status().incarnation, MemberState::Down);
        tell(&mut node, vec![rumour], ms(n));
        node.handle_timeout(ms(n));
    }
    assert_eq!(node.status().counters.pings, 1, "the first is still to be answered");
}

#[test]
fn who_tries_all_ports_leaves_a_rap_room_for_groups_that_are_served() {
    let mut node = among(&[("sin1", "sin")]);
    let now = deaths(&mut node, Time::ZERO, ms(1_700), |_, _| {}).last().map_or(ms(1_700), |d| d.0);
    let group = |n: u32| -> GroupKey {
        let address = std::net::Ipv4Addr::from(0xCB00_7100 + n / 60_000);
        format!("{address}:{}/udp", n % 60_000 + 1).parse().unwrap()
    };
    let asked = 131_072 + 10;
    for n in 0..asked {
        let (ingress, parked) = (ProxyId::of("sin1"), ParkedId(n.into()));
        node.handle_event(
            ForwardingEvent::Resolve {
                group: group(n),
                flow: FlowHash(1),
                ingress,
                tried: None,
                opens: true,
                hops: 1,
                parked,
            },
            now,
        );
        effects(&mut node);
    }
    assert!(node.status().rendezvous_groups < 131_072 * 3 / 4);
    hear(&mut node, "sin1", CountReport { group: group(asked), count: 1 }, now);
    let answered =
        |e: &Effect| matches!(e, Effect::Send { message: OverlayMessage::CountAck(_), .. });
    assert!(effects(&mut node).iter().any(answered));
}
