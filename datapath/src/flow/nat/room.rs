//! The slots of translated flows: which are free, and what stands beside them.
//!
//! ```text
//! slots    0 ──── used at some time ──── fresh ──── never used ──── limit
//!          │ free ones of these: in a ring        │
//!          └ taken: counts slots out of the ring  └ counts up where the ring is empty
//!            given: counts slots into it, by this process alone
//! ```
//! Whoever takes a slot counts with a compare-and-exchange: XDP does, too.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::entry::ENTRY_WORDS;
use crate::{limits::Limits, mapped::Words};

use super::cells::CELLS;

const TAKEN: usize = 0;
const GIVEN: usize = 1;
const FRESH: usize = 2;
const EMBRYONIC: usize = 3;
const NEXT_ID: usize = 4;
const WANTED: usize = 5;

/// Words beside the entries.
pub const BESIDE_WORDS: usize = 8;

/// How large the parts of a table of translated flows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries.
    pub slots: usize,
    /// Buckets of cells of each side, a power of two: a bucket has two slots in the mean when all are used.
    pub buckets: usize,
    /// Places in the ring of free slots, a power of two.
    pub free: usize,
}

impl Sizes {
    /// Of a table for as many flows as these limits say.
    #[must_use]
    pub const fn of(limits: &Limits) -> Self {
        let slots = limits.nat_flows;
        let buckets = slots.div_ceil(2).next_power_of_two();
        Self { slots, buckets, free: slots.next_power_of_two() }
    }
}

/// The memory of a table of translated flows.
#[derive(Debug)]
pub struct NatMemory {
    /// Entries.
    pub flows: Words,
    /// Cells by the client's side.
    pub forward: Words,
    /// Cells by the target's side.
    pub reverse: Words,
    /// The ring of free slots.
    pub free: Words,
    /// What stands beside: [`BESIDE_WORDS`].
    pub beside: Words,
}

impl NatMemory {
    /// Memory of this process.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn own(limits: &Limits) -> Self {
        let sizes = Sizes::of(limits);
        let words = |words| Words::zeroed(words).expect("memory for translated flows");
        Self {
            flows: words(sizes.slots * ENTRY_WORDS),
            forward: words(sizes.buckets * CELLS),
            reverse: words(sizes.buckets * CELLS),
            free: words(sizes.free),
            beside: words(BESIDE_WORDS),
        }
    }
}

/// Which slots are free.
#[derive(Debug)]
pub(super) struct Room {
    free: Words,
    beside: Words,
    limit: usize,
}

impl Room {
    pub(super) fn new(free: Words, beside: Words, limit: usize, first_id: u32) -> Self {
        // Of a table that goes on: as it is.
        let _ = beside[NEXT_ID].compare_exchange(0, u64::from(first_id), Relaxed, Relaxed);
        Self { free, beside, limit }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.beside[at]
    }

    /// Slots that were ever used.
    pub(super) fn fresh(&self) -> usize {
        self.word(FRESH).load(Acquire) as usize
    }

    /// Slots that are used now.
    pub(super) fn count(&self) -> usize {
        let [taken, given] = [TAKEN, GIVEN].map(|at| self.word(at).load(Acquire));
        self.fresh().saturating_sub(given.wrapping_sub(taken) as usize)
    }

    /// Takes a free slot.
    pub(super) fn take(&self) -> Option<usize> {
        loop {
            let taken = self.word(TAKEN).load(Acquire);
            if taken == self.word(GIVEN).load(Acquire) {
                return self.take_fresh();
            }
            let slot = self.place(taken).load(Relaxed) as usize;
            if self.word(TAKEN).compare_exchange(taken, taken + 1, AcqRel, Relaxed).is_ok() {
                return Some(slot);
            }
        }
    }

    fn take_fresh(&self) -> Option<usize> {
        loop {
            let fresh = self.word(FRESH).load(Acquire);
            if fresh as usize >= self.limit {
                return None;
            }
            if self.word(FRESH).compare_exchange(fresh, fresh + 1, AcqRel, Relaxed).is_ok() {
                return Some(fresh as usize);
            }
        }
    }

    /// Gives a slot back.
    pub(super) fn give(&self, slot: usize) {
        let given = self.word(GIVEN).load(Relaxed);
        self.place(given).store(slot as u64, Relaxed);
        self.word(GIVEN).store(given + 1, Release);
    }

    fn place(&self, count: u64) -> &AtomicU64 {
        &self.free[count as usize % self.free.len()]
    }

    /// How many flows are embryonic.
    pub(super) fn embryonic(&self) -> usize {
        usize::try_from(self.word(EMBRYONIC).load(Relaxed).cast_signed()).unwrap_or(0)
    }

    pub(super) fn one_more_embryonic(&self) {
        self.word(EMBRYONIC).fetch_add(1, Relaxed);
    }

    pub(super) fn one_less_embryonic(&self) {
        self.word(EMBRYONIC).fetch_sub(1, Relaxed);
    }

    /// The first of `count` identifications that follow each other, for packets that may be fragmented.
    pub(super) fn ids(&self, count: u32) -> u32 {
        (self.word(NEXT_ID).fetch_add(u64::from(count), Relaxed) as u32).wrapping_add(1)
    }

    /// Whether XDP shall tell of flows that become others than they were.
    pub(super) fn want(&self, wanted: bool) {
        self.word(WANTED).store(u64::from(wanted), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_before_fresh_ones() {
        let limits = Limits { nat_flows: 3, ..Limits::default() };
        let NatMemory { free, beside, .. } = NatMemory::own(&limits);
        let room = Room::new(free, beside, 3, 7);
        assert_eq!([room.take(), room.take()], [Some(0), Some(1)]);
        room.give(0);
        assert_eq!((room.count(), room.fresh()), (1, 2));
        assert_eq!([room.take(), room.take(), room.take()], [Some(0), Some(2), None]);
        for slot in [2, 0, 1] {
            room.give(slot);
        }
        assert_eq!((room.count(), room.fresh()), (0, 3));
        assert_eq!(
            [room.take(), room.take(), room.take(), room.take()],
            [Some(2), Some(0), Some(1), None]
        );
    }

    #[test]
    fn identifications_follow_each_other() {
        let NatMemory { free, beside, .. } = NatMemory::own(&Limits::default());
        let room = Room::new(free, beside, 1, u32::MAX);
        assert_eq!([room.ids(3), room.ids(1), room.ids(1)], [0, 3, 4]);
    }
}
