//! What a proxy measures of those that it speaks to itself: mates, contacts, neighbours.

use std::{collections::BTreeMap, time::Duration};

use pias_protocol::{ids::ProxyId, overlay::Coordinate, time::Time};

use crate::timing::{FIRST_CONTACT, MAX_PATIENCE, STEADY};

/// Another proxy that this one beats.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// When it was heard last.
    pub(crate) heard: Option<Time>,
    /// Round-trip time: follows a shorter one at once, a longer one slowly, as queues come and go
    /// but the way stays.
    pub(crate) rtt: Option<Duration>,
    /// Where it sees itself.
    pub(crate) coordinate: Option<Coordinate>,
    /// What it is to this proxy if it is a mate.
    pub(crate) mate: Option<Mate>,
}

/// What only a mate has.
#[derive(Clone, Debug)]
pub(crate) struct Mate {
    /// Whether it is taken to be alive.
    pub(crate) alive: bool,
    /// Whether it was heard since it came up.
    pub(crate) met: bool,
    /// When it is suspected unless it is heard.
    pub(crate) silent_at: Time,
    /// How long its first sign of life may take; doubles with each death, unless it lived long.
    patience: Duration,
    /// When it came up.
    since: Time,
    /// Whether it answered the last beat that asked all mates.
    pub(crate) answered: bool,
}

impl Peer {
    pub(crate) const fn new() -> Self {
        Self { heard: None, rtt: None, coordinate: None, mate: None }
    }

    /// Whether it was heard within the last `time`.
    pub(crate) fn heard_within(&self, time: Duration, now: Time) -> bool {
        self.heard.is_some_and(|heard| now - heard < time)
    }

    /// A measurement of the round-trip time.
    pub(crate) fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            Some(rtt) if sample > rtt => rtt + (sample - rtt) / 16,
            _ => sample,
        });
    }

    /// It says where it is. One that has just started does not know, and would draw others away from
    /// where they are.
    pub(crate) fn locate(&mut self, coordinate: Coordinate) {
        if coordinate.is_known() {
            self.coordinate = Some(coordinate);
        }
    }
}

impl Mate {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            alive: true,
            met: false,
            silent_at: now + FIRST_CONTACT,
            patience: FIRST_CONTACT,
            since: now,
            answered: true,
        }
    }

    /// It came up, or is said to live: it has some time to be heard.
    pub(crate) fn expect(&mut self, now: Time) {
        self.alive = true;
        self.met = false;
        self.answered = true;
        self.silent_at = now + self.patience;
        self.since = now;
    }

    /// It is taken for dead: if that proves wrong, more patience is due. That it proved wrong long ago
    /// does not count.
    pub(crate) fn dead(&mut self, now: Time) {
        self.alive = false;
        let before = if now - self.since < STEADY { self.patience } else { FIRST_CONTACT };
        self.patience = (before * 2).min(MAX_PATIENCE);
    }
}

/// All of them, by id.
pub(crate) type Peers = BTreeMap<ProxyId, Peer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_deaths_in_a_row_and_not_over_the_years() {
        let mut now = Time::ZERO;
        let mut mate = Mate::new(now);
        let mut patience = |lived| {
            now = now + lived;
            mate.dead(now);
            mate.expect(now);
            mate.silent_at - now
        };
        let short = STEADY / 10;
        let in_a_row: Vec<_> = (0..5).map(|_| patience(short)).collect();
        let seconds = [6, 12, 24, 30, 30].map(Duration::from_secs);
        assert_eq!(in_a_row, seconds);
        assert_eq!(patience(STEADY), seconds[0]);
    }

    #[test]
    fn a_proxy_that_has_just_started_is_where_its_former_life_was() {
        let mut peer = Peer::new();
        peer.locate(Coordinate::default());
        assert_eq!(peer.coordinate, None);
        let there = Coordinate { position: [400, 0, 0, 0], height: 3 };
        peer.locate(there);
        peer.locate(Coordinate::default());
        assert_eq!(peer.coordinate, Some(there));
    }

    #[test]
    fn a_queue_does_not_make_a_proxy_look_far() {
        let mut peer = Peer::new();
        peer.measure(Duration::from_millis(10));
        peer.measure(Duration::from_millis(100));
        assert!(peer.rtt.unwrap() < Duration::from_millis(16));
        peer.measure(Duration::from_millis(8));
        assert_eq!(peer.rtt, Some(Duration::from_millis(8)));
    }
}
