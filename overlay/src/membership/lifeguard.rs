//! How well this proxy itself does, after Lifeguard (Dadgar, Phillips and Currey, DSN 2018): one
//! that is slow, or cut off, is slower to accuse others.

use std::time::Duration;

/// Worst score.
const WORST: u8 = 8;

/// The local health: 0 is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    score: u8,
}

impl Health {
    /// A sign that the fault is here: an own timer that fires late, answers of many that stay out,
    /// a rumour of the own death.
    pub(crate) const fn worse(&mut self) {
        if self.score < WORST {
            self.score += 1;
        }
    }

    /// A sign that all is well.
    pub(crate) const fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// How long to bear a silence that a healthy proxy bears for `time`: up to five times as long.
    pub(crate) fn stretch(self, time: Duration) -> Duration {
        time * (2 + u32::from(self.score)) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_unwell_is_patient_within_bounds() {
        let mut health = Health::default();
        let beat = Duration::from_millis(100);
        assert_eq!(health.stretch(beat), beat);
        health.worse();
        assert_eq!(health.stretch(beat), beat * 3 / 2);
        for _ in 0..100 {
            health.worse();
        }
        assert_eq!(health.stretch(beat), beat * 5);
        for _ in 0..8 {
            health.better();
        }
        health.better();
        assert_eq!(health, Health::default());
    }
}
