//! Time as the sans-IO crates see it: an argument, never a clock.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

/// A point in time, in microseconds since an origin that the driver chooses (the daemon: its start;
/// the simulator: zero). Monotonic: a driver never hands in a smaller value than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The driver's origin.
    pub const ZERO: Self = Self(0);

    /// The point `micros` microseconds after the origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long `earlier` lies back; zero if it does not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards_through_arithmetic() {
        let early = Time::from_micros(5);
        let late = early + Duration::from_millis(1);
        assert_eq!(late.as_micros(), 1_005);
        assert_eq!(late - early, Duration::from_millis(1));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(late.to_string(), "0.001005s");
    }
}
