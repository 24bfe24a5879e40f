//! How long to wait before the next attempt: doubling, bounded, and jittered, so that a thousand
//! agents that lost the same proxy do not come back in the same millisecond.

use std::time::Duration;

use pias_protocol::random::SplitMix;

/// A sequence of waits.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    floor: Duration,
    ceiling: Duration,
    failures: u32,
    random: SplitMix,
}

impl Backoff {
    /// Waits from `floor` (or less, by jitter) up to `ceiling`; the jitter follows from `seed`.
    pub(crate) const fn new(floor: Duration, ceiling: Duration, seed: u64) -> Self {
        Self { floor, ceiling, failures: 0, random: SplitMix::new(seed) }
    }

    /// The next wait: `floor × 2^failures`, at most `ceiling`, of which a random half is jitter.
    pub(crate) fn next(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let whole = self.floor.saturating_mul(factor).min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let span = u64::try_from((whole - half).as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_nanos(self.random.draw() % span)
    }

    /// A wait at random of less than `within`; counts for no failure.
    pub(crate) fn spread(&mut self, within: Duration) -> Duration {
        let span = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.random.draw() % span)
    }

    /// Begins again at the floor.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_to_the_ceiling_and_jitter_takes_at_most_half(
            seed: u64, floor_ms in 1_u64..1_000, times in 1_u64..1_000, steps in 1_u32..100,
        ) {
            let floor = Duration::from_millis(floor_ms);
            let ceiling = floor * u32::try_from(times).unwrap();
            let mut backoff = Backoff::new(floor, ceiling, seed);
            for step in 0..steps {
                let whole = floor.saturating_mul(1_u32.checked_shl(step).unwrap_or(u32::MAX));
                let whole = whole.min(ceiling);
                let wait = backoff.next();
                prop_assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            }
            backoff.reset();
            prop_assert!(backoff.next() <= floor);
        }

        #[test]
        fn the_waits_follow_from_the_seed(seed: u64) {
            let new = || Backoff::new(Duration::from_millis(100), Duration::from_secs(15), seed);
            let (mut one, mut two) = (new(), new());
            for _ in 0..20 {
                prop_assert_eq!(one.next(), two.next());
            }
        }
    }

    #[test]
    fn two_agents_do_not_wait_alike() {
        let new = |seed| Backoff::new(Duration::from_millis(100), Duration::from_secs(15), seed);
        assert_ne!(new(1).next(), new(2).next());
    }
}
