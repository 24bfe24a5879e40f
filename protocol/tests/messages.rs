//! Every message: its bytes are pinned, it is read as it was written, and any bytes give an answer.

use std::fmt::Write as _;

use pias_protocol::{
    agent::{
        AgentMessage, Draining, Health, JapMessage, Join, Joined, KeepAlive, KeepAliveAck, Leave,
        Ping, Pong, RefusalCode, Refused, TargetChange, Welcome,
    },
    envelope::{DecodeError, Decoded, Message, decode, encode},
    flow::{FlowPhase, FlowRecord},
    group::GroupKey,
    hash::FlowKey,
    ids::{ClusterId, ProxyId, TargetId},
    limits::{MAX_FLOWS_PER_MESSAGE, MAX_GONE_PER_MESSAGE, MAX_MESSAGE},
    overlay::{
        AgentLink, Buckets, CandidateList, ClusterKey, ClusterRecord, ClusterWord, Compare,
        Coordinate, CountAck, CountReport, CountsWanted, Differ, FlowRecords, FlowsGone,
        FlowsHanded, FlowsWanted, Have, Heartbeat, HeartbeatAck, Keys, Lease, LeaseAck,
        LeaseReplica, LeaseState, LeaseTaken, MemberKey, MemberRecord, MemberState, MemberUpdate,
        NoTarget, OverlayMessage, Prune, Resolve, Want, Word,
    },
    placement::Candidate,
};
use proptest::prelude::*;

fn group() -> GroupKey {
    "203.0.113.10:53/udp".parse().unwrap()
}

fn key(client: &str, group: &str) -> FlowKey {
    FlowKey { client: client.parse().unwrap(), group: group.parse().unwrap() }
}

fn flow(client: &str, group: &str, phase: FlowPhase) -> FlowRecord {
    FlowRecord {
        key: key(client, group),
        target: "10.0.0.1:8080".parse().unwrap(),
        nat: "192.0.2.11:1024".parse().unwrap(),
        ingress: Some(ProxyId(9)),
        phase,
        client_finished: true,
        target_finished: false,
    }
}

fn overlay_messages() -> Vec<OverlayMessage> {
    vec![
        Heartbeat { sequence: 300, asks: true }.into(),
        HeartbeatAck { sequence: 300, coordinate: coordinate() }.into(),
        MemberUpdate {
            pushed: true,
            clusters: vec![ClusterRecord {
                cluster: ClusterId(6),
                version: 2,
                down: true,
                stamp: 300,
                coordinate: coordinate(),
            }],
            members: vec![MemberRecord {
                name: "fra1".into(),
                cluster: "fra".into(),
                unicast: vec!["198.51.100.11".parse().unwrap(), "2001:db8::11".parse().unwrap()],
                nat: vec!["192.0.2.11".parse().unwrap()],
                incarnation: 7,
                state: MemberState::Down,
            }],
        }
        .into(),
        CountReport { group: group(), count: 12 }.into(),
        CountAck { group: group(), count: 12, band_percent: 25 }.into(),
        Resolve { group: group() }.into(),
        CandidateList {
            group: group(),
            candidates: vec![Candidate { proxy: ProxyId(9), tier: 1, weight: 4 }],
            fresh_ms: 30_000,
        }
        .into(),
        NoTarget { group: group() }.into(),
        Word { proxy: ProxyId(9), silent: true }.into(),
        ClusterWord { cluster: ClusterId(6), version: 2, silent: false }.into(),
        Have { clusters: vec![cluster_key()], members: vec![member_key()] }.into(),
        Want { eager: true, clusters: vec![ClusterId(6)], members: vec![ProxyId(9)] }.into(),
        Prune {}.into(),
        Compare { root: 77, members: 6 }.into(),
        Buckets { digests: vec![] }.into(),
        Differ { buckets: 1 << 63, clusters: vec![(ClusterId(6), 78)] }.into(),
        Keys { clusters: vec![cluster_key()], members: vec![member_key()] }.into(),
        LeaseReplica {
            epoch: 5,
            sequence: 1,
            leases: vec![Lease {
                id: TargetId(4),
                group: group(),
                target: "10.0.0.2:5353".parse().unwrap(),
                weight: 100,
                state: LeaseState::Unwell,
                link: AgentLink {
                    remote: "10.0.0.2:40000".parse().unwrap(),
                    anycast: "203.0.113.10".parse().unwrap(),
                    connection: [1, 2, 3, 4, 5, 6, 7, 8],
                },
            }],
            ended: vec![TargetId(3)],
        }
        .into(),
        LeaseAck { epoch: 5, sequence: 1, known: true }.into(),
        LeaseTaken { leases: vec![(group(), "10.0.0.2:5353".parse().unwrap())] }.into(),
        FlowRecords {
            records: vec![flow("192.0.2.1:40000", "203.0.113.10:80/tcp", FlowPhase::Open)],
        }
        .into(),
        FlowsGone { flows: vec![key("[2001:db8::1]:40000", "[2001:db8:a::10]:53/udp")] }.into(),
        FlowsWanted {}.into(),
        FlowsHanded {}.into(),
        CountsWanted {}.into(),
    ]
}

fn coordinate() -> Coordinate {
    Coordinate { position: [100, -200, 0, 3_000], height: 12 }
}

fn cluster_key() -> ClusterKey {
    ClusterKey { cluster: ClusterId(6), version: 2, down: true, stamp: 300 }
}

fn member_key() -> MemberKey {
    MemberKey { proxy: ProxyId(9), incarnation: 7, state: MemberState::Left }
}

fn agent_messages() -> Vec<AgentMessage> {
    vec![
        Join {
            request: 1,
            group: "[2001:db8:a::10]:80/tcp".parse().unwrap(),
            target: "[2001:db8:c::2]:8080".parse().unwrap(),
            weight: 100,
            healthy: true,
        }
        .into(),
        Leave { lease: TargetId(4) }.into(),
        Health { lease: TargetId(4), up: false }.into(),
        KeepAlive { sequence: 2 }.into(),
        Pong { sequence: 3 }.into(),
    ]
}

fn jap_messages() -> Vec<JapMessage> {
    vec![
        Welcome { proxy: "fra1".into(), cluster: "fra".into() }.into(),
        Joined { request: 1, lease: TargetId(4), keep_alive_ms: 1_000, lease_ms: 5_000 }.into(),
        Refused { request: 1, code: RefusalCode::Family, reason: "IPv6".into() }.into(),
        KeepAliveAck { sequence: 2, keep_alive_ms: 1_000, lease_ms: 5_000 }.into(),
        Ping { sequence: 3 }.into(),
        TargetChange { lease: TargetId(4), up: false, reason: "refused".into() }.into(),
        Draining { closes_in_ms: 5_000 }.into(),
    ]
}

fn hex<M: Message>(messages: &[M]) -> String {
    let mut text = String::new();
    for message in messages {
        for byte in encode(message) {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_bytes_of_every_message_are_pinned() {
    let bytes = hex(&overlay_messages()) + &hex(&agent_messages()) + &hex(&jap_messages());
    assert_eq!(bytes, include_str!("golden/messages.hex"), "the wire changed");
}

fn reads_as_written<M: Message + Clone + PartialEq + std::fmt::Debug>(messages: &[M]) {
    for message in messages {
        let bytes = encode(message);
        let whole = Decoded::Message(message.clone(), bytes.len());
        assert_eq!(decode::<M>(&bytes), Ok(whole));
        for short in 0..bytes.len() {
            let answer = decode::<M>(&bytes[..short]);
            assert!(matches!(answer, Ok(Decoded::Incomplete(n)) if n > 0), "{answer:?}");
        }
    }
}

#[test]
fn a_message_is_read_as_it_was_written_and_waits_until_it_is_whole() {
    reads_as_written(&overlay_messages());
    reads_as_written(&agent_messages());
    reads_as_written(&jap_messages());
}

#[test]
fn a_newer_kind_is_skipped_and_a_newer_version_is_refused() {
    let mut bytes = encode(&OverlayMessage::from(Heartbeat { sequence: 1, asks: false }));
    bytes[1] = 200;
    assert_eq!(decode::<OverlayMessage>(&bytes), Ok(Decoded::Unknown(200, bytes.len())));
    bytes[0] = 2;
    assert_eq!(decode::<OverlayMessage>(&bytes), Err(DecodeError::Version(2)));
}

#[test]
fn a_message_beyond_a_bound_is_refused() {
    let endless = [1, 1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
    assert!(matches!(decode::<OverlayMessage>(&endless), Err(DecodeError::TooLong(_))));

    let zero_port = Join {
        request: 1,
        group: group(),
        target: "192.0.2.1:0".parse().unwrap(),
        weight: 1,
        healthy: true,
    };
    let bytes = encode(&AgentMessage::from(zero_port));
    assert_eq!(decode::<AgentMessage>(&bytes), Err(DecodeError::Bound { kind: 1, what: "port 0" }));
}

#[test]
fn a_name_that_would_write_on_an_operators_terminal_is_refused() {
    for name in ["fra1\u{1b}[2J", "fra\n1", "fra 1", "frä1"] {
        let member = MemberRecord {
            name: name.into(),
            cluster: "fra".into(),
            unicast: vec!["192.0.2.1".parse().unwrap()],
            nat: vec![],
            incarnation: 1,
            state: MemberState::Up,
        };
        let update = MemberUpdate { pushed: true, members: vec![member], clusters: vec![] };
        let refused = DecodeError::Bound { kind: 3, what: "name" };
        assert_eq!(
            decode::<OverlayMessage>(&encode(&OverlayMessage::from(update))),
            Err(refused),
            "{name:?}"
        );
    }
}

#[test]
fn a_flow_that_contradicts_itself_is_refused() {
    let refused = |record: FlowRecord| {
        let bytes = encode(&OverlayMessage::from(FlowRecords { records: vec![record] }));
        decode::<OverlayMessage>(&bytes)
    };
    let tcp = "203.0.113.10:80/tcp";
    let mixed = flow("[2001:db8::1]:40000", tcp, FlowPhase::Open);
    assert_eq!(refused(mixed), Err(DecodeError::Bound { kind: 25, what: "family" }));
    let nobody = flow("192.0.2.1:0", tcp, FlowPhase::Open);
    assert_eq!(refused(nobody), Err(DecodeError::Bound { kind: 25, what: "port 0" }));
    let datagrams = flow("192.0.2.1:40000", tcp, FlowPhase::Answered);
    assert_eq!(refused(datagrams), Err(DecodeError::Bound { kind: 25, what: "phase" }));
}

#[test]
fn the_longest_message_of_flows_fits_its_frame() {
    let mut long = flow("[2001:db8::1]:40000", "[2001:db8:a::10]:80/tcp", FlowPhase::Open);
    long.target = "[2001:db8:c::2]:65535".parse().unwrap();
    long.nat = "[2001:db8:f::2]:65535".parse().unwrap();
    long.ingress = Some(ProxyId(u64::MAX));
    let records = FlowRecords { records: vec![long; MAX_FLOWS_PER_MESSAGE] };
    let flows = FlowsGone { flows: vec![long.key; MAX_GONE_PER_MESSAGE] };
    for message in [OverlayMessage::from(records), flows.into()] {
        let bytes = encode(&message);
        assert!(
            matches!(decode::<OverlayMessage>(&bytes), Ok(Decoded::Message(m, _)) if m == message)
        );
    }
}

#[test]
fn octets_behind_the_last_field_are_refused() {
    let mut bytes = encode(&OverlayMessage::from(Heartbeat { sequence: 1, asks: false }));
    bytes.push(0);
    bytes[7] += 1;
    assert!(matches!(
        decode::<OverlayMessage>(&bytes),
        Err(DecodeError::Malformed { kind: 1, .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(kind in 0_u8..80, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![1, kind, 0, 0, 0, 0, 0, payload.len() as u8];
        bytes.extend(payload);
        prop_assert!(bytes.len() <= MAX_MESSAGE);
        let _ = decode::<OverlayMessage>(&bytes);
        let _ = decode::<AgentMessage>(&bytes);
        let _ = decode::<JapMessage>(&bytes);
    }
}
