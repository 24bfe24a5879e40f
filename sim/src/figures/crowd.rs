//! The flash crowd: who joins when, and for how long.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    time::Duration,
};

use pias_protocol::time::Time;

use crate::random::Draws;

/// Members at once; who comes beyond is turned away. From the paper's event.
pub(super) const MOST_MEMBERS: usize = 90_000;
/// How long the rush lasts, in seconds. From the paper's event.
const RUSH: f64 = 600.0;
/// Arrivals per second in the rush. From the paper's event.
const RATE: f64 = 100.0;
/// How long after the rush half of those who come later have come, in seconds: chosen, with the
/// length of the event, so that without a band there are as many messages as in the paper. That
/// number depends on the crowd alone.
const LATER: f64 = 500.0;
/// Half of the members stay for longer than this, in seconds. An assumption.
const STAY: f64 = 1_800.0;

/// Somebody who joins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Member {
    /// Where among all clients, in `0.0..1.0`.
    pub(super) place: f64,
    /// By what routers with several equal ways choose.
    pub(super) flow: u64,
}

/// A member joins or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) at: Time,
    pub(super) member: u32,
    pub(super) joins: bool,
}

/// All joins and leaves of one event.
///
/// - 100 arrivals per second on average in the first ten minutes; then the rate falls with the
///   square of the time, and the crowd has half of its late members after 500 s.
/// - Half of the members stay for less than 30 min, one of 13 for longer than six hours: a Pareto
///   distribution from 0 (Lomax) with exponent 1, so heavy-tailed that it has no mean.
/// - At most 90,000 members at once.
///
/// Both distributions take a division only: a seed gives the same crowd on every machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Crowd {
    pub(super) length: Duration,
    pub(super) members: Vec<Member>,
    pub(super) changes: Vec<Change>,
    peak: usize,
}

impl Crowd {
    /// The crowd of a seed, for as long as the event lasts.
    #[must_use]
    pub fn new(seed: u64, length: Duration) -> Self {
        let mut draws = Draws::new(seed, 0x63_726F_7764);
        let end = length.as_micros() as u64;
        let mut arrivals: Vec<u64> = arrivals(&mut draws);
        arrivals.retain(|&at| at < end);
        arrivals.sort_unstable();
        let mut crowd = Self { length, members: Vec::new(), changes: Vec::new(), peak: 0 };
        let mut present = BinaryHeap::new();
        for at in arrivals {
            crowd.leave(&mut present, at);
            if present.len() < MOST_MEMBERS {
                let member = crowd.members.len() as u32;
                crowd.members.push(Member { place: draws.unit(), flow: draws.next() });
                crowd.changes.push(Change { at: Time::from_micros(at), member, joins: true });
                present.push(Reverse((at + micros(lomax(STAY, draws.unit())), member)));
                crowd.peak = crowd.peak.max(present.len());
            }
        }
        crowd.leave(&mut present, end);
        crowd
    }

    /// Those whose time is over by `until` leave.
    fn leave(&mut self, present: &mut BinaryHeap<Reverse<(u64, u32)>>, until: u64) {
        while let Some(first) = present.peek_mut()
            && first.0.0 < until
        {
            let Reverse((at, member)) = PeekMut::pop(first);
            self.changes.push(Change { at: Time::from_micros(at), member, joins: false });
        }
    }

    /// How many joined.
    #[must_use]
    pub fn joins(&self) -> usize {
        self.members.len()
    }

    /// How many left before the end.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.changes.len() - self.members.len()
    }

    /// Most members at once.
    #[must_use]
    pub const fn peak(&self) -> usize {
        self.peak
    }
}

/// When who would like to join arrives, in microseconds: as a Poisson process does whose number of
/// arrivals is its mean.
fn arrivals(draws: &mut Draws) -> Vec<u64> {
    let mut at = Vec::new();
    at.extend((0..(RATE * RUSH) as usize).map(|_| micros(draws.unit() * RUSH)));
    // The rate goes on where the rush left it: LATER × RATE arrivals, half of them within LATER.
    at.extend((0..(RATE * LATER) as usize).map(|_| micros(RUSH + lomax(LATER, draws.unit()))));
    at
}

/// The quantile `unit` of a Pareto distribution from 0 with exponent 1.
fn lomax(median: f64, unit: f64) -> f64 {
    median * unit / (1.0 - unit)
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS: Duration = Duration::from_secs(6 * 3_600);

    #[test]
    fn the_crowd_comes_in_the_first_ten_minutes_and_stays_below_its_bound() {
        let crowd = Crowd::new(1, HOURS);
        let rush = Time::ZERO + Duration::from_secs(600);
        let early = crowd.changes.iter().filter(|c| c.joins && c.at < rush).count();
        assert_eq!(early, 60_000);
        assert!((100_000..115_000).contains(&crowd.joins()), "{}", crowd.joins());
        assert!((85_000..105_000).contains(&crowd.leaves()), "{}", crowd.leaves());
        assert!((50_000..=MOST_MEMBERS).contains(&crowd.peak()), "{}", crowd.peak());
        assert!(crowd.changes.is_sorted_by_key(|change| change.at));
    }

    #[test]
    fn a_seed_gives_the_same_crowd() {
        assert_eq!(Crowd::new(7, HOURS), Crowd::new(7, HOURS));
        assert_ne!(Crowd::new(7, HOURS), Crowd::new(8, HOURS));
    }
}
