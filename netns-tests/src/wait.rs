//! The one way in which the lab and its tests wait: on a condition, with a
//! deadline, never for a guessed time.

use std::thread;
use std::time::{Duration, Instant};

use crate::limits::POLL_INTERVAL;

/// A condition did not come true in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {waited:.1?} in vain: {what}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub waited: Duration,
}

/// Looks until `condition` is true; returns how long that took.
///
/// The condition is looked at least once, however short the limit.
pub fn wait_until(
    limit: Duration,
    what: impl Into<String>,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration, TimedOut> {
    wait_for(limit, what, || condition().then_some(())).map(|((), took)| took)
}

/// Looks until `look` finds something; returns it and how long that took.
pub fn wait_for<T>(
    limit: Duration,
    what: impl Into<String>,
    mut look: impl FnMut() -> Option<T>,
) -> Result<(T, Duration), TimedOut> {
    let start = Instant::now();
    loop {
        let look_start = Instant::now();
        if let Some(found) = look() {
            return Ok((found, start.elapsed()));
        }
        if start.elapsed() >= limit {
            return Err(TimedOut { what: what.into(), waited: start.elapsed() });
        }
        // A costly look is taken less often, so that waiting leaves the machine
        // to those who are waited for.
        thread::sleep(look_start.elapsed().max(POLL_INTERVAL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_reported_with_its_time() {
        let mut looks = 0;
        let took = wait_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            looks == 3
        });
        assert!(took.is_ok_and(|took| took >= 2 * POLL_INTERVAL));
    }

    #[test]
    fn a_condition_that_never_comes_true_is_named() {
        let error = wait_until(Duration::ZERO, "the end of time", || false).unwrap_err();
        assert!(error.to_string().contains("the end of time"));
    }
}
