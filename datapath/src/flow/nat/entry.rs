//! The entries of translated flows, which XDP reads and writes at the same time.
//!
//! ```text
//! entry    16 words of 64 bits, two cache lines: the first is like a pin's
//!
//! word  bits 63                       32 31            16 15             0
//!       ┌───────────────────────────────┴────────────────┴────────────────┐
//!   0   │                             meta                                │  see `meta`
//!  1, 2 │                        client address                           │
//!  3, 4 │                       anycast address                           │
//!       ├───────────────────────────────┬─────────────────────────────────┤
//!   5   │   generation of the target    │       index of the target       │  its handle
//!   6   │        last packet            │            created              │  coarse ticks
//!       ├───────────────────────────────┴─────────────────────────────────┤
//!   7   │                       hash of the flow                          │
//!  8, 9 │                        target address                           │
//! 10, 11│                         NAT address                             │
//!       ├───────────────────────────────┬────────────────┬────────────────┤
//!  12   │            notes              │    NAT port    │  target port   │
//!       ├───────────────────────────────┴────────────────┴────────────────┤
//!  13   │                   handle of the ingress                         │  NONE: this proxy
//!  14   │                      id of the lease                            │
//!       ├───────────────────────────────┬─────────────────────────────────┤
//!  15   │         the way back          │ when its pin was last told, + 1 │  coarse ticks
//!       └───────────────────────────────┴─────────────────────────────────┘
//! ```
//! An entry is claimed, written, read and freed as a [pin](crate::flow::pins) is. Notes and the lower half of
//! word 15 are this process's own; its upper half is XDP's, which finds the way back anew where this process
//! wrote over it. Flows begin with 0 there. A flow's handle is its slot, and the version of its entry.

use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
        fence,
    },
};

use pias_protocol::{
    group::GroupKey,
    hash::{FlowHash, FlowKey},
    ids::TargetId,
};

use super::{cells::Place, flow::NatFlow, meta::Meta};
use crate::{
    flow::{
        pins::{Coarse, Times, address, address_words, port, port_bits},
        replica::Told,
    },
    mapped::Words,
    slots::Handle,
};

/// Words in an entry.
pub const ENTRY_WORDS: usize = 16;

const META: usize = 0;
const CLIENT: usize = 1;
const GROUP: usize = 3;
const TARGET: usize = 5;
const TIMES: usize = 6;
const HASH: usize = 7;
const ADDRESS: usize = 8;
const NAT: usize = 10;
const ENDS: usize = 12;
const INGRESS: usize = 13;
const LEASE: usize = 14;
const PINNED: usize = 15;

/// What this process notes of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes(u32);

impl Notes {
    /// The target's silence has been held against it.
    pub(super) const JUDGED: Self = Self(1 << 0);
    /// Another proxy, or a former life of this one, began it.
    pub(super) const ADOPTED: Self = Self(1 << 1);
    /// It was taken over, and this process has seen no packet of it since.
    pub(super) const UNTOUCHED: Self = Self(1 << 2);
    const TOLD: u32 = 3;

    pub(super) const fn has(self, note: Self) -> bool {
        self.0 & note.0 != 0
    }

    pub(super) const fn with(self, note: Self, set: bool) -> Self {
        Self(if set { self.0 | note.0 } else { self.0 & !note.0 })
    }

    /// What the mate that would go on with the flow has heard of it.
    pub(super) const fn told(self) -> Told {
        match self.0 >> Self::TOLD & 3 {
            1 => Told::Queued,
            2 => Told::All,
            3 => Told::Stale,
            _ => Told::Nothing,
        }
    }

    pub(super) const fn telling(self, told: Told) -> Self {
        let told = match told {
            Told::Nothing => 0,
            Told::Queued => 1,
            Told::All => 2,
            Told::Stale => 3,
        };
        Self(self.0 & !(3 << Self::TOLD) | told << Self::TOLD)
    }
}

/// What a flow is found by from both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) key: FlowKey,
    pub(super) hash: FlowHash,
    pub(super) target: SocketAddr,
    pub(super) nat: SocketAddr,
}

impl Ends {
    /// Where both sides are looked for.
    pub(super) fn places(&self, seed: u64) -> [Place; 2] {
        let protocol = self.key.group.protocol;
        let reverse = Place::of_target(protocol, self.target, self.nat.port(), seed);
        [Place::of_client(self.hash, seed), reverse]
    }
}

/// The words of a flow that is written.
pub(super) struct Written {
    pub(super) ends: Ends,
    pub(super) target: Handle,
    pub(super) lease: TargetId,
    pub(super) ingress: Option<Handle>,
    pub(super) notes: Notes,
    pub(super) now: Coarse,
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    slot: usize,
    words: &'a [AtomicU64; ENTRY_WORDS],
}

impl<'a> Entry<'a> {
    /// The entry of a slot that is there.
    pub(super) fn of(entries: &'a Words, slot: usize) -> Option<Self> {
        Some(Self { slot, words: entries.as_chunks().0.get(slot)? })
    }

    pub(super) fn meta(self) -> Meta {
        Meta(self.words[META].load(Acquire))
    }

    fn word(self, at: usize) -> u64 {
        self.words[at].load(Relaxed)
    }

    fn pair(self, at: usize) -> [u64; 2] {
        [self.word(at), self.word(at + 1)]
    }

    fn store_pair(self, at: usize, words: [u64; 2]) {
        self.words[at].store(words[0], Relaxed);
        self.words[at + 1].store(words[1], Relaxed);
    }

    /// Whether what was read since `meta` was of one flow.
    fn still_is(self, meta: Meta) -> bool {
        // Whoever wrote one of the words that were read has exchanged the meta before.
        fence(Acquire);
        let again = Meta(self.word(META));
        again.version() == meta.version() && !again.is_being_written()
    }

    /// The handle of the flow that is here at this meta.
    pub(super) const fn handle(self, meta: Meta) -> Handle {
        Handle::from_bits(self.slot as u64 | (meta.version() as u64) << 32)
    }

    /// The handle of the flow that is here, if a client's side is its own.
    pub(super) fn is_of_client(self, key: &FlowKey) -> Option<Handle> {
        let meta = self.meta();
        let is = meta.identity() == Meta::identity_of(key)
            && self.pair(CLIENT) == address_words(key.client.ip())
            && self.pair(GROUP) == address_words(key.group.address);
        (is && meta.phase().is_some() && self.still_is(meta)).then(|| self.handle(meta))
    }

    /// The handle of the flow that is here, if a target's side is its own.
    pub(super) fn is_of_target(
        self,
        protocol: pias_protocol::group::Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        let meta = self.meta();
        let is = meta.protocol() == protocol
            && self.word(ENDS) as u32 == ports(target, nat)
            && self.pair(ADDRESS) == address_words(target.ip())
            && self.pair(NAT) == address_words(nat.ip());
        (is && meta.phase().is_some() && self.still_is(meta)).then(|| self.handle(meta))
    }

    /// The flow that is here.
    pub(super) fn read(self) -> Option<(Handle, NatFlow)> {
        let meta = self.meta();
        let phase = meta.phase()?;
        let (client_port, group_port) = meta.ports();
        let (times, ends) = (Times(self.word(TIMES)), self.word(ENDS));
        let protocol = meta.protocol();
        let group = GroupKey { address: address(self.pair(GROUP)), port: group_port, protocol };
        let client = SocketAddr::new(address(self.pair(CLIENT)), client_port);
        let notes = Notes((ends >> 32) as u32);
        let (client_finished, target_finished) = meta.finished();
        let ingress = Handle::from_bits(self.word(INGRESS));
        let flow = NatFlow {
            key: FlowKey { client, group },
            hash: FlowHash(self.word(HASH)),
            target: Handle::from_bits(self.word(TARGET)),
            lease: TargetId(self.word(LEASE)),
            address: SocketAddr::new(address(self.pair(ADDRESS)), port(ends)),
            nat: SocketAddr::new(address(self.pair(NAT)), port(ends >> 16)),
            ingress: (ingress != Handle::NONE).then_some(ingress),
            phase,
            answered: meta.answered(),
            settled: meta.settled(),
            judged: notes.has(Notes::JUDGED),
            created: times.created(),
            last: times.last(),
            adopted: notes.has(Notes::ADOPTED),
            // What XDP saw shows in the times alone.
            untouched: notes.has(Notes::UNTOUCHED) && times.created() == times.last(),
            told: notes.told(),
            client_finished,
            target_finished,
        };
        self.still_is(meta).then(|| (self.handle(meta), flow))
    }

    /// Takes the entry from all others, who leave it alone until it is published. `None` if it is not
    /// as it was `seen`.
    pub(super) fn claim(self, seen: Meta) -> Option<Meta> {
        if seen.is_being_written() {
            return None;
        }
        let claimed = seen.claimed();
        self.exchange(seen, claimed).then(|| {
            // Whoever reads one of the words stored from here on finds this meta when it looks again.
            fence(Release);
            claimed
        })
    }

    /// Makes one meta another; `false` if it was not that any more.
    pub(super) fn exchange(self, seen: Meta, next: Meta) -> bool {
        self.words[META].compare_exchange(seen.0, next.0, AcqRel, Relaxed).is_ok()
    }

    /// Fills a claimed entry.
    pub(super) fn write(self, flow: &Written) {
        let Ends { key, hash, target, nat } = flow.ends;
        self.store_pair(CLIENT, address_words(key.client.ip()));
        self.store_pair(GROUP, address_words(key.group.address));
        self.store_pair(ADDRESS, address_words(target.ip()));
        self.store_pair(NAT, address_words(nat.ip()));
        let ends = u64::from(ports(target, nat)) | u64::from(flow.notes.0) << 32;
        let ingress = flow.ingress.unwrap_or(Handle::NONE).to_bits();
        for (at, word) in [
            (TARGET, flow.target.to_bits()),
            (TIMES, Times::new(flow.now, flow.now).0),
            (HASH, hash.0),
            (ENDS, ends),
            (INGRESS, ingress),
            (LEASE, flow.lease.0),
            (PINNED, 0),
        ] {
            self.words[at].store(word, Relaxed);
        }
    }

    /// Shows a claimed entry to all.
    pub(super) fn publish(self, meta: Meta) {
        self.words[META].store(meta.0, Release);
    }

    pub(super) fn times(self) -> Times {
        Times(self.word(TIMES))
    }

    /// A packet came.
    pub(super) fn packet_at(self, now: Coarse) {
        let seen = self.times();
        if seen.last().ticks_until(now) > 0 {
            let times = Times::new(seen.created(), now);
            let _ = self.words[TIMES].compare_exchange(seen.0, times.0, Relaxed, Relaxed);
        }
    }

    /// Changes what this process notes.
    pub(super) fn note(self, change: impl Fn(Notes) -> Notes) {
        let seen = self.word(ENDS);
        let notes = change(Notes((seen >> 32) as u32));
        let next = u64::from(notes.0) << 32 | u64::from(seen as u32);
        if next != seen {
            // Of another flow by now, whose notes are its own.
            let _ = self.words[ENDS].compare_exchange(seen, next, Relaxed, Relaxed);
        }
    }

    /// When the pin of this flow was last told of.
    pub(super) fn pinned(self) -> Option<Coarse> {
        (self.word(PINNED) as u32).checked_sub(1).map(Coarse::from_ticks)
    }

    pub(super) fn set_pinned(self, now: Coarse) {
        self.words[PINNED].store(u64::from(now.ticks().wrapping_add(1)), Relaxed);
    }

    /// Gives the flow a target that is registered here.
    pub(super) fn set_target(self, target: Handle, lease: TargetId) {
        self.words[LEASE].store(lease.0, Relaxed);
        self.words[TARGET].store(target.to_bits(), Relaxed);
    }
}

/// Both ports as in the lower half of word 12.
fn ports(target: SocketAddr, nat: SocketAddr) -> u32 {
    (port_bits(target.port()) | port_bits(nat.port()) << 16) as u32
}
