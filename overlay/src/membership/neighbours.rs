//! Whom a proxy passes news to.
//!
//! ```text
//!  mates    all, where they are few; else two to either side in the order of ids
//!  far      two at places that the own id gives, and one in the nearest other cluster
//!  callers  those that chose this proxy
//! ```
//! So a neighbour's neighbour is this proxy, and any two proxies are a few steps apart: within
//! clusters along the circle of mates, between clusters at random. One far neighbour and the mates
//! next to it are eager at first, so that news comes by about three ways until the others are pruned.

use std::{collections::BTreeMap, time::Duration};

use pias_protocol::{
    hash,
    ids::{ClusterId, ProxyId},
    overlay::Want,
    time::Time,
};

use super::{ask, peer::Peers, table::Table};
use crate::{
    limits::{FAR_NEIGHBOURS, MATE_NEIGHBOURS, MAX_NEIGHBOURS, MAX_PICK_WALK},
    outbox::Outbox,
    proximity,
    timing::NEIGHBOUR_LOST,
};

/// Why a proxy is a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mate,
    /// Chosen here, as the one of this number; the last is the near one.
    Chosen(usize),
    /// It chose this proxy.
    Caller,
}

#[derive(Clone, Debug)]
struct Neighbour {
    kind: Kind,
    /// Whether news is pushed to it; else it is only announced.
    eager: bool,
    heard: Time,
}

/// The neighbours of one proxy.
#[derive(Debug)]
pub(super) struct Neighbours {
    own: ProxyId,
    cluster: ClusterId,
    all: BTreeMap<ProxyId, Neighbour>,
    /// Chosen ones that did not answer: others are taken until they do.
    shunned: BTreeMap<ProxyId, Time>,
}

impl Neighbours {
    pub(super) fn new(own: ProxyId, cluster: ClusterId) -> Self {
        Self { own, cluster, all: BTreeMap::new(), shunned: BTreeMap::new() }
    }

    pub(super) fn contains(&self, id: ProxyId) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.all.keys().copied()
    }

    /// Those that news is pushed to (or, if not `eager`, announced to), but for one.
    pub(super) fn of(&self, eager: bool, not: ProxyId) -> impl Iterator<Item = ProxyId> + '_ {
        let wanted = self.all.iter().filter(move |(id, n)| n.eager == eager && **id != not);
        wanted.map(|(&id, _)| id)
    }

    /// How many news is pushed to.
    pub(super) fn eager(&self) -> usize {
        self.all.values().filter(|neighbour| neighbour.eager).count()
    }

    /// Whether news is pushed to a neighbour from now on.
    pub(super) fn set_eager(&mut self, id: ProxyId, eager: bool) {
        if let Some(neighbour) = self.all.get_mut(&id) {
            neighbour.eager = eager;
        }
    }

    /// The far ones chosen here.
    pub(super) fn chosen(&self) -> impl Iterator<Item = ProxyId> + '_ {
        let chosen = self.all.iter().filter(|(_, n)| matches!(n.kind, Kind::Chosen(_)));
        chosen.map(|(&id, _)| id)
    }

    /// Something came from a proxy that may be one.
    pub(super) fn heard(&mut self, id: ProxyId, now: Time) {
        if let Some(neighbour) = self.all.get_mut(&id) {
            neighbour.heard = now;
        }
    }

    /// A proxy chose this one. Whether there was room.
    pub(super) fn called(&mut self, id: ProxyId, eager: bool, now: Time) -> bool {
        if let Some(neighbour) = self.all.get_mut(&id) {
            neighbour.eager |= eager;
            neighbour.heard = now;
            return true;
        }
        let room = self.all.len() < MAX_NEIGHBOURS;
        if room {
            self.all.insert(id, Neighbour { kind: Kind::Caller, eager, heard: now });
        }
        room
    }

    /// A proxy takes no part any more.
    pub(super) fn gone(&mut self, id: ProxyId) {
        self.all.remove(&id);
        self.shunned.remove(&id);
    }

    /// A proxy is taken for dead. It may only be paused: unless it was chosen here, in which case
    /// another takes its place, news is announced to it for a while, so that it reads that first when
    /// it goes on.
    pub(super) fn silent(&mut self, id: ProxyId) {
        match self.all.get_mut(&id) {
            Some(Neighbour { kind: Kind::Chosen(_), .. }) => self.gone(id),
            Some(neighbour) => (neighbour.kind, neighbour.eager) = (Kind::Caller, false),
            None => {}
        }
    }

    /// This proxy had not run for a while: nobody could be heard.
    pub(super) fn was_away(&mut self, now: Time) {
        for neighbour in self.all.values_mut() {
            neighbour.heard = now;
        }
    }

    /// Puts others in the place of those that are lost, and beats those chosen here.
    pub(super) fn tend(&mut self, table: &Table, peers: &Peers, now: Time, out: &mut Outbox) {
        self.drop_silent(peers, now);
        self.take_mates(table, now);
        self.choose(table, now, out);
        for id in self.chosen() {
            ask(id, now, out);
        }
    }

    fn drop_silent(&mut self, peers: &Peers, now: Time) {
        let shun: Duration = NEIGHBOUR_LOST * 4;
        self.shunned.retain(|_, &mut since| now - since < shun);
        for (id, neighbour) in &mut self.all {
            if let Some(heard) = peers.get(id).and_then(|peer| peer.heard) {
                neighbour.heard = neighbour.heard.max(heard);
            }
        }
        let lost = |n: &Neighbour| n.kind != Kind::Mate && now - n.heard >= NEIGHBOUR_LOST;
        let silent: Vec<_> =
            self.all.iter().filter(|(_, n)| lost(n)).map(|(&id, n)| (id, n.kind)).collect();
        for (id, kind) in silent {
            self.all.remove(&id);
            if matches!(kind, Kind::Chosen(_)) {
                self.shunned.insert(id, now);
            }
        }
    }

    /// The mates next to this proxy in the order of ids, all around.
    fn take_mates(&mut self, table: &Table, now: Time) {
        let Some(cluster) = table.cluster(self.cluster) else { return };
        let circle: Vec<_> = cluster.alive().map(|member| member.id).collect();
        let own = circle.partition_point(|&id| id < self.own);
        let others: Vec<_> = circle[own..]
            .iter()
            .chain(&circle[..own])
            .copied()
            .filter(|&id| id != self.own)
            .collect();
        let either =
            if others.len() <= MATE_NEIGHBOURS { others.len() } else { MATE_NEIGHBOURS / 4 };
        let mut wanted = BTreeMap::new();
        for (steps, &id) in others.iter().take(either).enumerate() {
            wanted.entry(id).or_insert(steps == 0);
        }
        for (steps, &id) in others.iter().rev().take(either).enumerate() {
            *wanted.entry(id).or_insert(false) |= steps == 0;
        }
        self.all.retain(|id, n| n.kind != Kind::Mate || wanted.contains_key(id));
        for (id, eager) in wanted {
            let mate = Neighbour { kind: Kind::Mate, eager, heard: now };
            let kept = self.all.entry(id).or_insert(mate);
            kept.eager |= eager && kept.kind != Kind::Mate;
            kept.kind = Kind::Mate;
        }
    }

    /// Chooses far neighbours, and tells them.
    fn choose(&mut self, table: &Table, now: Time, out: &mut Outbox) {
        let mates = self.all.values().filter(|n| n.kind == Kind::Mate).count();
        let eager_ones = FAR_NEIGHBOURS - mates.min(2);
        for number in 0..FAR_NEIGHBOURS {
            if self.all.values().any(|n| n.kind == Kind::Chosen(number)) {
                continue;
            }
            let near = number + 1 == FAR_NEIGHBOURS;
            let found = if near { self.nearest(table) } else { self.at_random(table, number) };
            let Some(id) = found else { continue };
            let eager = number < eager_ones;
            let kind = Kind::Chosen(number);
            let neighbour = self.all.entry(id).or_insert(Neighbour { kind, eager, heard: now });
            neighbour.kind = kind;
            neighbour.eager |= eager;
            let eager = neighbour.eager;
            out.send(id, Want { eager, ..Want::default() });
        }
    }

    /// Whether a proxy may be chosen.
    fn free(&self, id: ProxyId) -> bool {
        let taken = self.all.get(&id).is_some_and(|n| n.kind != Kind::Caller);
        !taken && !self.shunned.contains_key(&id)
    }

    /// The first live proxy of another cluster from a place on that the own id gives.
    fn at_random(&self, table: &Table, number: usize) -> Option<ProxyId> {
        let index = table.index();
        let place = ProxyId(hash::mix(self.own.0, number as u64));
        let start = index.partition_point(|&(id, _)| id < place);
        let around = index[start..].iter().chain(&index[..start]).take(MAX_PICK_WALK);
        let fit = |&&(id, cluster): &&(ProxyId, ClusterId)| {
            cluster != self.cluster && self.free(id) && table.is_alive(id)
        };
        around.clone().find(fit).map(|&(id, _)| id)
    }

    /// A proxy of the nearest other cluster.
    fn nearest(&self, table: &Table) -> Option<ProxyId> {
        let own = table.cluster(self.cluster).filter(|cluster| cluster.stamp > 0)?;
        let others = table.clusters().filter(|cluster| {
            cluster.id != self.cluster && cluster.stamp > 0 && cluster.living() > 0
        });
        let nearest = others.min_by_key(|cluster| {
            (proximity::distance(own.coordinate, cluster.coordinate), cluster.id)
        })?;
        let members = nearest.alive().map(|member| member.id).filter(|&id| self.free(id));
        members.max_by_key(|id| hash::mix(self.own.0, id.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pias_protocol::overlay::MemberState;

    use super::{
        super::table::tests::{filled, record},
        *,
    };

    fn service(clusters: usize, proxies: usize) -> Table {
        let records = (0..clusters * proxies).map(|n| {
            let cluster = n / proxies;
            record(
                &format!("c{cluster}x{}", n % proxies),
                &format!("c{cluster}"),
                1,
                MemberState::Up,
            )
        });
        filled(&records.collect::<Vec<_>>())
    }

    fn of(table: &Table, id: ProxyId) -> Neighbours {
        let mut neighbours = Neighbours::new(id, table.cluster_of(id).unwrap());
        neighbours.tend(table, &Peers::new(), Time::ZERO, &mut Outbox::new(id));
        neighbours
    }

    #[test]
    fn mates_are_neighbours_of_each_other() {
        for proxies in [2, 5, 9, 10, 30] {
            let table = service(3, proxies);
            for &(id, cluster) in table.index() {
                for mate in of(&table, id).all().filter(|&m| table.cluster_of(m) == Some(cluster)) {
                    assert!(of(&table, mate).contains(id), "{proxies} proxies");
                }
            }
        }
    }

    #[test]
    fn news_along_eager_neighbours_reaches_everybody() {
        for (clusters, proxies) in [(1, 40), (2, 2), (3, 2), (60, 1), (40, 10)] {
            let table = service(clusters, proxies);
            let mut ways: BTreeMap<ProxyId, BTreeSet<ProxyId>> = BTreeMap::new();
            for &(id, _) in table.index() {
                for next in of(&table, id).of(true, id) {
                    ways.entry(id).or_default().insert(next);
                    ways.entry(next).or_default().insert(id);
                }
            }
            let start = table.index()[0].0;
            let (mut reached, mut edge) = (BTreeSet::from([start]), vec![start]);
            while let Some(id) = edge.pop() {
                edge.extend(ways[&id].iter().copied().filter(|&next| reached.insert(next)));
            }
            assert_eq!(reached.len(), clusters * proxies, "{clusters} clusters of {proxies}");
            let ways: usize = ways.values().map(BTreeSet::len).sum();
            assert!(ways / reached.len() <= 5, "{} ways a proxy", ways / reached.len());
        }
    }

    #[test]
    fn a_chosen_neighbour_that_is_silent_is_replaced() {
        let table = service(20, 1);
        let own = table.index()[0].0;
        let mut neighbours = of(&table, own);
        let before: BTreeSet<_> = neighbours.chosen().collect();
        let mut out = Outbox::new(own);
        neighbours.tend(&table, &Peers::new(), Time::ZERO + NEIGHBOUR_LOST, &mut out);
        let after: BTreeSet<_> = neighbours.chosen().collect();
        assert_eq!(after.len(), before.len());
        assert!(after.is_disjoint(&before));
    }

    #[test]
    fn who_is_taken_for_dead_is_announced_to_for_a_while_unless_it_was_chosen() {
        let mut table = service(20, 2);
        let own = table.index()[0].0;
        let mut neighbours = of(&table, own);
        let chosen: Vec<_> = neighbours.chosen().collect();
        let mate = neighbours.all().find(|id| !chosen.contains(id)).unwrap();
        let tend = |neighbours: &mut Neighbours, table: &Table, after| {
            neighbours.tend(table, &Peers::new(), Time::ZERO + after, &mut Outbox::new(own));
        };
        neighbours.silent(mate);
        neighbours.silent(chosen[0]);
        assert!(neighbours.of(false, own).any(|id| id == mate));
        assert!(!neighbours.contains(chosen[0]));
        let cluster = table.cluster_of(own).unwrap();
        table.edit(cluster, |cluster| cluster.down = true);
        tend(&mut neighbours, &table, NEIGHBOUR_LOST / 2);
        assert!(neighbours.of(false, own).any(|id| id == mate));
        table.edit(cluster, |cluster| cluster.down = false);
        tend(&mut neighbours, &table, NEIGHBOUR_LOST / 2);
        assert!(neighbours.of(true, own).any(|id| id == mate), "it was only paused");
        neighbours.silent(mate);
        table.edit(cluster, |cluster| cluster.down = true);
        tend(&mut neighbours, &table, NEIGHBOUR_LOST);
        assert!(!neighbours.contains(mate));
    }

    #[test]
    fn there_is_room_for_so_many_callers() {
        let mut neighbours = Neighbours::new(ProxyId(1), ClusterId(1));
        let room = (10..60).filter(|&n| neighbours.called(ProxyId(n), true, Time::ZERO)).count();
        assert_eq!(room, MAX_NEIGHBOURS);
    }
}
