//! The ring: which proxies are the RAPs of a group, as every proxy computes it alike.
//!
//! Each proxy stands at [`RING_POINTS`] places, `mix(id, n)`; a group's RAPs are the first proxies
//! clockwise from its own place, of as many clusters as possible: first one of each cluster that
//! comes by, then, if there are fewer clusters than RAPs, those that were passed over.
//!
//! ```text
//!  group ──► fra1  fra2  nyc1  fra1  sin2  nyc2 ...     RAPs: fra1 nyc1 sin2, then fra2
//!             ✔     ·     ✔     ·     ✔
//! ```
//! So a proxy that comes or goes changes one RAP of the groups that it serves, and nothing else.
//!
//! A place takes four octets and its owner two, in two sorted arrays: 4 MB at 20,000 proxies.
//! Changes are collected, and merged in one pass when somebody asks.

use std::{cell::OnceCell, collections::BTreeMap, sync::Arc};

use pias_protocol::{
    group::GroupKey,
    hash,
    ids::{ClusterId, ProxyId},
    overlay::MemberState,
};

use crate::{
    limits::{MAX_RING_WALK, RAPS, RING_POINTS},
    membership::Table,
};

/// A proxy on the ring.
pub(crate) type Entry = (ProxyId, ClusterId);

/// The places of a proxy.
fn places(proxy: ProxyId) -> impl Iterator<Item = u32> {
    (0..RING_POINTS as u64).map(move |n| (hash::mix(proxy.0, n) >> 32) as u32)
}

/// The built ring: who stands where.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Points {
    /// All places in order.
    places: Vec<u32>,
    /// Whose they are, by position in `members`.
    owners: Vec<u16>,
    /// Sorted by id.
    members: Vec<Entry>,
    clusters: usize,
}

impl Points {
    fn cluster_of(&self, proxy: ProxyId) -> Option<ClusterId> {
        let at = self.members.binary_search_by_key(&proxy, |entry| entry.0).ok()?;
        Some(self.members[at].1)
    }

    /// The ring with proxies added (`Some`) and removed (`None`), in one pass.
    fn with(&self, changes: &BTreeMap<ProxyId, Option<ClusterId>>) -> Self {
        let stays = |entry: &&Entry| !changes.contains_key(&entry.0);
        let mut members: Vec<_> = self.members.iter().filter(stays).copied().collect();
        members.extend(changes.iter().filter_map(|(&proxy, &cluster)| Some((proxy, cluster?))));
        members.sort_unstable();
        let position = |proxy| members.binary_search_by_key(&proxy, |entry: &Entry| entry.0);
        // Where the owners of before stand now; who is added anew is left to `fresh`.
        let kept: Vec<Option<u16>> = self
            .members
            .iter()
            .map(|entry| position(entry.0).ok().filter(|_| stays(&entry)).map(|at| at as u16))
            .collect();
        let mut fresh: Vec<(u32, u16)> = changes
            .iter()
            .filter(|(_, cluster)| cluster.is_some())
            .filter_map(|(&proxy, _)| Some((proxy, position(proxy).ok()?)))
            .flat_map(|(proxy, at)| places(proxy).map(move |place| (place, at as u16)))
            .collect();
        fresh.sort_unstable();
        let mut clusters: Vec<_> = members.iter().map(|&(_, cluster)| cluster).collect();
        clusters.sort_unstable();
        clusters.dedup();
        let size = members.len() * RING_POINTS;
        let mut merged = Self {
            places: Vec::with_capacity(size),
            owners: Vec::with_capacity(size),
            members,
            clusters: clusters.len(),
        };
        // Where two share a place the lower id is first.
        let mut fresh = fresh.into_iter().peekable();
        for (&place, &owner) in self.places.iter().zip(&self.owners) {
            let Some(owner) = kept[usize::from(owner)] else { continue };
            while let Some(point) = fresh.next_if(|&point| point < (place, owner)) {
                merged.push(point);
            }
            merged.push((place, owner));
        }
        for point in fresh {
            merged.push(point);
        }
        merged
    }

    fn push(&mut self, (place, owner): (u32, u16)) {
        self.places.push(place);
        self.owners.push(owner);
    }

    /// The RAPs of a place; `departed` proxies are taken to be still there.
    fn at(&self, place: u32, departed: &[Entry]) -> Vec<ProxyId> {
        let mut clusters = self.clusters;
        let missing = |cluster| self.members.iter().all(|&(_, c)| c != cluster);
        if !departed.is_empty() && clusters < RAPS {
            let mut lost: Vec<_> =
                departed.iter().map(|&(_, cluster)| cluster).filter(|&c| missing(c)).collect();
            lost.sort_unstable();
            lost.dedup();
            clusters += lost.len();
        }
        let wanted = RAPS.min(self.members.len() + departed.len());
        let mut choice = Choice { wanted, clusters: wanted.min(clusters), ..Choice::default() };
        let start = self.places.partition_point(|&at| at < place);
        let around = (start..self.places.len()).chain(0..start);
        let here = around.map(|at| (self.places[at], self.members[usize::from(self.owners[at])]));
        if departed.is_empty() {
            choice.walk(here.map(|(_, entry)| entry));
        } else {
            let mut gone: Vec<_> =
                departed.iter().flat_map(|&e| places(e.0).map(move |at| (at, e))).collect();
            // Clockwise from the place on, both alike.
            let away = |at: u32| at.wrapping_sub(place);
            gone.sort_unstable_by_key(|&(at, entry)| (away(at), entry.0));
            let mut gone = gone.into_iter().peekable();
            let mut here = here.peekable();
            choice.walk(std::iter::from_fn(|| {
                let ghost = match (here.peek(), gone.peek()) {
                    (Some(&(at, entry)), Some(&(was, ghost))) => {
                        (away(was), ghost.0) < (away(at), entry.0)
                    }
                    (None, ghost) => ghost.is_some(),
                    (Some(_), None) => false,
                };
                if ghost { gone.next() } else { here.next() }.map(|(_, entry)| entry)
            }));
        }
        choice.chosen
    }
}

/// RAPs as they are found.
#[derive(Debug, Default)]
struct Choice {
    wanted: usize,
    /// Of how many clusters.
    clusters: usize,
    chosen: Vec<ProxyId>,
    seen: Vec<ClusterId>,
    passed_over: Vec<ProxyId>,
}

impl Choice {
    fn walk(&mut self, clockwise: impl Iterator<Item = Entry>) {
        for (step, (proxy, cluster)) in clockwise.enumerate() {
            let spread = self.seen.len() == self.clusters || step >= MAX_RING_WALK;
            if spread && self.chosen.len() + self.passed_over.len() >= self.wanted {
                break;
            }
            if !self.seen.contains(&cluster) && self.seen.len() < RAPS {
                self.seen.push(cluster);
                self.chosen.push(proxy);
            } else if self.passed_over.len() < RAPS
                && !self.chosen.contains(&proxy)
                && !self.passed_over.contains(&proxy)
            {
                self.passed_over.push(proxy);
            }
        }
        self.chosen.append(&mut self.passed_over);
        self.chosen.truncate(self.wanted);
    }
}

/// A consistent hash over all proxies that take groups.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    base: Arc<Points>,
    /// What changed since `base` was built: who came, and who went (`None`).
    changes: BTreeMap<ProxyId, Option<ClusterId>>,
    /// `base` with the changes, once somebody asked.
    built: OnceCell<Arc<Points>>,
    /// Hash of all that stand on the ring.
    digest: u64,
}

impl Ring {
    /// The ring of all in a table that take groups.
    pub(crate) fn of(table: &Table) -> Self {
        let mut ring = Self::default();
        for cluster in table.clusters() {
            for member in cluster.alive().filter(|member| member.state == MemberState::Up) {
                ring.insert(member.id, cluster.id);
            }
        }
        ring
    }

    /// A ring that was built before.
    pub(crate) fn from_points(points: &Arc<Points>) -> Self {
        let digest = points.members.iter().fold(0, |digest, &entry| digest ^ mark(entry));
        Self { base: points.clone(), digest, ..Self::default() }
    }

    /// Adds a proxy; one that is there stays as it is.
    pub(crate) fn insert(&mut self, proxy: ProxyId, cluster: ClusterId) {
        if self.cluster_of(proxy).is_none() {
            self.settle();
            self.changes.insert(proxy, Some(cluster));
            self.digest ^= mark((proxy, cluster));
        }
    }

    /// Removes a proxy. Whether it was there.
    pub(crate) fn remove(&mut self, proxy: ProxyId) -> bool {
        let Some(cluster) = self.cluster_of(proxy) else { return false };
        self.settle();
        if self.base.cluster_of(proxy).is_some() {
            self.changes.insert(proxy, None);
        } else {
            self.changes.remove(&proxy);
        }
        self.digest ^= mark((proxy, cluster));
        true
    }

    fn cluster_of(&self, proxy: ProxyId) -> Option<ClusterId> {
        if let Some(&change) = self.changes.get(&proxy) {
            return change;
        }
        self.base.cluster_of(proxy)
    }

    /// The RAPs of a group, in the order of the ring; fewer than [`RAPS`] if there are fewer
    /// proxies.
    pub(crate) fn raps(&self, group: &GroupKey) -> Vec<ProxyId> {
        self.current().at(place(group), &[])
    }

    /// The RAPs that a group would have if these proxies, which left the ring, were still on it.
    pub(crate) fn raps_with(&self, group: &GroupKey, departed: &[Entry]) -> Vec<ProxyId> {
        let gone: Vec<_> =
            departed.iter().copied().filter(|e| self.cluster_of(e.0).is_none()).collect();
        self.current().at(place(group), &gone)
    }

    /// What stands where.
    pub(crate) fn points(&self) -> Arc<Points> {
        self.current().clone()
    }

    fn current(&self) -> &Arc<Points> {
        self.built.get_or_init(|| {
            if self.changes.is_empty() {
                self.base.clone()
            } else {
                Arc::new(self.base.with(&self.changes))
            }
        })
    }

    /// Makes what was built the base of further changes.
    fn settle(&mut self) {
        if let Some(built) = self.built.take() {
            self.base = built;
            self.changes.clear();
        }
    }

    /// Hash of all that stand on the ring.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The points, unless they are still to be built.
    pub(crate) fn built(&self) -> Option<Arc<Points>> {
        self.built.get().or(self.changes.is_empty().then_some(&self.base)).cloned()
    }

    /// Uses another ring's points if they are of the same proxies.
    pub(crate) fn adopt(&mut self, points: &Arc<Points>) {
        if self.built().is_some_and(|built| Arc::ptr_eq(&built, points)) {
            return;
        }
        // What lies between the changes has to be equal.
        let (mut here, mut there) = (&self.base.members[..], &points.members[..]);
        let mut same = true;
        for (&proxy, &cluster) in &self.changes {
            let (before, now) = (split(&mut here, proxy), split(&mut there, proxy));
            same &= before.0 == now.0 && now.1 == cluster;
        }
        if same && here == there {
            self.base = points.clone();
            self.changes.clear();
            self.built = OnceCell::new();
        }
    }
}

/// Cuts sorted members at a proxy: those before it, and the cluster that it is in, if it is there.
/// Those behind it are left.
fn split<'a>(members: &mut &'a [Entry], proxy: ProxyId) -> (&'a [Entry], Option<ClusterId>) {
    let (before, behind) = members.split_at(members.partition_point(|entry| entry.0 < proxy));
    let found = behind.first().filter(|entry| entry.0 == proxy).map(|entry| entry.1);
    *members = &behind[usize::from(found.is_some())..];
    (before, found)
}

fn mark((proxy, cluster): Entry) -> u64 {
    hash::mix(proxy.0, cluster.0)
}

fn place(group: &GroupKey) -> u32 {
    (hash::group(group) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{IpAddr, Ipv4Addr},
    };

    use pias_protocol::group::Protocol;
    use proptest::prelude::*;

    use super::*;
    use crate::membership::Shelf;

    fn proxy(n: u64, clusters: u64) -> (ProxyId, ClusterId) {
        (ProxyId(hash::mix(n, 1)), ClusterId(n % clusters))
    }

    fn ring(n: u64, clusters: u64) -> Ring {
        let mut ring = Ring::default();
        for (proxy, cluster) in (0..n).map(|n| proxy(n, clusters)) {
            ring.insert(proxy, cluster);
        }
        ring
    }

    fn proxy_of(id: ProxyId, n: u64, clusters: u64) -> Entry {
        (0..n).map(|n| proxy(n, clusters)).find(|&(proxy, _)| proxy == id).unwrap()
    }

    fn groups() -> impl Iterator<Item = GroupKey> {
        (0..2_000_u32).map(|n| GroupKey {
            address: IpAddr::V4(Ipv4Addr::from(0xCB00_7100 + (n & 0xFF))),
            port: (n >> 8) as u16 + 1,
            protocol: Protocol::Udp,
        })
    }

    #[test]
    fn raps_are_spread_over_clusters_first() {
        let ring = ring(30, 5);
        for group in groups() {
            let clusters: BTreeSet<_> =
                ring.raps(&group).iter().map(|&p| ring.cluster_of(p).unwrap()).collect();
            assert_eq!(clusters.len(), RAPS);
        }
    }

    #[test]
    fn few_clusters_and_few_proxies_still_give_raps() {
        for group in groups().take(50) {
            assert_eq!(ring(9, 2).raps(&group).len(), 4);
            assert_eq!(ring(3, 1).raps(&group).len(), 3);
            assert!(Ring::default().raps(&group).is_empty());
        }
    }

    #[test]
    fn groups_spread_evenly_over_proxies() {
        let ring = ring(40, 8);
        let mut load: BTreeMap<ProxyId, usize> = BTreeMap::new();
        for group in groups() {
            for rap in ring.raps(&group) {
                *load.entry(rap).or_default() += 1;
            }
        }
        let mean = 2_000 * RAPS / 40;
        assert_eq!(load.len(), 40);
        assert!(load.values().all(|&n| n > mean / 2 && n < mean * 2), "{load:?}, mean {mean}");
    }

    #[test]
    fn every_build_puts_a_group_on_the_same_raps() {
        let names = ["fra1", "fra2", "nyc1", "nyc2", "sin1", "sin2"];
        let mut ring = Ring::default();
        for name in names {
            ring.insert(ProxyId::of(name), ClusterId::of(&name[..3]));
        }
        let raps = ring.raps(&"203.0.113.10:53/udp".parse().unwrap());
        let by_name: Vec<_> = raps
            .iter()
            .map(|r| names.into_iter().find(|n| ProxyId::of(n) == *r).unwrap())
            .collect();
        assert_eq!(by_name, GOLDEN);
    }

    const GOLDEN: [&str; 4] = ["sin2", "fra2", "nyc2", "fra1"];

    #[test]
    fn a_shared_ring_is_used_only_if_it_is_of_the_same_proxies() {
        let mut shelf = Shelf::default();
        let (mut one, mut two, mut other) = (ring(30, 5), ring(30, 5), ring(31, 5));
        for ring in [&one, &two, &other] {
            ring.points();
        }
        for ring in [&mut one, &mut two, &mut other] {
            shelf.ring(ring);
        }
        assert!(Arc::ptr_eq(&one.points(), &two.points()));
        assert_eq!(other.points().members.len(), 31);
    }

    #[test]
    fn a_ring_of_20_000_takes_four_megabytes() {
        let points = ring(20_000, 1_000).points();
        let size = points.places.capacity() * 4
            + points.owners.capacity() * 2
            + points.members.capacity() * size_of::<Entry>();
        assert!(size < 4_400_000, "{size} octets");
    }

    proptest! {
        #[test]
        fn a_departure_replaces_one_rap_of_its_own_groups_only(
            n in 2_u64..40, clusters in 1_u64..7, gone in 0_u64..40,
        ) {
            let before = ring(n, clusters);
            let mut after = ring(n, clusters);
            let (gone, _) = proxy(gone % n, clusters);
            after.remove(gone);
            for group in groups().take(200) {
                let was: BTreeSet<_> = before.raps(&group).into_iter().collect();
                let is: BTreeSet<_> = after.raps(&group).into_iter().collect();
                let as_if: BTreeSet<_> = after
                    .raps_with(&group, &[proxy_of(gone, n, clusters)])
                    .into_iter()
                    .collect();
                prop_assert_eq!(&as_if, &was);
                if was.contains(&gone) {
                    prop_assert!(is.difference(&was).count() <= 1);
                    prop_assert!(was.difference(&is).eq([&gone]));
                } else {
                    prop_assert_eq!(was, is);
                }
            }
        }

        #[test]
        fn the_ring_does_not_remember_how_it_came_about(
            n in 1_u64..30, order in any::<u64>(), clusters in 1_u64..5,
        ) {
            let straight = ring(n, clusters);
            let mut winding = Ring::default();
            let mut shuffled: Vec<_> = (0..n + 3).collect();
            shuffled.sort_by_key(|&n| hash::mix(n, order));
            for &n in &shuffled {
                let (proxy, cluster) = proxy(n, clusters);
                winding.insert(proxy, cluster);
                if n % 3 == 0 {
                    winding.raps(&groups().next().unwrap());
                }
            }
            for extra in n..n + 3 {
                prop_assert!(winding.remove(proxy(extra, clusters).0));
            }
            for group in groups().take(100) {
                prop_assert_eq!(straight.raps(&group), winding.raps(&group));
            }
        }
    }
}
