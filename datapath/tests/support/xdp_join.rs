//! What XDP does as a JAP: to targets and back.

use pias_protocol::flow::{FlowPhase, FlowRecord};
use proptest::sample::Index;

use super::*;

/// The flows that a pipeline translates.
pub(super) fn flows(pipeline: &Pipeline) -> Vec<FlowRecord> {
    let mut flows = pipeline.hand_over(Has::Nothing).flows;
    flows.sort_by_key(|flow| flow.key);
    flows
}

/// What a target sends back, by parts that generators choose.
#[derive(Clone, Debug)]
struct Answer {
    flags: u8,
    ttl: u8,
    payload: usize,
    /// Octets of options before an MSS option, if there is one, and its value.
    mss: Option<(usize, u16)>,
    oddity: Oddity,
}

/// What happens to the two.
#[derive(Clone, Debug)]
enum Step {
    /// A client's packet enters here.
    Entered(Sent),
    /// Another proxy sends one.
    Tunnelled(ProxyId, Sent),
    /// The target of some flow sends.
    Answered(Index, Answer),
    /// The overlay says something.
    Update(ForwardingUpdate),
    /// Time passes.
    Wait(u64),
}

impl Answer {
    fn bytes(&self, flow: &FlowRecord) -> Vec<u8> {
        let (from, to) = (flow.target, flow.nat);
        let step = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), self.ttl)
            }
            _ => panic!("two families"),
        };
        let payload = vec![7; self.payload];
        let mut bytes = Vec::new();
        let udp = flow.key.group.protocol == Protocol::Udp;
        if udp {
            step.udp(from.port(), to.port()).write(&mut bytes, &payload).unwrap();
        } else {
            let mut header = TcpHeader::new(from.port(), to.port(), 1, 64_000);
            header.fin = self.flags & 1 != 0;
            header.syn = self.flags & 2 != 0;
            header.rst = self.flags & 4 != 0;
            header.ack = self.flags & 16 != 0;
            if let Some((before, mss)) = self.mss {
                let [high, low] = mss.to_be_bytes();
                let options = [vec![1; before], vec![2, 4, high, low, 0]].concat();
                header.set_options_raw(&options).unwrap();
            }
            step.tcp_header(header).write(&mut bytes, &payload).unwrap();
        }
        self.oddity.apply(&mut bytes, udp);
        bytes
    }
}

fn answers() -> impl Strategy<Value = Answer> {
    let flags = prop_oneof![Just(18_u8), Just(16), Just(17), Just(4), Just(20)];
    let ttl = prop_oneof![8 => Just(60_u8), 1 => 1..5_u8];
    let payload = prop_oneof![8 => 0..40_usize, 1 => 1400..1460_usize];
    let mss = proptest::option::of((0..8_usize, prop_oneof![Just(1460_u16), any::<u16>()]));
    (flags, ttl, payload, mss, oddities()).prop_map(|(flags, ttl, payload, mss, oddity)| Answer {
        flags,
        ttl,
        payload,
        mss,
        oddity,
    })
}

fn targets() -> impl Strategy<Value = ForwardingUpdate> {
    let state = prop_oneof![
        6 => Just(TargetState::Up),
        1 => Just(TargetState::Draining),
        1 => Just(TargetState::Down),
    ];
    let weight = prop_oneof![4 => Just(1_u32), 1 => 0..5_u32];
    (0..GROUPS.len(), 1..5_u64, weight, state, any::<bool>()).prop_map(
        |(index, id, weight, state, gone)| {
            let target = target(index, id, weight, state);
            if gone && id == 4 {
                return ForwardingUpdate::TargetGone(target.id);
            }
            ForwardingUpdate::Target(target)
        },
    )
}

/// One of some targets of a group; the first may be a client, too.
fn target(index: usize, id: u64, weight: u32, state: TargetState) -> Target {
    let group = group(index);
    let address = match (group.address, id) {
        (IpAddr::V4(_), 1) => "192.0.2.1:5000".to_owned(),
        (IpAddr::V6(_), 1) => "[2001:db8:77::1]:5000".to_owned(),
        (IpAddr::V4(_), id) => format!("10.0.{}.{}:{}", id >> 8, id & 0xFF, 5000 + id),
        (IpAddr::V6(_), id) => format!("[2001:db8:9::{id}]:{}", 5000 + id),
    };
    let id = TargetId(id * 10 + index as u64);
    Target { id, group, address: address.parse().unwrap(), weight, state }
}

fn tunnelled(from: ProxyId, packet: &Sent) -> Arrival {
    let inner = if group(packet.group).address.is_ipv4() { Inner::Ipv4 } else { Inner::Ipv6 };
    let mut header = [0; geneve::MAX_LEN];
    let length = geneve::Header { inner, option: None }.write(&mut header);
    Arrival::Tunnel(tunnel(from), [&header[..length], &packet.bytes()].concat())
}

/// A proxy that is the JAP of all groups, with targets and peers.
fn jap(change: impl FnOnce(&mut Limits)) -> Two {
    let mut two = Two::with(change);
    (2..6).for_each(|id| two.apply(peer(ProxyId(id))));
    for index in 0..GROUPS.len() {
        let candidate = Candidate { proxy: ProxyId(1), tier: 0, weight: 1 };
        let entry = IngressEntry::Candidates(vec![candidate]);
        two.apply(ForwardingUpdate::Ingress { group: group(index), entry });
        for id in 2..4 {
            two.apply(ForwardingUpdate::Target(target(index, id, 1, TargetState::Up)));
        }
    }
    two
}

/// Runs the steps through both; how many packets XDP translated.
fn play(steps: &[Step]) -> Result<u64, TestCaseError> {
    let mut two = jap(|_| {});
    for step in steps {
        let arrival = match step {
            Step::Update(update) => {
                two.apply(update.clone());
                continue;
            }
            Step::Wait(millis) => {
                two.wait(Duration::from_millis(*millis));
                continue;
            }
            Step::Entered(packet) => Arrival::Tun(packet.bytes()),
            Step::Tunnelled(from, packet) => tunnelled(*from, packet),
            Step::Answered(which, answer) => {
                let flows = flows(&two.reference);
                if flows.is_empty() {
                    continue;
                }
                Arrival::Tun(answer.bytes(which.get(&flows)))
            }
        };
        let expected = two.expected(&arrival);
        prop_assert_eq!(two.outcome(&arrival), expected, "{:?}", step);
        prop_assert_eq!(flows(&two.shared), flows(&two.reference), "{:?}", step);
    }
    let embryonic = |pipeline: &Pipeline| pipeline.occupancy().nat_embryonic;
    prop_assert_eq!(embryonic(&two.shared), embryonic(&two.reference));
    two.assert_counted();
    Ok(two.translated)
}

#[test]
fn flows_of_targets_at_random_end_alike_with_and_without_xdp() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let step = prop_oneof![
            8 => sent_by_clients().prop_map(Step::Entered),
            8 => ((2..8_u64).prop_map(ProxyId), sent_by_clients())
                .prop_map(|(from, packet)| Step::Tunnelled(from, packet)),
            12 => (any::<Index>(), answers())
                .prop_map(|(which, answer)| Step::Answered(which, answer)),
            2 => targets().prop_map(Step::Update),
            1 => updates().prop_map(Step::Update),
            2 => prop_oneof![1..100_u64, 900..1100_u64].prop_map(Step::Wait),
        ];
        at_random(step, 50..300, play);
    });
}

#[test]
fn that_a_flow_was_answered_is_told_when_it_is_and_never_again() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let mut two = jap(|_| {});
        two.apply(ForwardingUpdate::Replicate { wanted: true, young: false });
        let (client, oddity) = (Client::Host(1), Oddity::None);
        let sent = Sent { group: 0, client, port: 5000, flags: 0, ttl: 60, payload: 9, oddity };
        let question = Arrival::Tun(sent.bytes());
        two.outcome(&question);
        let flow = flows(&two.shared)[0];
        let (ttl, payload, oddity) = (60, 9, Oddity::None);
        let answer = Answer { flags: 0, ttl, payload, mss: None, oddity };
        two.outcome(&Arrival::Tun(answer.bytes(&flow)));
        let told = |two: &mut Two| -> Vec<_> {
            two.tables.news().into_iter().map(|news| news.answered).collect()
        };
        assert_eq!(told(&mut two), [false, true], "it is new, and then answered");
        two.now = two.now + Duration::from_millis(1100);
        two.tables.set_now(two.now.into());
        two.outcome(&question);
        assert_eq!(told(&mut two), [false], "it is more than a question and its answer");
        assert_eq!(two.translated, 3, "all of that in XDP");
    });
}

#[test]
fn what_is_sent_to_a_mate_s_address_is_translated_when_its_flow_is_gone_on_with() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let mut two = jap(|_| {});
        let mate = ProxyId(2);
        for (index, client, nat) in [
            (0, "192.0.2.9:4000", "198.51.100.77:40000"),
            (2, "[2001:db8:7::9]:4000", "[2001:db8:1::77]:40000"),
        ] {
            let record = FlowRecord {
                key: FlowKey { client: client.parse().unwrap(), group: group(index) },
                target: target(index, 2, 1, TargetState::Up).address,
                nat: nat.parse().unwrap(),
                ingress: None,
                phase: FlowPhase::Open,
                client_finished: false,
                target_finished: false,
            };
            two.apply(peer(mate));
            two.apply(ForwardingUpdate::StandbyNat(vec![(mate, record.nat.ip())]));
            two.apply(ForwardingUpdate::Standby { of: mate, records: vec![record] });
            let (ttl, payload, oddity) = (60, 9, Oddity::None);
            let answer = Answer { flags: 16, ttl, payload, mss: None, oddity };
            let arrival = Arrival::Tun(answer.bytes(&record));
            let translated = |two: &mut Two| {
                let (before, expected) = (two.translated, two.expected(&arrival));
                assert_eq!(two.outcome(&arrival), expected);
                two.translated - before
            };
            assert_eq!(translated(&mut two), 0, "the mate lives, and has the flow");
            two.apply(ForwardingUpdate::PeerGone { id: mate, heir: None });
            translated(&mut two);
            assert_eq!(translated(&mut two), 1, "it is gone, and the flow is here");
            two.apply(ForwardingUpdate::StandbyNat(Vec::new()));
            assert_eq!(translated(&mut two), 0, "another proxy has the address");
        }
        two.assert_counted();
    });
}

/// A new TCP flow's first packet from another proxy.
fn syn(number: u16) -> Arrival {
    let client = Client::Host((number >> 13) as u8 + 1);
    let (port, oddity) = (1024 + (number & 0x1FFF), Oddity::None);
    let sent = Sent { group: 1, client, port, flags: 2, ttl: 60, payload: 0, oddity };
    tunnelled(ProxyId(2), &sent)
}

#[test]
fn a_flood_of_syns_in_xdp_evicts_its_own_kind() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let limits = |limits: &mut Limits| {
            limits.nat_flows = 256;
            limits.nat_embryonic = 64;
        };
        let mut two = jap(limits);
        for number in 0..100 {
            two.outcome(&syn(number));
        }
        let established: Vec<_> = flows(&two.shared).into_iter().take(40).collect();
        for flow in &established {
            let answer =
                |flags| Answer { flags, ttl: 60, payload: 0, mss: None, oddity: Oddity::None };
            two.outcome(&Arrival::Tun(answer(18).bytes(flow)));
            let (client, IpAddr::V4(address)) = (flow.key.client, flow.key.client.ip()) else {
                panic!("IPv4")
            };
            let client_packet = Sent {
                group: 1,
                client: Client::Host(address.octets()[3]),
                port: client.port(),
                flags: 16,
                ttl: 60,
                payload: 0,
                oddity: Oddity::None,
            };
            two.outcome(&tunnelled(ProxyId(2), &client_packet));
        }
        let passed = two.translated;
        for number in 1000..4000 {
            two.outcome(&syn(number));
        }
        assert_eq!(two.translated - passed, 3000, "XDP makes room by itself");
        let occupancy = two.shared.occupancy();
        assert!(occupancy.nat_embryonic <= 65 && occupancy.nat_flows <= 256, "{occupancy:?}");
        let now = flows(&two.shared);
        let lives = |flow: &FlowRecord| now.iter().any(|other| other.key == flow.key);
        assert!(established.iter().all(lives), "established flows stay");
        assert!(two.tables.path(Path::FlowEvicted) > 2800, "and it is counted");
    });
}

#[test]
fn a_target_that_is_down_gets_no_packet_from_xdp() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let mut two = jap(|_| {});
        for number in 0..50 {
            two.outcome(&syn(number));
        }
        assert_eq!(two.translated, 50);
        for id in 2..4 {
            two.apply(ForwardingUpdate::Target(target(1, id, 1, TargetState::Down)));
        }
        for number in 0..100 {
            two.outcome(&syn(number));
        }
        assert_eq!(two.translated, 50, "neither of a flow that it had, nor of a new one");
    });
}

#[test]
fn a_group_of_many_targets_is_drawn_among_alike_as_it_grows_and_shrinks() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let mut two = jap(|limits| limits.members = 2_048);
        let weight = |id: u64| (id % 3 + 1) as u32;
        let (mut number, mut opened) = (0, 0);
        let mut draw = |two: &mut Two| {
            for _ in 0..40 {
                number += 1;
                let expected = two.expected(&syn(number));
                assert_eq!(two.outcome(&syn(number)), expected);
            }
            opened += 40;
            assert_eq!(two.translated, opened, "nothing is passed up");
        };
        // Two parts, three, and whole parts alone.
        for targets in [2..100_u64, 100..194, 194..1_026] {
            for id in targets {
                two.apply(ForwardingUpdate::Target(target(1, id, weight(id), TargetState::Up)));
            }
            draw(&mut two);
        }
        for kept in [700..1_026_u64, 898..1_026, 1_020..1_026] {
            for id in (2..1_026).filter(|id| !kept.contains(id)) {
                let gone = target(1, id, weight(id), TargetState::Draining);
                two.apply(ForwardingUpdate::Target(gone));
            }
            draw(&mut two);
        }
    });
}

#[test]
fn a_group_with_more_targets_than_xdp_draws_among_is_placed_by_the_pipeline() {
    if !privileged() {
        return;
    }
    host().run(|| {
        let mut two = jap(|limits| limits.members = 2_048);
        for id in 2..TARGETS_DRAWN as u64 + 4 {
            two.apply(ForwardingUpdate::Target(target(1, id, 1, TargetState::Up)));
        }
        for number in 0..20 {
            let expected = two.expected(&syn(number));
            assert_eq!(two.outcome(&syn(number)), expected);
        }
        assert_eq!(two.translated, 0);
        for number in 0..20 {
            let expected = two.expected(&syn(number));
            assert_eq!(two.outcome(&syn(number)), expected);
        }
        assert_eq!(two.translated, 20, "what the pipeline has placed XDP delivers");
    });
}
