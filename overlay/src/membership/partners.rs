//! With whom tables are compared: mostly neighbours, as there are connections to these, and now and
//! then anybody, which takes a handshake.
//!
//! ```text
//!  change ─────────────────► 60 s ──────► quiet
//!  n n n A n n n A n n n A n n n n n n n n n n n n A n n n n n n n n n A
//! ```
//! Broadcasts lose little, and neighbours make up for it. Anybody is asked for what a proxy and all
//! its neighbours do not know. Where nothing happens that is nothing, but nobody can be sure.

use pias_protocol::{ids::ProxyId, time::Time};

use crate::{
    random::Random,
    timing::{EXCHANGE_INTERVAL, NEIGHBOURS_BETWEEN, NEIGHBOURS_BETWEEN_QUIET, RESTLESS},
};

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Partners {
    /// Comparisons with neighbours before the next with anybody.
    left: usize,
    /// Who was asked last of those that are no neighbours, and when, until it answers.
    asked: Option<(ProxyId, Time)>,
    /// Until when what changed last may not be known everywhere.
    restless_until: Time,
}

impl Partners {
    /// Begins: quietly if much is known already.
    pub(super) fn new(quiet: bool, random: &mut Random, now: Time) -> Self {
        if quiet {
            // Those that started together do not ask together.
            let left = random.below(NEIGHBOURS_BETWEEN_QUIET + 1);
            Self { left, asked: None, restless_until: now }
        } else {
            Self { left: NEIGHBOURS_BETWEEN, asked: None, restless_until: now + RESTLESS }
        }
    }

    /// Something changed: anybody may know more.
    pub(super) fn stir(&mut self, random: &mut Random, now: Time) {
        if self.restless_until <= now {
            self.left = self.left.min(random.below(NEIGHBOURS_BETWEEN + 1));
        }
        self.restless_until = now + RESTLESS;
    }

    /// Whether tables are compared with anybody this time, and not with a neighbour. Who does not
    /// answer is no comparison: another takes its place.
    pub(super) fn anybody_now(&mut self, random: &mut Random, now: Time) -> bool {
        let unanswered = self.asked.take_if(|(_, at)| now - *at >= EXCHANGE_INTERVAL / 2).is_some();
        if self.left > 0 && !unanswered {
            self.left -= 1;
            return false;
        }
        self.left = if now < self.restless_until {
            NEIGHBOURS_BETWEEN
        } else {
            NEIGHBOURS_BETWEEN_QUIET / 2 + random.below(NEIGHBOURS_BETWEEN_QUIET + 1)
        };
        true
    }

    /// One that is no neighbour was asked.
    pub(super) fn ask(&mut self, id: ProxyId, now: Time) {
        self.asked = Some((id, now));
    }

    /// A proxy answered a comparison.
    pub(super) fn answered(&mut self, id: ProxyId) {
        self.asked.take_if(|(asked, _)| *asked == id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PARTNER: ProxyId = ProxyId(7);

    /// Seconds at which anybody was asked, of comparisons every five seconds; who is asked answers.
    fn asked(partners: &mut Partners, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut random = Random::new(3);
        let turns = seconds.step_by(5).filter(|&second| {
            let now = Time::ZERO + Duration::from_secs(second);
            let anybody = partners.anybody_now(&mut random, now);
            if anybody {
                partners.ask(PARTNER, now);
                partners.answered(PARTNER);
            }
            anybody
        });
        turns.collect()
    }

    fn quiet() -> Partners {
        Partners::new(true, &mut Random::new(1), Time::ZERO)
    }

    fn at(second: u64) -> Time {
        Time::ZERO + Duration::from_secs(second)
    }

    #[test]
    fn while_nothing_happens_anybody_is_asked_once_a_minute() {
        let turns = asked(&mut quiet(), 0..60_000);
        assert!((950..1_050).contains(&turns.len()), "{}", turns.len());
        let apart = |pair: &[u64]| (30..=90).contains(&(pair[1] - pair[0]));
        assert!(turns.windows(2).all(apart));
    }

    #[test]
    fn for_a_minute_after_a_change_every_fourth_comparison_is_with_anybody() {
        for second in (0..3_000).step_by(50) {
            let mut partners = quiet();
            asked(&mut partners, 0..second);
            partners.stir(&mut Random::new(second), at(second));
            let turns = asked(&mut partners, second..second + 60);
            assert_eq!(turns.len(), 3, "{turns:?}");
            assert!(turns[0] < second + 20);
        }
    }

    #[test]
    fn changes_that_follow_each_other_do_not_put_it_off() {
        let mut partners = quiet();
        let mut turns = 0;
        for second in 0..100 {
            partners.stir(&mut Random::new(second), at(second));
            turns += asked(&mut partners, second..second + 1).len();
        }
        assert_eq!(turns, 25);
    }

    #[test]
    fn a_newcomer_asks_anybody_as_often_as_after_a_change() {
        let mut newcomer = Partners::new(false, &mut Random::new(1), Time::ZERO);
        assert_eq!(asked(&mut newcomer, 0..60), [15, 35, 55]);
    }

    #[test]
    fn another_takes_the_place_of_one_that_does_not_answer() {
        let (mut partners, mut random) = (quiet(), Random::new(1));
        let mut second = 0;
        while !partners.anybody_now(&mut random, at(second)) {
            second += 5;
        }
        partners.ask(PARTNER, at(second));
        partners.answered(ProxyId(8));
        assert!(!partners.anybody_now(&mut random, at(second + 1)), "it may still answer");
        assert!(partners.anybody_now(&mut random, at(second + 5)));
        partners.ask(PARTNER, at(second + 5));
        partners.answered(PARTNER);
        assert!(!partners.anybody_now(&mut random, at(second + 10)));
    }
}
