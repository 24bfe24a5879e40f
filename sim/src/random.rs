//! Chance, seeded by the scenario.

use std::time::Duration;

use pias_protocol::{hash, random::SplitMix};

/// A small generator; the same seed gives the same draws on every machine.
#[derive(Clone, Debug)]
pub struct Draws(SplitMix);

impl Draws {
    /// A generator for one purpose: generators of one seed and different purposes are independent.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(SplitMix::new(hash::mix(seed, purpose)))
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number from `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1_000) < per_mille as usize
    }

    /// A time from `from` up to, but without, `to`, in whole microseconds.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let width = to.saturating_sub(from).as_micros() as usize;
        from + Duration::from_micros(self.below(width) as u64)
    }

    /// In `0.0..1.0`, with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_keep_to_their_ranges_and_repeat_with_their_seed() {
        let mut draws = Draws::new(1, 2);
        let (from, to) = (Duration::from_millis(3), Duration::from_millis(7));
        for _ in 0..1_000 {
            assert!(draws.below(10) < 10);
            assert!((from..to).contains(&draws.between(from, to)));
            assert!((0.0..1.0).contains(&draws.unit()));
        }
        let first = |seed, purpose| Draws::new(seed, purpose).next();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(1, 3));
    }
}
