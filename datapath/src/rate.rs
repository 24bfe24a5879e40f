//! Token buckets.

use pias_protocol::time::Time;

const MICROS: u64 = 1_000_000;

/// Allows `rate` events a second, and `burst` at once after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: u64,
    burst: u64,
    /// In millionths of an event.
    level: u64,
    filled: Time,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: u64, burst: u64) -> Self {
        Self { rate, burst, level: burst * MICROS, filled: Time::ZERO }
    }

    /// Whether another event is allowed now; if so, it is counted.
    pub fn allow(&mut self, now: Time) -> bool {
        let passed = u64::try_from(now.since(self.filled).as_micros()).unwrap_or(u64::MAX);
        self.filled = now;
        let gained = passed.saturating_mul(self.rate);
        self.level = self.level.saturating_add(gained).min(self.burst * MICROS);
        if self.level < MICROS {
            return false;
        }
        self.level -= MICROS;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 3);
        let now = Time::from_micros(5);
        assert_eq!((0..9).filter(|_| bucket.allow(now)).count(), 3);
        assert!(!bucket.allow(now + Duration::from_millis(99)));
        assert!(bucket.allow(now + Duration::from_millis(101)));
        let later = now + Duration::from_secs(60);
        assert_eq!((0..9).filter(|_| bucket.allow(later)).count(), 3);
    }
}
