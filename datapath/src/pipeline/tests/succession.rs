//! The next process goes on with the very tables of this one, whose program begins flows yet.

use std::{fs::File, net::SocketAddr, os::fd::AsFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::{
    flow::{
        buckets::BESIDE_WORDS,
        nat::{self, CELLS, ENTRY_WORDS, NatMemory, Sizes},
    },
    mapped::Words,
    slots::Handle,
    wire::tcp,
    xdp::kept::FormerTarget,
};

const TARGET: &str = "10.0.0.1:8080";
const OTHER_WEB: &str = "203.0.113.11:80";
const OTHER_TARGET: &str = "10.0.0.2:8080";

fn small() -> PipelineConfig {
    let limits =
        Limits { ingress_flows: 64, nat_flows: 64, nat_embryonic: 32, ..Limits::default() };
    PipelineConfig { limits, ..config() }
}

/// Memory that several processes have.
struct Common(Vec<(File, usize)>);

impl Common {
    fn new() -> Self {
        let limits = small().limits;
        let sizes = Sizes::of(&limits);
        let words = [
            IngressTable::words(limits.ingress_flows),
            BESIDE_WORDS,
            sizes.slots * ENTRY_WORDS,
            sizes.buckets * CELLS,
            sizes.buckets * CELLS,
            sizes.free,
            nat::BESIDE_WORDS,
        ];
        let memory = |words: usize| {
            let file = File::from(memfd_create("table", MFdFlags::MFD_CLOEXEC).unwrap());
            file.set_len(words as u64 * 8).unwrap();
            (file, words)
        };
        Self(words.map(memory).into())
    }

    /// A process with these tables, which are those of another one, or new.
    fn process(&self, is_kept: bool) -> Proxy {
        let mapped = self.0.iter().map(|(file, words)| Words::shared(file.as_fd(), *words));
        let [pins, beside, flows, forward, reverse, free, nat_beside] =
            mapped.collect::<Result<Vec<_>, _>>().unwrap().try_into().unwrap();
        let shared = Shared {
            pins,
            beside,
            nat: NatMemory { flows, forward, reverse, free, beside: nat_beside },
            elsewhere: Elsewhere::on(Words::zeroed(Elsewhere::WORDS).unwrap()),
            seed: small().seed,
            is_kept,
        };
        let mut proxy = Proxy::with(small());
        proxy.pipeline = Pipeline::sharing(small(), shared).unwrap();
        proxy
    }
}

/// Its targets have other handles where they are registered in another order.
fn serve(proxy: &mut Proxy, order: [usize; 2]) {
    let targets = [(6, WEB, TARGET), (8, OTHER_WEB, OTHER_TARGET)];
    for (id, web, target) in order.map(|at| targets[at]) {
        let group = format!("{web}/tcp");
        proxy.target(id, &group, target, TargetState::Up);
        proxy.candidates(&group, &[SELF]);
    }
}

/// What a client's segment to the first group becomes: its source and its destination.
fn delivered(proxy: &mut Proxy, client: &str, flags: u8) -> (SocketAddr, SocketAddr) {
    let mut packet = testing::tcp(client, WEB, flags, b"");
    assert_eq!(proxy.tun(&mut packet), Verdict::Tun, "{client}");
    let sent = transport(&packet);
    (sent.source, sent.destination)
}

fn client(port: u16) -> String {
    format!("192.0.2.1:{port}")
}

#[test]
fn flows_go_on_with_their_targets_whenever_they_began() {
    let common = Common::new();
    let mut running = common.process(false);
    serve(&mut running, [0, 1]);
    let first = delivered(&mut running, &client(1), tcp::SYN);
    assert_eq!(first.1, sock(TARGET));

    let mut next = common.process(true);
    serve(&mut next, [1, 0]);
    next.pipeline.go_on();
    let adopted = next.pipeline.take_over(running.pipeline.hand_over(Has::Nothing), next.now);
    assert_eq!(adopted, Adopted { flows: 1, ..Adopted::default() });
    assert_eq!(delivered(&mut next, &client(1), tcp::ACK), first);

    // The program of the running process, which knows targets by other handles, is attached yet.
    let second = delivered(&mut running, &client(2), tcp::SYN);
    let third = delivered(&mut running, &client(3), tcp::SYN);
    assert_eq!(delivered(&mut next, &client(2), tcp::ACK), second);
    next.pipeline.settle();
    for (port, ends) in [(1, first), (2, second), (3, third)] {
        assert_eq!(delivered(&mut next, &client(port), tcp::ACK), ends);
    }
    assert_eq!(next.pipeline.occupancy().nat_flows, 3);
}

#[test]
fn targets_keep_the_handles_by_which_flows_name_them() {
    let common = Common::new();
    let mut running = common.process(false);
    serve(&mut running, [0, 1]);
    let third = "203.0.113.12:80/tcp";
    running.target(9, third, "10.0.0.3:8080", TargetState::Up);
    let handles = |proxy: &Proxy| [6, 8].map(|id| proxy.pipeline.table().handle_of(TargetId(id)));
    let (before, gone) = (handles(&running), running.pipeline.table().handle_of(TargetId(9)));
    let mut former: Vec<_> = [(before[0], 6), (before[1], 8), (gone, 9)]
        .map(|(handle, id)| FormerTarget { handle: handle.unwrap(), id: Some(TargetId(id)) })
        .into();
    // A slot whose target went before: its next one has a handle that no flow has.
    let free = Handle::from_bits(3 | 7 << 32);
    former.push(FormerTarget { handle: free, id: None });

    let mut next = common.process(true);
    next.pipeline.recall(&[], &former);
    serve(&mut next, [1, 0]);
    assert_eq!(handles(&next), before);
    let ends = delivered(&mut running, &client(1), tcp::SYN);
    assert_eq!(delivered(&mut next, &client(1), tcp::ACK), ends, "by the handle itself");
    next.pipeline.go_on();
    for (id, address) in [(10, "10.0.0.4:8080"), (11, "10.0.0.5:8080")] {
        next.target(id, third, address, TargetState::Up);
        let handle = next.pipeline.table().handle_of(TargetId(id)).unwrap();
        assert!(handle != gone.unwrap() && handle != free, "{handle:?} is another's");
    }
}

#[test]
fn who_has_the_tables_is_told_of_flows_beside_them_alone() {
    let common = Common::new();
    let mut running = common.process(false);
    serve(&mut running, [0, 1]);
    let ends = delivered(&mut running, &client(1), tcp::SYN);
    let tables = running.pipeline.hand_over(Has::Tables);
    assert_eq!(tables, Tables::default());
    let mut next = common.process(true);
    serve(&mut next, [1, 0]);
    assert_eq!(next.pipeline.take_over(tables, next.now), Adopted::default());
    next.pipeline.go_on();
    assert_eq!(delivered(&mut next, &client(1), tcp::ACK), ends);
}

#[test]
fn a_process_whose_next_one_fails_goes_on_with_its_flows() {
    let common = Common::new();
    let mut running = common.process(false);
    serve(&mut running, [0, 1]);
    let ends = delivered(&mut running, &client(1), tcp::SYN);
    running.pipeline.lend();
    let mut next = common.process(true);
    serve(&mut next, [1, 0]);
    next.pipeline.go_on();
    drop(next);
    running.pipeline.go_on();
    running.pipeline.settle();
    assert_eq!(delivered(&mut running, &client(1), tcp::ACK), ends);
    running.pipeline.apply(
        ForwardingUpdate::TargetGone(TargetId(6)),
        running.now,
        &mut Side::default(),
    );
    let mut packet = testing::tcp(&client(1), WEB, tcp::ACK, b"");
    assert_ne!(running.tun(&mut packet), Verdict::Tun, "it ends with its target as ever");
}

#[test]
fn after_a_crash_flows_wait_for_their_targets_to_register_again() {
    let common = Common::new();
    let mut killed = common.process(false);
    serve(&mut killed, [0, 1]);
    let ends = delivered(&mut killed, &client(1), tcp::SYN);
    drop(killed);
    let mut next = common.process(true);
    next.pipeline.go_on();
    next.pipeline.settle();
    assert_eq!(delivered(&mut next, &client(1), tcp::ACK), ends, "nothing is known against it");
    serve(&mut next, [1, 0]);
    assert_eq!(delivered(&mut next, &client(1), tcp::ACK), ends);
}
