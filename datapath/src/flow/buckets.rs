//! Which entries of the array of [`pins`](super::pins) may hold a flow, and how the array comes into use.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use pias_protocol::hash::FlowHash;

use super::pins::{BUCKET_ENTRIES, BUCKET_WORDS, Entry, Found, Name};
use crate::mapped::Words;

/// Buckets that are used at first, where there are so many: 4 MiB, which caches and their page tables
/// hold.
const LEAST_BUCKETS: usize = 1 << 13;

/// Words beside the array, and which of them are used.
pub const BESIDE_WORDS: usize = 3;
const SCALE: usize = 0;
const TAKEN: usize = 2;

/// So many words cannot hold a table, or what stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} words are no table of pinned flows: it has {BUCKET_WORDS} times a power of two, and {BESIDE_WORDS} beside"
)]
pub struct Misshapen(pub usize);

/// How much of the array is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    bits: u32,
    /// Whether it was half as much a moment ago.
    pub(super) splitting: bool,
}

impl Scale {
    const SPLITTING: u64 = 1 << 32;

    const fn of(word: u64) -> Self {
        Self { bits: word as u32, splitting: word & Self::SPLITTING != 0 }
    }

    const fn word(self) -> u64 {
        self.bits as u64 | if self.splitting { Self::SPLITTING } else { 0 }
    }

    const fn buckets(self) -> usize {
        1 << self.bits
    }
}

/// The array of entries.
#[derive(Debug)]
pub(super) struct Pins {
    words: Words,
    beside: Words,
    multiplier: u64,
}

impl Pins {
    pub(super) fn new(words: Words, beside: Words, seed: u64) -> Result<Self, Misshapen> {
        let buckets = words.len() / BUCKET_WORDS;
        if !words.len().is_multiple_of(BUCKET_WORDS) || !buckets.is_power_of_two() {
            return Err(Misshapen(words.len()));
        }
        if beside.len() < BESIDE_WORDS {
            return Err(Misshapen(beside.len()));
        }
        let pins = Self { words, beside, multiplier: seed | 1 };
        if pins.beside[SCALE].load(Acquire) == 0 {
            let bits = buckets.min(LEAST_BUCKETS).ilog2();
            pins.set_scale(Scale { bits, splitting: false });
        }
        Ok(pins)
    }

    pub(super) fn scale(&self) -> Scale {
        Scale::of(self.beside[SCALE].load(Acquire))
    }

    fn set_scale(&self, scale: Scale) {
        self.beside[SCALE].store(scale.word(), Release);
    }

    /// How many free entries the other party has taken, ever, modulo 2^64.
    pub(super) fn taken(&self) -> u64 {
        self.beside[TAKEN].load(Relaxed)
    }

    /// Uses twice as many buckets, if there are. `false` if not, or if flows of the last time are
    /// still to be moved.
    pub(super) fn grow(&self) -> bool {
        let Scale { bits, splitting } = self.scale();
        let grows = !splitting && BUCKET_WORDS << bits < self.words.len();
        if grows {
            self.set_scale(Scale { bits: bits + 1, splitting: true });
        }
        grows
    }

    /// All flows are where they belong.
    pub(super) fn grown(&self) {
        self.set_scale(Scale { splitting: false, ..self.scale() });
    }

    /// How many entries are used.
    pub(super) fn len(&self) -> usize {
        self.scale().buckets() * BUCKET_ENTRIES
    }

    pub(super) fn entry(&self, at: usize) -> Entry<'_> {
        Entry::new(at, &self.words.as_chunks().0[at])
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let (entries, _) = self.words.as_chunks();
        let used = entries.iter().take(self.len());
        used.enumerate().map(|(at, words)| Entry::new(at, words))
    }

    /// Whether a flow belongs into the bucket of this entry.
    pub(super) fn is_home(&self, at: usize, hash: FlowHash) -> bool {
        self.home(hash).any(|home| home == at)
    }

    /// The entries where a flow belongs, in the order in which they are looked at.
    pub(super) fn home(&self, hash: FlowHash) -> impl Iterator<Item = usize> + use<> {
        let product = self.product(hash);
        entries_of(product, (product >> 32) as usize % self.scale().buckets())
    }

    /// The entries where a flow may be, in the order in which they are looked at.
    pub(super) fn bucket(&self, hash: FlowHash) -> impl Iterator<Item = usize> + use<> {
        let (product, scale) = (self.product(hash), self.scale());
        let (bucket, half) = ((product >> 32) as usize % scale.buckets(), scale.buckets() / 2);
        let before = (scale.splitting && bucket >= half).then(|| bucket - half);
        let before = before.into_iter().flat_map(move |bucket| entries_of(product, bucket));
        entries_of(product, bucket).chain(before)
    }

    const fn product(&self, hash: FlowHash) -> u64 {
        hash.0.wrapping_mul(self.multiplier)
    }

    pub(super) fn find(&self, name: &Name) -> Option<Found> {
        self.bucket(name.hash).find_map(|at| self.entry(at).find(name))
    }
}

fn entries_of(product: u64, bucket: usize) -> impl Iterator<Item = usize> {
    let (start, first) = (bucket * BUCKET_ENTRIES, (product >> 16) as usize);
    (0..BUCKET_ENTRIES).map(move |step| start + (first + step) % BUCKET_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside() -> Words {
        Words::zeroed(BESIDE_WORDS).unwrap()
    }

    #[test]
    fn while_it_doubles_a_flow_may_be_where_it_was() {
        let words = Words::zeroed(4 * LEAST_BUCKETS * BUCKET_WORDS).unwrap();
        let pins = Pins::new(words, beside(), 1).unwrap();
        let last = FlowHash((LEAST_BUCKETS as u64 * 3 - 1) << 32);
        let buckets = || {
            let mut buckets: Vec<_> = pins.bucket(last).map(|at| at / BUCKET_ENTRIES).collect();
            buckets.dedup();
            buckets
        };
        assert_eq!(buckets(), [LEAST_BUCKETS - 1]);
        assert!(pins.grow() && !pins.grow(), "one doubling at a time");
        assert_eq!(buckets(), [LEAST_BUCKETS - 1], "it is in the lower half");
        pins.grown();
        assert!(pins.grow());
        assert_eq!(buckets(), [LEAST_BUCKETS * 3 - 1, LEAST_BUCKETS - 1]);
        pins.grown();
        assert_eq!(buckets(), [LEAST_BUCKETS * 3 - 1]);
        assert!(!pins.grow(), "there is no more");
        assert_eq!(pins.len(), 4 * LEAST_BUCKETS * BUCKET_ENTRIES);
    }

    #[test]
    fn a_bucket_is_chosen_by_the_upper_half_of_a_product() {
        let order = |buckets: usize, seed, hash| -> Vec<usize> {
            let words = Words::zeroed(buckets * BUCKET_WORDS).unwrap();
            Pins::new(words, beside(), seed).unwrap().bucket(FlowHash(hash)).collect()
        };
        let hash = 0x3_0006_0000;
        assert_eq!(order(1, 0, hash), [6, 7, 0, 1, 2, 3, 4, 5]);
        assert_eq!(order(4, 0, hash), [30, 31, 24, 25, 26, 27, 28, 29], "bucket 3");
        // 3 * hash = 0x9_0012_0000: the seed is made odd.
        assert_eq!(order(4, 2, hash)[0], 8 + 2);
        assert_eq!(order(4, 3, hash)[0], 8 + 2);
    }

    #[test]
    fn only_buckets_of_a_power_of_two_are_a_table() {
        let table =
            |words| Pins::new(Words::zeroed(words).unwrap(), beside(), 1).map(|pins| pins.len());
        assert_eq!(table(64), Ok(8));
        assert_eq!(table(256), Ok(32));
        for words in [1, 63, 65, 192] {
            assert_eq!(table(words), Err(Misshapen(words)));
        }
    }
}
