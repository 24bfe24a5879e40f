//! How much a RAP hears, and how much it therefore wishes to hear.

use pias_protocol::time::Time;

/// How many reports come, and the band that follows.
#[derive(Debug)]
pub(crate) struct Load {
    /// The band that was fixed, in percent.
    fixed: Option<u8>,
    /// When the current second began.
    start: Time,
    /// Reports since then.
    current: u32,
    /// Reports in the second before.
    before: u32,
}

impl Load {
    pub(crate) const fn new(now: Time) -> Self {
        Self { fixed: None, start: now, current: 0, before: 0 }
    }

    /// Wishes this band, in percent, whatever the load; more than 100 is 100.
    pub(crate) const fn fix_band(&mut self, percent: u8) {
        self.fixed = Some(if percent < 100 { percent } else { 100 });
    }

    /// A report came. How far its count may move before the next one, in percent: wider as reports
    /// come faster, unless it is fixed.
    pub(crate) fn heard(&mut self, now: Time) -> u8 {
        match (now - self.start).as_secs() {
            0 => self.current = self.current.saturating_add(1),
            seconds => {
                self.before = if seconds == 1 { self.current } else { 0 };
                (self.start, self.current) = (now, 1);
            }
        }
        self.fixed.unwrap_or(match self.current.max(self.before) {
            0..200 => 25,
            200..1_000 => 50,
            _ => 100,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_widens_with_the_load_and_narrows_after_it() {
        let mut load = Load::new(Time::ZERO);
        let mut bands: Vec<u8> = (0..1_000).map(|_| load.heard(Time::ZERO)).collect();
        bands.dedup();
        assert_eq!(bands, [25, 50, 100]);
        assert_eq!(load.heard(Time::from_micros(1_500_000)), 100);
        assert_eq!(load.heard(Time::from_micros(9_000_000)), 25);
    }

    #[test]
    fn a_fixed_band_does_not_follow_the_load() {
        let mut load = Load::new(Time::ZERO);
        load.fix_band(0);
        assert!((0..2_000).all(|_| load.heard(Time::ZERO) == 0));
        load.fix_band(250);
        assert_eq!(load.heard(Time::ZERO), 100);
    }
}
