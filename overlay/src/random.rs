//! Jitter, seeded by the driver.

use std::time::Duration;

use pias_protocol::random::SplitMix;

/// A small generator; the same seed gives the same draws on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(SplitMix);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(SplitMix::new(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0.draw()
    }

    /// A draw from `0..bound`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// Between half of `mean` and one and a half.
    pub(crate) fn around(&mut self, mean: Duration) -> Duration {
        let micros = mean.as_micros() as usize;
        Duration::from_micros((micros / 2 + self.below(micros + 1)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_range_and_repeats_with_its_seed() {
        let mean = Duration::from_millis(20);
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.around(mean)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|&d| d >= mean / 2 && d <= mean * 3 / 2));
    }
}
