//! How far clusters are from each other, as all proxies are told alike.
//!
//! A proxy publishes its least round-trip time to each cluster: when one changed by more than a
//! fifth, and now and then unchanged. Decisions use published values only, also of this proxy's own:
//! so two RAPs that answer two mates compute the same list.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    limits::MAX_CLUSTERS,
    overlay::Proximity,
    time::Time,
};

use crate::{
    membership::Membership,
    outbox::Outbox,
    random::Random,
    select::Distance,
    timing::{PROXIMITY_CHECK, PROXIMITY_REFRESH},
};

/// Changes below this are noise: 0.3 ms.
const NOISE: Distance = 3;

type Row = BTreeMap<ClusterId, Distance>;

/// The published distances, and this proxy's own measurements.
#[derive(Debug)]
pub(crate) struct Distances {
    own: ProxyId,
    cluster: ClusterId,
    /// By the publisher's cluster, then by publisher.
    published: BTreeMap<ClusterId, BTreeMap<ProxyId, Row>>,
    /// The least of each cluster's proxies.
    rows: BTreeMap<ClusterId, Row>,
    next_check: Time,
    next_refresh: Time,
    /// Somebody new was not told yet.
    newcomer: bool,
    random: Random,
}

impl Distances {
    pub(crate) fn new(own: ProxyId, cluster: ClusterId, mut random: Random, now: Time) -> Self {
        Self {
            own,
            cluster,
            published: BTreeMap::new(),
            rows: BTreeMap::new(),
            next_check: now + random.around(PROXIMITY_CHECK),
            next_refresh: now + PROXIMITY_REFRESH,
            newcomer: false,
            random,
        }
    }

    /// Round-trip time between two clusters, in units of 0.1 ms: the less of what either publishes.
    pub(crate) fn between(&self, a: ClusterId, b: ClusterId) -> Option<Distance> {
        if a == b {
            return Some(0);
        }
        let one_way = |from, to| self.rows.get(&from).and_then(|row| row.get(&to)).copied();
        one_way(a, b).into_iter().chain(one_way(b, a)).min()
    }

    /// A proxy of `cluster` published.
    pub(crate) fn published(&mut self, from: ProxyId, cluster: ClusterId, message: Proximity) {
        let row = message.round_trips.into_iter().collect();
        self.published.entry(cluster).or_default().insert(from, row);
        self.sum_up(cluster);
    }

    /// A proxy takes part: it has to be told.
    pub(crate) const fn up(&mut self) {
        self.newcomer = true;
    }

    /// A proxy is gone: what it published no longer counts.
    pub(crate) fn gone(&mut self, proxy: ProxyId, cluster: ClusterId) {
        if let Some(rows) = self.published.get_mut(&cluster) {
            rows.remove(&proxy);
            if rows.is_empty() {
                self.published.remove(&cluster);
            }
            self.sum_up(cluster);
        }
    }

    /// When [`Distances::tick`] is due.
    pub(crate) const fn next(&self) -> Time {
        self.next_check
    }

    /// Publishes what is worth it.
    pub(crate) fn tick(&mut self, members: &Membership, now: Time, out: &mut Outbox) {
        if now < self.next_check {
            return;
        }
        self.next_check = now + self.random.around(PROXIMITY_CHECK);
        let measured = self.measured(members);
        let before = self.published.get(&self.cluster).and_then(|rows| rows.get(&self.own));
        let changed = before.is_none_or(|before| differs(before, &measured));
        if !(changed || self.newcomer || now >= self.next_refresh) {
            return;
        }
        let row = match before {
            Some(before) if !changed => before.clone(),
            _ => measured,
        };
        let message = Proximity { round_trips: row.into_iter().collect() };
        for (peer, ..) in members.alive() {
            out.send(peer, message.clone());
        }
        self.published(self.own, self.cluster, message);
        self.newcomer = false;
        self.next_refresh = now + PROXIMITY_REFRESH;
    }

    /// The least round-trip time to each other cluster, of the nearest [`MAX_CLUSTERS`].
    fn measured(&self, members: &Membership) -> Row {
        let mut row = Row::new();
        for (_, cluster, rtt) in members.alive() {
            if let Some(rtt) = rtt
                && cluster != self.cluster
            {
                let tenths = in_tenths(rtt);
                row.entry(cluster).and_modify(|d| *d = tenths.min(*d)).or_insert(tenths);
            }
        }
        if row.len() > MAX_CLUSTERS {
            let mut nearest: Vec<_> = row.into_iter().map(|(c, d)| (d, c)).collect();
            nearest.sort_unstable();
            nearest.truncate(MAX_CLUSTERS);
            row = nearest.into_iter().map(|(d, c)| (c, d)).collect();
        }
        row
    }

    fn sum_up(&mut self, cluster: ClusterId) {
        let Some(published) = self.published.get(&cluster) else {
            self.rows.remove(&cluster);
            return;
        };
        let mut least = Row::new();
        for (&to, &distance) in published.values().flatten() {
            least.entry(to).and_modify(|d| *d = distance.min(*d)).or_insert(distance);
        }
        self.rows.insert(cluster, least);
    }
}

fn in_tenths(rtt: Duration) -> Distance {
    Distance::try_from(rtt.as_micros() / 100).unwrap_or(Distance::MAX)
}

/// Whether a cluster came or went, or a distance changed by more than a fifth.
fn differs(before: &Row, after: &Row) -> bool {
    let clusters: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    clusters.into_iter().any(|cluster| match (before.get(cluster), after.get(cluster)) {
        (Some(&old), Some(&new)) => {
            old.abs_diff(new) > NOISE && u32::from(old.abs_diff(new)) * 5 > u32::from(old)
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(distance: Distance) -> Proximity {
        Proximity { round_trips: vec![(ClusterId(2), distance)] }
    }

    #[test]
    fn the_distance_of_clusters_is_the_least_that_anybody_published() {
        let random = Random::new(1);
        let mut distances = Distances::new(ProxyId(1), ClusterId(1), random, Time::ZERO);
        let (here, there) = (ClusterId(1), ClusterId(2));
        assert_eq!(distances.between(here, there), None);
        distances.published(ProxyId(1), here, row(120));
        distances.published(ProxyId(7), here, row(100));
        assert_eq!(distances.between(here, there), Some(100));
        assert_eq!(distances.between(there, here), Some(100));
        distances.gone(ProxyId(7), here);
        assert_eq!(distances.between(here, there), Some(120));
        distances.gone(ProxyId(1), here);
        assert_eq!(distances.between(here, there), None);
        assert_eq!(distances.between(there, there), Some(0));
    }

    #[test]
    fn small_changes_are_not_worth_publishing() {
        let at = |d| Row::from([(ClusterId(2), d)]);
        assert!(!differs(&at(100), &at(119)));
        assert!(differs(&at(100), &at(121)));
        assert!(!differs(&at(2), &at(5)));
        assert!(differs(&at(2), &Row::new()));
    }
}
