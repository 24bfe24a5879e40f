//! Which flows are known beside the pins: translated here, or held for a mate.
//!
//! XDP places a flow that is not pinned by its hash, which is right for all but these. So that it need
//! not know their tables, each counts in a filter: 2^21 counters of one octet, by the upper bits of the
//! flow's hash. Where a counter is not 0, the packet is passed up, and user space, which looks, pins the
//! flow if it is elsewhere. A counter that reached 255 stays: its flows are passed up for good.

use std::sync::atomic::Ordering;

use pias_protocol::hash::FlowHash;

use crate::mapped::Words;

/// How many counters there are, as a power of two.
pub const BITS: u32 = 21;

/// The filter. Written by one thread, read by the programs.
#[derive(Debug)]
pub struct Elsewhere(Words);

impl Elsewhere {
    /// How many words it takes.
    pub const WORDS: usize = (1 << BITS) / 8;

    /// A filter in these words.
    ///
    /// # Panics
    /// If there are not [`Self::WORDS`].
    #[must_use]
    pub fn on(words: Words) -> Self {
        assert_eq!(words.len(), Self::WORDS, "a filter has 2^{BITS} counters");
        Self(words)
    }

    /// Takes a flow in.
    pub fn add(&self, flow: FlowHash) {
        self.change(flow, |counter| counter.saturating_add(1));
    }

    /// Takes a flow out that was taken in.
    pub fn remove(&self, flow: FlowHash) {
        self.change(flow, |counter| if counter == u8::MAX { counter } else { counter - 1 });
    }

    /// Whether a flow may be in it.
    #[must_use]
    pub fn may_hold(&self, flow: FlowHash) -> bool {
        let (word, octet) = place(flow);
        self.0[word].load(Ordering::Relaxed).to_ne_bytes()[octet] != 0
    }

    fn change(&self, flow: FlowHash, to: impl FnOnce(u8) -> u8) {
        let (word, octet) = place(flow);
        // Nobody else writes: what is loaded is still there when it is stored.
        let mut octets = self.0[word].load(Ordering::Relaxed).to_ne_bytes();
        octets[octet] = to(octets[octet]);
        self.0[word].store(u64::from_ne_bytes(octets), Ordering::Relaxed);
    }
}

/// The word of a flow's counter, and which of its octets.
const fn place(flow: FlowHash) -> (usize, usize) {
    let counter = (flow.0 >> (64 - BITS)) as usize;
    (counter / 8, counter % 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Elsewhere {
        Elsewhere::on(Words::zeroed(Elsewhere::WORDS).unwrap())
    }

    #[test]
    fn what_was_taken_in_is_there_until_it_is_taken_out() {
        let filter = filter();
        let (flow, neighbour) = (FlowHash(0x1234_5678 << 32), FlowHash(0x1234_5678 << 32 | 1));
        filter.add(flow);
        filter.add(neighbour);
        filter.remove(flow);
        assert!(filter.may_hold(flow), "they share a counter");
        filter.remove(neighbour);
        assert!(!filter.may_hold(flow));
        assert!(!filter.may_hold(FlowHash(u64::MAX)));
    }

    #[test]
    fn a_counter_that_is_full_never_forgets() {
        let filter = filter();
        for _ in 0..300 {
            filter.add(FlowHash(u64::MAX));
        }
        for _ in 0..300 {
            filter.remove(FlowHash(u64::MAX));
        }
        assert!(filter.may_hold(FlowHash(u64::MAX)));
        assert!(!filter.may_hold(FlowHash(u64::MAX >> 1)));
    }
}
