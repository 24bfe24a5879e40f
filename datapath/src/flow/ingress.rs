//! Flows that enter here, pinned to their JAP.
//!
//! The table is a cache: a flow that is lost from it is placed by its hash, which gives the same
//! JAP while the group's list stays the same. Another party may use it at the same time: see [`pins`]
//! for how the two get along.
//!
//! [`pins`]: super::pins

use pias_protocol::{
    hash::{FlowHash, FlowKey},
    ids::ProxyId,
    time::Time,
};
use serde::{Deserialize, Serialize};

use super::{
    Phase,
    buckets::{BESIDE_WORDS, Misshapen, Pins},
    pins::{BUCKET_ENTRIES, BUCKET_WORDS, Coarse, Entry, Found, Meta, Name, Pinned},
};
use crate::{
    limits::{AGED_PER_TICK, MOST_AGED_PER_TICK, PIN_TRIES, ROUND_TICKS},
    mapped::Words,
    slots::Handle,
    wire::tcp,
};

/// A pinned flow as another process is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The flow.
    pub key: FlowKey,
    /// Its JAP.
    pub proxy: ProxyId,
    /// How far it has come.
    pub phase: Phase,
}

impl PinRecord {
    /// The flow, with its JAP's handle here.
    #[must_use]
    pub fn pinned(&self, peer: Handle, now: Time) -> Pinned {
        let &Self { key, phase, .. } = self;
        let now = Coarse::from(now);
        Pinned { key, hash: key.hash(), peer, phase, created: now, last: now }
    }
}

/// How far a flow has come with a packet of these TCP flags.
const fn phase_after(phase: Phase, flags: u8) -> Phase {
    match phase {
        Phase::Datagrams => phase,
        _ if flags & (tcp::FIN | tcp::RST) != 0 => Phase::Closing,
        _ if flags & tcp::SYN != 0 => Phase::Opening,
        Phase::Opening => Phase::Open,
        Phase::Open | Phase::Closing => phase,
    }
}

/// The pinned flows of one ingress.
#[derive(Debug)]
pub struct IngressTable {
    pins: Pins,
    count: usize,
    /// How many free entries the other party had taken at the last tick.
    taken: u64,
    round: Round,
}

/// A round through all entries, some of them a tick: for what has outlived its phase, and to count.
#[derive(Debug, Default)]
struct Round {
    /// The next entry.
    next: usize,
    /// Flows in the entries before.
    seen: usize,
}

impl IngressTable {
    /// A table with room for `limit` flows at least, in memory of its own.
    ///
    /// # Panics
    /// Where there is no memory.
    #[must_use]
    pub fn new(limit: usize, seed: u64) -> Self {
        let memory = |words| Words::zeroed(words).expect("memory for pinned flows");
        Self::on(memory(Self::words(limit)), memory(BESIDE_WORDS), seed)
            .expect("as many words as a table has")
    }

    /// How many words a table has that has room for `limit` flows at least.
    #[must_use]
    pub const fn words(limit: usize) -> usize {
        limit.div_ceil(BUCKET_ENTRIES).next_power_of_two() * BUCKET_WORDS
    }

    /// A table in memory that another party shares, which knows the same secret `seed`, with the
    /// [`BESIDE_WORDS`] that tell how much of it is used. Flows that are there already are taken for
    /// this table's own, their JAPs' handles with them.
    ///
    /// # Errors
    /// [`Misshapen`] where the words are no power of two of buckets: how many there are, may be another
    /// program's choice.
    pub fn on(words: Words, beside: Words, seed: u64) -> Result<Self, Misshapen> {
        let pins = Pins::new(words, beside, seed)?;
        Ok(Self { taken: pins.taken(), pins, count: 0, round: Round::default() })
    }

    /// How many flows are pinned: exact as to what this table did, late by a tick as to what the
    /// other party pinned, and by a round of [`age`](Self::age) as to what else it did. To look
    /// through all entries when asked would hold up packets.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// A flow's pin.
    #[must_use]
    pub fn get(&self, key: &FlowKey) -> Option<Pinned> {
        let hash = key.hash();
        let Found { meta, times, peer, .. } = self.find(key, hash)?;
        let (created, last) = (times.created(), times.last());
        Some(Pinned { key: *key, hash, peer, phase: meta.phase()?, created, last })
    }

    /// Where a flow is pinned; `hash` is the flow's.
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: FlowHash) -> Option<Found> {
        self.pins.find(&Name::of(key, hash))
    }

    /// A packet with these TCP flags came.
    pub fn touch(&self, found: &Found, flags: u8, now: Time) {
        let entry = self.pins.entry(found.at);
        entry.packet_at(found.times, now.into());
        if let Some(phase) = found.meta.phase() {
            entry.advance(found.meta, phase_after(phase, flags));
        }
    }

    /// Another JAP has the flow from now on. `false` if the flow is not there any more, or not as it
    /// was found; `found` tells of the new JAP all the same.
    pub fn repin(&self, found: &mut Found, heir: Handle) -> bool {
        found.peer = heir;
        let meta = self.pins.entry(found.at).repin(found.meta, heir);
        found.meta = meta.unwrap_or(found.meta);
        meta.is_some()
    }

    /// Pins a flow, or moves its pin. `true` if another flow had to go for it: the one of its bucket
    /// that will be missed least. Where the other party is quicker [`PIN_TRIES`] times, or writes all
    /// of the bucket, the flow is not pinned.
    pub fn pin(&mut self, new: &Pinned) -> bool {
        let name = Name::of(&new.key, new.hash);
        (0..PIN_TRIES).find_map(|_| self.try_pin(&name, new)).unwrap_or(false)
    }

    /// `None` if the other party was quicker.
    fn try_pin(&mut self, name: &Name, new: &Pinned) -> Option<bool> {
        if let Some(found) = self.pins.find(name) {
            return self.renew(name, found, new).then_some(false);
        }
        let (at, meta) = self.room(new)?;
        if !self.pins.entry(at).write(meta, name, new) {
            return None;
        }
        if meta.is_free() {
            self.gained(at);
        }
        Some(!meta.is_free())
    }

    /// A flow that is pinned is pinned again. `false` if it is not as it was `found`.
    fn renew(&mut self, name: &Name, mut found: Found, new: &Pinned) -> bool {
        if found.peer != new.peer {
            if !self.repin(&mut found, new.peer) {
                return false;
            }
            // A second pin of it, to where it was before, must not come to light some day.
            self.pins
                .bucket(new.hash)
                .filter(|&at| at != found.at)
                .for_each(|at| self.remove_at(name, at));
        }
        self.pins.entry(found.at).packet_at(found.times, new.last);
        true
    }

    /// Where a flow can be written.
    fn room(&self, new: &Pinned) -> Option<(usize, Meta)> {
        self.free_entry(new).or_else(|| self.victim(new))
    }

    fn free_entry(&self, new: &Pinned) -> Option<(usize, Meta)> {
        let mut metas = self.pins.home(new.hash).map(|at| (at, self.pins.entry(at).meta()));
        metas.find(|(_, meta)| meta.is_free())
    }

    /// Of the flows of a bucket the one that will be missed least: closing or opening before others,
    /// then the longest idle.
    fn victim(&self, new: &Pinned) -> Option<(usize, Meta)> {
        let candidate = |at| {
            let entry = self.pins.entry(at);
            let meta = entry.meta();
            let transitory = matches!(meta.phase()?, Phase::Opening | Phase::Closing);
            Some(((transitory, entry.times().last().ticks_until(new.last)), (at, meta)))
        };
        let candidates = self.pins.home(new.hash).filter_map(candidate);
        candidates.max_by_key(|&(missed, _)| missed).map(|(_, victim)| victim)
    }

    /// Forgets a flow.
    pub fn remove(&mut self, key: &FlowKey) {
        let hash = key.hash();
        let name = Name::of(key, hash);
        self.pins.bucket(hash).for_each(|at| self.remove_at(&name, at));
    }

    fn remove_at(&mut self, name: &Name, at: usize) {
        for _ in 0..PIN_TRIES {
            let entry = self.pins.entry(at);
            let Some(found) = entry.find(name) else { return };
            if entry.free(found.meta) {
                return self.lost(at);
            }
        }
    }

    fn gained(&mut self, at: usize) {
        self.count += 1;
        self.round.seen += usize::from(at < self.round.next);
    }

    fn lost(&mut self, at: usize) {
        // What the other party pinned may not have been counted.
        self.count = self.count.saturating_sub(1);
        let seen = usize::from(at < self.round.next);
        self.round.seen = self.round.seen.saturating_sub(seen);
    }

    /// Forgets flows that have outlived their phase, a bounded number of entries at a time, moves
    /// those that are not where they belong, and grows when half of the entries are taken. Says how
    /// many other flows had to go for those that were moved.
    pub fn age(&mut self, now: Time) -> u64 {
        let mut evicted = 0;
        let taken = self.pins.taken();
        self.count += taken.wrapping_sub(self.taken) as usize;
        self.taken = taken;
        let used = self.pins.len();
        let share = if self.pins.scale().splitting {
            MOST_AGED_PER_TICK
        } else {
            (used / ROUND_TICKS).clamp(AGED_PER_TICK, MOST_AGED_PER_TICK)
        };
        let end = used.min(self.round.next + share);
        while self.round.next < end {
            let at = self.round.next;
            self.round.next += 1;
            let stays = self.is_held(at, now) && !self.moved(at, &mut evicted);
            self.round.seen += usize::from(stays);
        }
        if end == used {
            self.count = self.round.seen;
            self.round = Round::default();
            self.pins.grown();
        }
        if self.count * 2 > self.pins.len() && self.pins.grow() {
            self.round = Round::default();
        }
        evicted
    }

    /// Whether an entry held a flow that belongs elsewhere. By then it is there.
    fn moved(&mut self, at: usize, evicted: &mut u64) -> bool {
        let meta = self.pins.entry(at).meta();
        let Some(flow) = self.pins.entry(at).read() else { return false };
        if self.pins.is_home(at, flow.hash) {
            return false;
        }
        // First there, then not here: nobody misses it. If it changes meanwhile, it is come upon again.
        let name = Name::of(&flow.key, flow.hash);
        let is_there = |to| self.pins.entry(to).find(&name).is_some();
        if !self.pins.home(flow.hash).any(is_there) {
            let Some((to, free)) = self.room(&flow) else { return false };
            if !self.pins.entry(to).write(free, &name, &flow) {
                return false;
            }
            if free.is_free() {
                self.gained(to);
            } else {
                *evicted += 1;
            }
        }
        let freed = self.pins.entry(at).free(meta);
        self.count = self.count.saturating_sub(usize::from(freed));
        freed
    }

    /// Whether an entry holds a flow, after one that has outlived its phase is gone from it.
    fn is_held(&mut self, at: usize, now: Time) -> bool {
        let entry = self.pins.entry(at);
        let meta = entry.meta();
        let old = |phase: Phase| entry.times().last().age(now) >= phase.idle();
        if meta.phase().is_some_and(old) && entry.free(meta) {
            self.count = self.count.saturating_sub(1);
            return false;
        }
        !meta.is_free()
    }

    /// All pinned flows, but those whose JAP `id` does not name.
    pub fn records(
        &self,
        id: impl Fn(Handle) -> Option<ProxyId>,
    ) -> impl Iterator<Item = PinRecord> {
        let record = move |Pinned { key, peer, phase, .. }: Pinned| {
            Some(PinRecord { key, proxy: id(peer)?, phase })
        };
        self.iter().filter_map(record)
    }

    /// All pinned flows, but those that are being written.
    pub fn iter(&self) -> impl Iterator<Item = Pinned> {
        self.pins.entries().filter_map(Entry::read)
    }
}

#[cfg(test)]
mod tests;
