//! Log lines that the wire can provoke, a bounded number a second of each kind.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// The gate of one kind of line. Put one in a `static` beside the line.
pub struct LogLimit {
    per_second: u16,
    /// Seconds since the first use in this process, plus one; then the lines of that second.
    window: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimit {
    /// A gate that lets one line a second pass.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever made in a static")]
    pub const fn new() -> Self {
        Self::per_second(1)
    }

    /// A gate that lets this many lines a second pass.
    #[must_use]
    pub const fn per_second(lines: u16) -> Self {
        Self { per_second: lines, window: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// `Some` if a line may be written now, with the number of those suppressed since the last.
    pub fn permit(&self) -> Option<u64> {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        self.permit_at(START.get_or_init(Instant::now).elapsed().as_secs() + 1)
    }

    fn permit_at(&self, second: u64) -> Option<u64> {
        let passes = |window: u64| {
            let (of, lines) = (window >> 16, window & 0xffff);
            let lines = if of == second { lines } else { 0 };
            (lines < u64::from(self.per_second)).then_some(second << 16 | (lines + 1))
        };
        if self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, passes).is_ok() {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_one_line_a_second_that_tells_how_many_it_stands_for() {
        let limit = LogLimit::new();
        let lines: Vec<_> = [1, 1, 1, 2, 9].map(|second| limit.permit_at(second)).into();
        assert_eq!(lines, [Some(0), None, None, Some(2), Some(0)]);
    }

    #[test]
    fn a_wider_gate_lets_a_burst_pass() {
        let limit = LogLimit::per_second(2);
        let lines: Vec<_> = [5, 5, 5, 6].map(|second| limit.permit_at(second)).into();
        assert_eq!(lines, [Some(0), Some(0), None, Some(1)]);
    }
}
