//! How far clusters are from each other, as all proxies are told alike.
//!
//! Every beat that is answered measures a round-trip time, and brings the coordinate of who answered;
//! from these a proxy finds its own ([`coordinate`]). One proxy of each cluster publishes its own as
//! that of the cluster, when it moved far enough. Decisions use published coordinates only, also of
//! this proxy's own cluster: so two RAPs that answer two mates compute the same list.

mod coordinate;

use std::time::Duration;

use pias_protocol::{overlay::Coordinate, time::Time};

use self::coordinate::Position;
pub(crate) use self::coordinate::distance;
use crate::{
    membership::Membership,
    random::Random,
    select::Distance,
    timing::{PROXIMITY_EACH, PROXIMITY_FIRST, PROXIMITY_LOOK, PROXIMITY_PUBLISH},
};

/// A coordinate that moved less is not worth publishing: 0.3 ms.
const NOISE: Distance = 3;

/// This proxy's own coordinate, and when to publish it.
#[derive(Debug)]
pub(crate) struct Distances {
    position: Position,
    next_look: Time,
    /// When there was something to go by first.
    since: Option<Time>,
    published: Option<(Time, Coordinate)>,
    /// The cluster knew where it is before this proxy started.
    settled: bool,
    random: Random,
}

impl Distances {
    pub(crate) fn new(mut random: Random, now: Time) -> Self {
        Self {
            position: Position::scattered(|| random.next()),
            next_look: now + random.around(PROXIMITY_LOOK),
            since: None,
            published: None,
            settled: false,
            random,
        }
    }

    /// When [`Distances::tick`] is due.
    pub(crate) const fn next(&self) -> Time {
        self.next_look
    }

    /// Looks where this proxy is, and publishes that if it is worth it.
    pub(crate) fn tick(&mut self, members: &mut Membership, now: Time) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + self.random.around(PROXIMITY_LOOK);
        if self.since.is_none()
            && let Some(cluster) = members.published()
        {
            // A newcomer has measured too few to know better than its mates did: from one way alone
            // it would stand anywhere around it, and say so for all.
            self.position = Position::at(cluster);
            self.published = Some((now, cluster));
            self.settled = true;
        }
        let measured: Vec<_> = members.measured().collect();
        if measured.is_empty() {
            // Others that have nothing to go by need somebody to begin with.
            return members.locate(self.position.coordinate());
        }
        self.position.settle(&measured);
        let here = self.position.coordinate();
        members.locate(here);
        let since = *self.since.get_or_insert(now);
        let least = PROXIMITY_PUBLISH.max(PROXIMITY_EACH * members.live_clusters() as u32);
        if members.speaks()
            && now - since >= PROXIMITY_FIRST
            && self.worth_it(here, &measured, least, now)
        {
            self.published = Some((now, here));
            members.publish(now);
        }
    }

    /// Whether the coordinate moved by more than a fifth of the mean way to those that are measured,
    /// and the last was not just published: the wait grows from a look to `least`.
    fn worth_it(
        &self,
        here: Coordinate,
        measured: &[(Duration, Coordinate)],
        least: Duration,
        now: Time,
    ) -> bool {
        let Some((at, before)) = self.published else { return true };
        let age = at - self.since.unwrap_or(at);
        let wait = if self.settled { least } else { age.clamp(PROXIMITY_LOOK * 2, least) };
        if now - at < wait {
            return false;
        }
        let flat = |c: Coordinate| Coordinate { height: 0, ..c };
        let moved = distance(flat(here), flat(before)) + here.height.abs_diff(before.height);
        let total: u32 = measured.iter().map(|(_, other)| u32::from(distance(here, *other))).sum();
        let mean = total / measured.len().max(1) as u32;
        moved > NOISE && u32::from(moved) * 5 > mean
    }
}
