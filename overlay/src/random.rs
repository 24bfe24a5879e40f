//! Jitter: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), seeded by the driver.

use std::time::Duration;

/// A small generator; the same seed gives the same draws on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A draw from `0..bound`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
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

    #[test]
    fn the_first_draws_are_those_of_the_reference() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
