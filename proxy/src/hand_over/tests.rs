//! Both sides over a pair of sockets, and each of them beside a partner that fails.

use std::{
    io::{Read, Write},
    net::UdpSocket,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use pias_datapath::{
    engine::TunDevice,
    flow::{Phase, ingress::PinRecord},
    pipeline::Tables,
};
use pias_overlay::{OwnState, StandbyAddress};
use pias_protocol::{
    flow::{FlowPhase, FlowRecord},
    hash::FlowKey,
    ids::{ClusterId, ProxyId, TargetId},
    overlay::{
        AgentLink, ClusterRecord, Coordinate, Lease, LeaseReplica, LeaseState, MemberRecord,
        MemberState, MemberUpdate,
    },
    placement::Candidate,
};
use proptest::prelude::*;

use super::{
    link::{Kind, Link, VERSION},
    *,
};
use crate::limits::{CHECK_OUTPUT, HAND_OVER_FRAME, HAND_OVER_PART};

fn hello() -> Hello {
    Hello {
        version: "1".into(),
        name: "fra1".into(),
        cluster: "fra".into(),
        device: "pias0".into(),
        unicast: vec!["198.51.100.1".parse().unwrap()],
        nat: vec!["192.0.2.1".parse().unwrap()],
        anycast: vec!["203.0.113.0/24".parse().unwrap()],
        overlay_port: 7427,
    }
}

fn flow(port: u16) -> FlowRecord {
    let group = "203.0.113.10:80/tcp".parse().unwrap();
    FlowRecord {
        key: FlowKey { client: ([192, 0, 2, 9], port).into(), group },
        target: "10.0.0.1:80".parse().unwrap(),
        nat: ([192, 0, 2, 1], port).into(),
        ingress: Some(ProxyId(u64::MAX)),
        phase: FlowPhase::Open,
        client_finished: true,
        target_finished: false,
    }
}

/// A legacy of so many flows. Any file does for the device.
fn legacy(flows: u16) -> Legacy {
    let group = "203.0.113.10:80/tcp".parse().unwrap();
    let candidate = Candidate { proxy: ProxyId(7), tier: 1, weight: 9 };
    let tables = Tables {
        flows: (1..=flows).map(flow).collect(),
        standby: vec![(ProxyId(7), flow(9))],
        pins: vec![PinRecord { key: flow(1).key, proxy: ProxyId(7), phase: Phase::Opening }],
        returns: vec![(ProxyId(7), vec!["192.0.2.2".parse().unwrap()])],
    };
    let node = NodeState {
        own: OwnState { incarnation: 5 << 16, last_target: 3, standby: Vec::new() },
        heirs: vec![(ProxyId(7), ProxyId(8))],
        counts: vec![(group, ProxyId(7), 4)],
        lists: vec![(group, vec![candidate])],
        ..NodeState::default()
    };
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let descriptor = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    Legacy {
        engine: engine::HandOver {
            device: TunDevice { descriptor, udp_segments: true },
            tunnels: vec![udp(), udp()],
            tables,
        },
        node,
        overlay: vec![udp()],
        metrics: TcpListener::bind("127.0.0.1:0").unwrap(),
    }
}

fn lease() -> Lease {
    Lease {
        id: TargetId(3),
        group: "203.0.113.10:80/tcp".parse().unwrap(),
        target: "10.0.0.1:80".parse().unwrap(),
        weight: 2,
        state: LeaseState::Unwell,
        link: AgentLink {
            remote: "10.0.0.1:5000".parse().unwrap(),
            anycast: "203.0.113.10".parse().unwrap(),
            connection: [7; 8],
        },
    }
}

/// A node's state with something in each of its tables.
fn full_node() -> NodeState {
    let mate = MemberRecord {
        name: "fra2".into(),
        cluster: "fra".into(),
        unicast: vec!["198.51.100.2".parse().unwrap()],
        nat: vec!["192.0.2.2".parse().unwrap()],
        incarnation: 9,
        state: MemberState::Up,
    };
    let cluster = ClusterRecord {
        cluster: ClusterId(6),
        version: 1,
        down: false,
        stamp: 2,
        coordinate: Coordinate::default(),
    };
    let address: IpAddr = "192.0.2.2".parse().unwrap();
    let replica = LeaseReplica { epoch: 4, sequence: 0, leases: vec![lease()], ended: vec![] };
    let of_legacy = legacy(1).node;
    NodeState {
        own: OwnState {
            standby: vec![StandbyAddress { address, of: ProxyId(7), live: true }],
            ..of_legacy.own
        },
        members: vec![MemberUpdate { pushed: false, clusters: vec![cluster], members: vec![mate] }],
        heirlooms: vec![(ProxyId(7), vec![address], ProxyId(8))],
        askers: vec![(lease().group, ProxyId(7))],
        leases: vec![lease()],
        replicas: vec![(ProxyId(7), replica)],
        inherited: vec![lease()],
        ..of_legacy
    }
}

/// Stands for frozen parts: says whether they go on.
#[derive(Debug)]
struct Still(Arc<AtomicBool>);

impl Drop for Still {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Hands over to whatever `partner` does; how that went, and whether the parts go on.
fn given(
    legacy: Legacy,
    partner: impl FnOnce(UnixStream) + Send + 'static,
) -> (Given<Still>, bool) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let partner = thread::spawn(move || partner(theirs));
    let thawed = Arc::new(AtomicBool::new(false));
    let still = Still(thawed.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let freeze = async move { Ok((legacy, still)) };
    let outcome = runtime.block_on(give(ours, hello(), |_| freeze));
    partner.join().unwrap();
    (outcome, thawed.load(Ordering::SeqCst))
}

fn kept(outcome: &Given<Still>) -> &str {
    match outcome {
        Given::Kept { why } => why,
        Given::Taken { .. } => panic!("taken"),
    }
}

#[test]
fn all_that_is_known_arrives_and_the_former_process_stands_still_for_ever() {
    let flows = HAND_OVER_PART as u16 + 5;
    let sent = legacy(flows);
    let metrics = sent.metrics.local_addr().unwrap();
    let ports = |sockets: &[UdpSocket]| -> Vec<_> {
        sockets.iter().map(|socket| socket.local_addr().unwrap()).collect()
    };
    let (tunnels, overlay) = (ports(&sent.engine.tunnels), ports(&sent.overlay));
    let (tables, node) = (sent.engine.tables.clone(), sent.node.clone());
    let (outcome, thawed) = given(sent, move |stream| {
        let (got, taking) = Offer::new(stream, &hello()).unwrap().ask(None).unwrap();
        assert_eq!(got.engine.tables, tables);
        assert_eq!(got.node, node);
        assert!(got.engine.device.udp_segments);
        assert_eq!(ports(&got.engine.tunnels), tunnels);
        assert_eq!(ports(&got.overlay), overlay);
        assert_eq!(got.metrics.local_addr().unwrap(), metrics);
        taking.taken();
    });
    assert!(matches!(outcome, Given::Taken { by, .. } if by == std::process::id()));
    assert!(!thawed);
}

#[test]
fn another_proxy_is_refused_with_the_key_that_differs_and_nothing_stands_still() {
    for (key, other) in [
        ("name", Hello { name: "fra2".into(), ..hello() }),
        ("tunnel.device", Hello { device: "pias1".into(), ..hello() }),
        ("proxy.nat", Hello { nat: vec!["192.0.2.2".parse().unwrap()], ..hello() }),
        ("anycast.prefixes", Hello { anycast: vec![], ..hello() }),
        ("overlay.port", Hello { overlay_port: 1, ..hello() }),
    ] {
        let (outcome, thawed) = given(legacy(1), move |stream| {
            let error = Offer::new(stream, &other).unwrap_err();
            assert!(error.to_string().contains(&format!("`{key}` differs")), "{error}");
        });
        assert!(kept(&outcome).contains(key));
        assert!(thawed, "dropped without ever having been awaited");
    }
}

#[test]
fn a_new_process_that_fails_lets_the_former_go_on_with_its_reason() {
    let (outcome, thawed) = given(legacy(1), |stream| {
        let (_, taking) = Offer::new(stream, &hello()).unwrap().ask(None).unwrap();
        taking.failed("no certificate");
    });
    assert_eq!(kept(&outcome), "no certificate");
    assert!(thawed);
}

#[test]
fn a_new_process_that_dies_at_any_point_lets_the_former_go_on() {
    let before_hello = |stream: UnixStream| drop(stream);
    let before_ask = |stream: UnixStream| drop(Offer::new(stream, &hello()).unwrap());
    let before_taken = |stream: UnixStream| drop(Offer::new(stream, &hello()).unwrap().ask(None));
    let before_the_end = |stream: UnixStream| {
        let link = Link::new(stream).unwrap();
        link.send(Kind::Hello, &postcard::to_stdvec(&hello()).unwrap()).unwrap();
        link.expect(Kind::Welcome).unwrap();
        link.send(Kind::Ask, &postcard::to_stdvec(&None::<engine::TablesId>).unwrap()).unwrap();
        link.expect(Kind::Descriptors).unwrap();
    };
    let points: [fn(UnixStream); 4] = [before_hello, before_ask, before_taken, before_the_end];
    for (number, point) in points.into_iter().enumerate() {
        let (outcome, thawed) = given(legacy(20_000), point);
        assert!(!kept(&outcome).is_empty());
        assert!(thawed, "point {number}");
    }
}

/// A running process that says these octets after it was asked, and then dies.
fn taken_from(words: impl FnOnce(&mut UnixStream) + Send + 'static) -> Result<Legacy, TakeError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let running = thread::spawn(move || {
        let link = Link::new(theirs.try_clone().unwrap()).unwrap();
        link.expect(Kind::Hello).unwrap();
        link.send(Kind::Welcome, &[]).unwrap();
        link.expect(Kind::Ask).unwrap();
        words(&mut { theirs });
    });
    let offer = Offer::new(ours, &hello())?;
    let taken = offer.ask(None).map(|(legacy, _)| legacy);
    running.join().unwrap();
    taken
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let (mut near, far) = UnixStream::pair().unwrap();
    Link::new(far).unwrap().send(kind, payload).unwrap();
    let mut bytes = Vec::new();
    near.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_running_process_that_dies_is_told_from_one_that_goes_on() {
    assert!(matches!(taken_from(|_| ()), Err(TakeError::Died)));
    let refused = taken_from(|stream| {
        stream.write_all(&frame(Kind::Refused, b"it drains")).unwrap();
    });
    assert!(matches!(&refused, Err(TakeError::Refused(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().ends_with("it drains"));
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_what() {
    let descriptors = |kind| {
        let mut bytes = frame(kind, &[]);
        bytes[4..6].copy_from_slice(&9_u16.to_be_bytes());
        bytes
    };
    let mut long = frame(Kind::Part, &[]);
    long[8..12].copy_from_slice(&(HAND_OVER_FRAME as u32 + 1).to_be_bytes());
    for (bytes, words) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not speak of a hand-over"),
        (descriptors(Kind::Descriptors), "speaks version 9"),
        (long, "octets"),
        (frame(Kind::Welcome, &[]), "unexpected (Welcome)"),
        (frame(Kind::Descriptors, &[0xff; 40]), "cannot be read"),
        (frame(Kind::Descriptors, &[1, 1, 0]), "not all descriptors arrived"),
    ] {
        let error = taken_from(move |stream| {
            stream.write_all(&bytes).unwrap();
            // The other side may be gone by then.
            let _ = stream.read(&mut [0; 64]);
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_greeting_of_another_version_is_refused_and_nothing_stands_still() {
    let (outcome, thawed) = given(legacy(1), |mut stream| {
        let mut greeting = frame(Kind::Hello, &[]);
        greeting[4..6].copy_from_slice(&(VERSION + 1).to_be_bytes());
        stream.write_all(&greeting).unwrap();
        let answer = Link::new(stream).unwrap().receive().unwrap();
        assert_eq!(answer.kind, Kind::Refused);
    });
    assert!(kept(&outcome).contains("speaks version"), "{outcome:?}");
    assert!(thawed);
}

/// What another version wrote is not understood, so a change of it must be another version.
#[test]
fn what_is_handed_over_is_written_as_this_version_writes_it() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let reader = thread::spawn(move || {
        let mut octets = Vec::new();
        theirs.read_to_end(&mut octets).unwrap();
        octets
    });
    let legacy = Legacy { node: full_node(), ..legacy(1) };
    parts::send(&Link::new(ours).unwrap(), &legacy).unwrap();
    let octets = reader.join().unwrap();
    let lines = octets.chunks(32).map(|some| some.iter().map(|o| format!("{o:02x}")).collect());
    let written = lines.collect::<Vec<String>>().join("\n");
    assert_eq!(
        written,
        include_str!("golden.hex").trim_end(),
        "what is handed over is another: raise link::VERSION, and put this into golden.hex"
    );
}

#[tokio::test]
async fn a_program_that_never_stops_talking_is_not_heard_to_its_end() {
    let words = ["-c", "while echo what is this; do :; done >&2; exit 1"];
    let own = Command::new("/bin/sh".into(), words.map(Into::into).to_vec());
    let error = upgrade(&own, None, std::future::pending::<()>()).await.unwrap_err();
    let UpgradeError::Check { output, .. } = error else { panic!("{error}") };
    assert!(output.len() as u64 <= CHECK_OUTPUT && output.starts_with("what is this"));
}

/// What the new process makes of one part.
fn part(payload: Vec<u8>) -> Result<Legacy, TakeError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let running = thread::spawn(move || {
        let link = Link::new(theirs).unwrap();
        link.patience(Duration::from_secs(5)).unwrap();
        link.expect(Kind::Hello).unwrap();
        link.send(Kind::Welcome, &[]).unwrap();
        link.expect(Kind::Ask).unwrap();
        // The other side may have had enough before the end.
        let null = std::fs::File::open("/dev/null").unwrap();
        let _ = link.send_with(Kind::Descriptors, &[1, 0, 0], &[null.as_fd(), null.as_fd()]);
        let _ = link.send(Kind::Part, &payload);
        let _ = link.send(Kind::End, &[]);
        let _ = link.receive();
    });
    let taken = Offer::new(ours, &hello()).unwrap().ask(None).map(|(legacy, _)| legacy);
    running.join().unwrap();
    taken
}

#[test]
fn a_part_that_cannot_be_read_is_an_error() {
    assert_eq!(part(vec![0, 5, 3, 0]).unwrap().node.own.incarnation, 5);
    for (octets, words) in [
        (vec![0x7f], "cannot be read"),
        (vec![0, 5, 3, 0, 0], "octets too many"),
        (vec![1, 9], "cannot be read"),
        (vec![1, 0], "nothing of the proxy itself"),
        (vec![], "cannot be read"),
    ] {
        let error = part(octets).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

proptest! {
    #[test]
    fn no_octets_of_a_part_do_worse_than_an_error(
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let _ = part(payload);
    }
}
