use std::{
    collections::HashMap, fs::File, net::SocketAddr, os::fd::AsFd, sync::Barrier, thread,
    time::Duration,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use pias_protocol::random::SplitMix;
use proptest::prelude::*;

use super::*;

const START: Time = Time::from_micros(1);

fn key(port: u16) -> FlowKey {
    FlowKey {
        client: SocketAddr::new("192.0.2.1".parse().unwrap(), port),
        group: "203.0.113.1:80/tcp".parse().unwrap(),
    }
}

fn pinned(port: u16, phase: Phase, last: Time) -> Pinned {
    let (key, last) = (key(port), Coarse::from(last));
    Pinned { key, hash: key.hash(), peer: Handle::NONE, phase, created: last, last }
}

/// Tables of two parties in one memory.
fn shared(limit: usize) -> [IngressTable; 2] {
    let file = |words: usize| {
        let file = File::from(memfd_create("pins", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(8 * words as u64).unwrap();
        move || Words::shared(file.as_fd(), words).unwrap()
    };
    let (pins, beside) = (file(IngressTable::words(limit)), file(BESIDE_WORDS));
    [(); 2].map(|()| IngressTable::on(pins(), beside(), 1).unwrap())
}

fn client(number: u32) -> Pinned {
    let mut flow = pinned(number as u16, Phase::Open, START);
    flow.key.client.set_ip(std::net::Ipv4Addr::from(10 << 24 | number >> 16).into());
    Pinned { hash: flow.key.hash(), peer: Handle::from_bits(number.into()), ..flow }
}

#[test]
fn a_table_grows_and_every_flow_is_found_all_the_while() {
    const FLOWS: u32 = 120_000;
    let [mut table, xdp] = shared(1 << 19);
    let first = table.pins.len();
    let mut evicted = 0;
    let lost = |table: &IngressTable, upto: u32| {
        let peers = (0..upto).map(|number| (client(number), table.get(&client(number).key)));
        peers.filter(|(flow, found)| found.is_none_or(|found| found.peer != flow.peer)).count()
    };
    for number in 0..FLOWS {
        evicted += usize::from(table.pin(&client(number)));
        // As many as a hundred thousand new flows a second.
        if number % 5000 == 0 {
            evicted += table.age(START) as usize;
            assert_eq!(lost(&xdp, number + 1), evicted, "at {number}");
        }
    }
    assert!(evicted < FLOWS as usize / 50, "{evicted} of {FLOWS} were evicted");
    for _ in 0..200 {
        evicted += table.age(START) as usize;
    }
    assert_eq!((lost(&table, FLOWS), lost(&xdp, FLOWS)), (evicted, evicted));
    assert_eq!(table.count(), FLOWS as usize - evicted);
    assert!(table.pins.len() > first && table.pins.len() >= 2 * table.count());
    let astray = |(at, entry): (usize, Entry<'_>)| {
        entry.read().is_some_and(|flow| !table.pins.is_home(at, flow.hash))
    };
    assert!(!table.pins.entries().enumerate().any(astray), "all are at home");
}

#[test]
fn what_was_written_by_the_scale_before_is_moved_when_it_is_come_upon() {
    let table = |grown: bool| {
        let table = IngressTable::new(1 << 19, 1);
        if grown {
            table.pins.grow();
            table.pins.grown();
        }
        table
    };
    let (small, mut large) = (table(false), table(true));
    let home = |table: &IngressTable, flow: &Pinned| table.pins.home(flow.hash).next().unwrap();
    let moves = |flow: &Pinned| home(&small, flow) != home(&large, flow);
    let flow = (0..).map(client).find(moves).unwrap();
    let (name, old) = (Name::of(&flow.key, flow.hash), home(&small, &flow));
    assert!(large.pins.entry(old).write(large.pins.entry(old).meta(), &name, &flow));
    assert_eq!(large.get(&flow.key), None);
    for _ in 0..100 {
        large.age(START);
    }
    assert_eq!((large.get(&flow.key), large.count()), (Some(flow), 1));
    assert!(large.pins.entry(old).meta().is_free());
}

#[test]
fn a_full_table_gives_up_what_never_opened() {
    let mut table = IngressTable::new(8, 1);
    for port in 1..8 {
        assert!(!table.pin(&pinned(port, Phase::Open, START)));
    }
    let later = START + Duration::from_secs(1);
    assert!(!table.pin(&pinned(100, Phase::Opening, later)));
    for port in 101..200 {
        assert!(table.pin(&pinned(port, Phase::Opening, later)));
    }
    assert_eq!(table.count(), 8);
    assert!((1..8).all(|port| table.get(&key(port)).is_some()));
}

#[test]
fn of_open_flows_the_longest_idle_goes() {
    let mut table = IngressTable::new(8, 1);
    for port in 1..=8 {
        let idle = Duration::from_secs(if port == 5 { 0 } else { port.into() });
        table.pin(&pinned(port, Phase::Open, START + idle));
    }
    assert!(table.pin(&pinned(9, Phase::Opening, START + Duration::from_secs(10))));
    assert!(table.get(&key(5)).is_none() && table.get(&key(9)).is_some());
}

#[test]
fn flows_go_when_their_phase_is_over() {
    let mut table = IngressTable::new(8, 1);
    table.pin(&pinned(1, Phase::Open, START));
    table.pin(&pinned(2, Phase::Opening, START));
    table.age(START + TCP_OPENING_AND_MORE);
    assert_eq!(table.count(), 1);
    table.age(START + Duration::from_secs(3 * 3600));
    assert_eq!(table.count(), 0);
}

const TCP_OPENING_AND_MORE: Duration = Duration::from_secs(31);

#[test]
fn there_is_room_for_as_many_flows_as_asked_for() {
    let entries = |limit| IngressTable::words(limit) / 8;
    assert_eq!([0, 1, 8, 9, 100, 1 << 20].map(entries), [8, 8, 8, 16, 128, 1 << 20]);
}

#[test]
fn packets_tell_how_far_a_flow_is() {
    let mut table = IngressTable::new(8, 1);
    table.pin(&pinned(1, Phase::Opening, START));
    let mut now = START;
    let steps = [
        (tcp::SYN, Phase::Opening),
        (0, Phase::Open),
        (0, Phase::Open),
        (tcp::FIN, Phase::Closing),
        (0, Phase::Closing),
        (tcp::SYN, Phase::Opening),
        (tcp::RST, Phase::Closing),
    ];
    for (flags, phase) in steps {
        now = now + Duration::from_secs(1);
        table.touch(&table.find(&key(1), key(1).hash()).unwrap(), flags, now);
        let expected = Pinned { phase, last: now.into(), ..pinned(1, phase, START) };
        assert_eq!(table.get(&key(1)), Some(expected));
    }
}

#[test]
fn a_clock_that_is_behind_makes_no_flow_older() {
    let mut table = IngressTable::new(8, 1);
    let flow = pinned(1, Phase::Open, START + Duration::from_secs(1));
    table.pin(&flow);
    table.touch(&table.find(&flow.key, flow.hash).unwrap(), 0, START);
    table.age(START);
    assert_eq!(table.get(&flow.key), Some(flow));
}

#[test]
fn one_party_sees_what_the_other_does() {
    let [mut here, mut there] = shared(64);
    there.pin(&pinned(1, Phase::Open, START));
    assert_eq!(here.get(&key(1)), Some(pinned(1, Phase::Open, START)));
    here.remove(&key(1));
    assert_eq!(there.get(&key(1)), None);
}

#[test]
fn the_count_catches_up_with_the_other_party() {
    // Of several steps, so that what happens in mid-round is counted once.
    let [mut here, mut there] = shared(4 * AGED_PER_TICK);
    for port in 1..=100 {
        there.pin(&pinned(port, Phase::Open, START));
    }
    assert_eq!(here.count(), 0);
    here.age(START);
    here.age(START);
    for port in 101..=300 {
        here.pin(&pinned(port, Phase::Open, START));
    }
    for port in 251..=300 {
        here.remove(&key(port));
    }
    assert_eq!(here.count(), 150);
    here.age(START);
    here.age(START);
    assert_eq!(here.count(), 250);
    for port in 1..=250 {
        there.remove(&key(port));
        here.remove(&key(port));
    }
    for _ in 0..4 {
        here.age(START);
    }
    assert_eq!((here.count(), here.iter().count()), (0, 0));
}

#[test]
fn a_flow_that_both_parties_insert_is_one() {
    let mut table = IngressTable::new(8, 1);
    let flow = pinned(1, Phase::Open, START);
    let twice = |table: &mut IngressTable| {
        for at in [2, 5] {
            let (name, entry) = (Name::of(&flow.key, flow.hash), table.pins.entry(at));
            assert!(entry.write(entry.meta(), &name, &flow));
        }
    };
    twice(&mut table);
    table.remove(&flow.key);
    assert_eq!(table.iter().count(), 0, "both are gone");

    twice(&mut table);
    let moved = Pinned { peer: Handle::from_bits(9), ..flow };
    assert!(!table.pin(&moved));
    assert_eq!(table.iter().collect::<Vec<_>>(), [moved], "no pin to the JAP before is left");
}

#[test]
fn a_pin_goes_to_an_heir_once() {
    let mut table = IngressTable::new(8, 1);
    let flow = pinned(1, Phase::Opening, START);
    table.pin(&flow);
    let stale = table.find(&flow.key, flow.hash).unwrap();
    let mut found = stale;
    assert!(table.repin(&mut found, Handle::from_bits(9)));
    table.touch(&found, 0, START);
    let expected = Pinned { peer: Handle::from_bits(9), phase: Phase::Open, ..flow };
    assert_eq!(table.get(&flow.key), Some(expected), "the packet that found the heir counts");

    let mut found = stale;
    assert!(!table.repin(&mut found, Handle::from_bits(7)));
    assert_eq!(found.peer, Handle::from_bits(7), "the packet goes there");
    assert_eq!(table.get(&flow.key), Some(expected));
}

/// What a table is asked to do.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pin { peer: u64 },
    Touch { flags: u8 },
    Repin { peer: u64 },
    Remove,
    Age,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u64).prop_map(|peer| Step::Pin { peer }),
        prop_oneof![Just(0), Just(tcp::SYN), Just(tcp::FIN)]
            .prop_map(|flags| Step::Touch { flags }),
        (0..3_u64).prop_map(|peer| Step::Repin { peer }),
        Just(Step::Remove),
        Just(Step::Age),
    ]
}

fn model_step(model: &mut HashMap<FlowKey, Pinned>, flow: Pinned, step: Step, now: Time) {
    let known = model.get_mut(&flow.key);
    match (step, known) {
        (Step::Pin { peer }, Some(known)) => {
            (known.peer, known.last) = (Handle::from_bits(peer), now.into());
        }
        (Step::Pin { peer }, None) => {
            model.insert(flow.key, Pinned { peer: Handle::from_bits(peer), ..flow });
        }
        (Step::Touch { flags }, Some(known)) => {
            (known.phase, known.last) = (phase_after(known.phase, flags), now.into());
        }
        (Step::Repin { peer }, Some(known)) => known.peer = Handle::from_bits(peer),
        (Step::Remove, _) => {
            model.remove(&flow.key);
        }
        (Step::Age, _) => model.retain(|_, flow| flow.last.age(now) < flow.phase.idle()),
        (Step::Touch { .. } | Step::Repin { .. }, None) => {}
    }
}

fn table_step(table: &mut IngressTable, flow: Pinned, step: Step, now: Time) {
    let found = table.find(&flow.key, flow.hash);
    match (step, found) {
        (Step::Pin { peer }, _) => {
            assert!(!table.pin(&Pinned { peer: Handle::from_bits(peer), ..flow }));
        }
        (Step::Touch { flags }, Some(found)) => table.touch(&found, flags, now),
        (Step::Repin { peer }, Some(mut found)) => {
            assert!(table.repin(&mut found, Handle::from_bits(peer)));
        }
        (Step::Remove, _) => table.remove(&flow.key),
        (Step::Age, _) => assert_eq!(table.age(now), 0),
        (Step::Touch { .. } | Step::Repin { .. }, None) => {}
    }
}

proptest! {
    /// As many flows as a bucket has room for, so that none has to go.
    #[test]
    fn a_table_is_a_map_while_no_bucket_is_full(
        seed: u64,
        buckets in 0..5_u32,
        steps in prop::collection::vec((1..=8_u16, step(), 0..20_000_u64), 1..200),
    ) {
        let mut table = IngressTable::new(8 << buckets, seed);
        let mut model = HashMap::new();
        let mut now = START;
        for (port, step, millis) in steps {
            now = now + Duration::from_millis(millis);
            let flow = pinned(port, Phase::Opening, now);
            model_step(&mut model, flow, step, now);
            table_step(&mut table, flow, step, now);
            for port in 1..=8 {
                prop_assert_eq!(table.get(&key(port)), model.get(&key(port)).copied());
            }
            let all: HashMap<_, _> = table.iter().map(|flow| (flow.key, flow)).collect();
            prop_assert_eq!(&all, &model);
            prop_assert_eq!(table.count(), model.len());
        }
    }
}

/// Flows in the table that two threads fight for: twice what it has room for.
const CONTESTED: u16 = 32;

const ROUNDS: usize = 500_000;

/// A JAP that tells whose it is.
fn jap(port: u16, life: u16) -> Handle {
    Handle::from_bits(u64::from(port) | u64::from(life) << 32)
}

fn is_its_own(port: u16, peer: Handle) -> bool {
    peer.to_bits() & u64::from(u32::MAX) == u64::from(port)
}

fn contest(mut table: IngressTable, seed: u64, began: &Barrier) -> IngressTable {
    let mut dice = SplitMix::new(seed);
    began.wait();
    for round in 0..ROUNDS {
        let now = START + Duration::from_millis(round as u64);
        let port = 1 + dice.below(CONTESTED.into()) as u16;
        let flow = pinned(port, Phase::Opening, now);
        let peer = jap(port, dice.below(3) as u16);
        let found = table.find(&flow.key, flow.hash);
        assert!(found.is_none_or(|found| is_its_own(port, found.peer)), "{found:?} of {port}");
        match (dice.below(8), found) {
            (0..3, _) => {
                table.pin(&Pinned { peer, ..flow });
            }
            (3..6, Some(found)) => table.touch(&found, 0, now),
            (6, Some(mut found)) => {
                table.repin(&mut found, peer);
            }
            (7, _) if round % 8 == 0 => {
                table.age(now);
            }
            (7, _) => table.remove(&flow.key),
            _ => {}
        }
        if round % 16 == 0 {
            table.iter().for_each(|flow| assert_whole(&flow));
        }
    }
    table
}

fn assert_whole(flow: &Pinned) {
    assert!(is_its_own(flow.key.client.port(), flow.peer), "{flow:?}");
    assert_eq!(*flow, Pinned { key: key(flow.key.client.port()), hash: flow.key.hash(), ..*flow });
}

#[test]
fn two_threads_never_see_half_a_flow() {
    let began = Barrier::new(2);
    let [mut one, other] = thread::scope(|scope| {
        let mut seed = 0;
        shared(usize::from(CONTESTED) / 2)
            .map(|table| {
                seed += 1;
                let began = &began;
                scope.spawn(move || contest(table, seed, began))
            })
            .map(|thread| thread.join().unwrap())
    });
    assert!((0..one.pins.len()).all(|at| {
        let entry = one.pins.entry(at);
        entry.meta().is_free() || entry.read().is_some()
    }));
    one.age(START);
    assert_eq!(one.count(), one.iter().count());
    (1..=CONTESTED).for_each(|port| one.remove(&key(port)));
    assert_eq!((one.count(), other.iter().count()), (0, 0));
}
