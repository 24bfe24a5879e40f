//! What several nodes of one process can have in common, and a table that outlives a node.
//!
//! Tables are values behind shared pointers, never changed while two hold them. So it makes no
//! difference but in memory whether two nodes with equal tables hold one or two of them.

use std::{collections::BTreeMap, sync::Arc};

use pias_protocol::{
    ids::ClusterId,
    overlay::{ClusterRecord, Coordinate, MemberRecord, MemberUpdate},
};

use super::{
    Membership, records,
    table::{Cluster, Member, Table},
};
use crate::ring::{Points, Ring};

/// Members as one node knows them, for another one to start with: see
/// [`Node::with_members`](crate::Node::with_members).
#[derive(Clone, Debug)]
pub struct MembersSnapshot {
    pub(crate) table: Arc<Table>,
    pub(crate) ring: Arc<Points>,
}

impl MembersSnapshot {
    pub(crate) fn new(table: Arc<Table>, ring: &Ring) -> Self {
        Self { table, ring: ring.points() }
    }

    /// The same as messages, to be kept in a file: what [`MembersSnapshot::from_updates`] reads.
    /// The dead are left out.
    #[must_use]
    pub fn to_updates(&self) -> Vec<MemberUpdate> {
        records::all(&self.table)
    }

    /// A snapshot out of messages.
    #[must_use]
    pub fn from_updates(updates: &[MemberUpdate]) -> Self {
        let mut table = Table::default();
        let mut clusters: BTreeMap<&str, Vec<Member>> = BTreeMap::new();
        for member in updates.iter().flat_map(|update| &update.members) {
            clusters.entry(&member.cluster).or_default().push(Member::of(member));
        }
        table.put_all(clusters.into_iter().collect());
        for record in updates.iter().flat_map(|update| &update.clusters) {
            table.edit(record.cluster, |cluster| {
                cluster.version = record.version;
                cluster.down = record.down;
                cluster.stamp = record.stamp;
                cluster.coordinate = record.coordinate;
            });
        }
        let ring = Ring::of(&table).points();
        Self { table: Arc::new(table), ring }
    }

    /// A snapshot of proxies that all live, by what they say of themselves
    /// ([`NodeConfig::record`](crate::NodeConfig::record)), and of where their clusters are.
    #[must_use]
    pub fn of(members: Vec<MemberRecord>, places: &[(ClusterId, Coordinate)]) -> Self {
        let record = |&(cluster, coordinate): &(ClusterId, Coordinate)| ClusterRecord {
            cluster,
            version: 0,
            down: false,
            stamp: 1,
            coordinate,
        };
        let clusters = places.iter().map(record).collect();
        Self::from_updates(&[MemberUpdate { pushed: false, clusters, members }])
    }
}

/// Tables and rings that nodes of one process put down for others to use: see
/// [`Node::share`](crate::Node::share).
#[derive(Debug, Default)]
pub struct Shelf {
    tables: BTreeMap<u64, Vec<Arc<Table>>>,
    clusters: BTreeMap<(ClusterId, u64), Vec<Arc<Cluster>>>,
    rings: BTreeMap<u64, Arc<Points>>,
    /// How much was put down since the last clearing.
    fresh: usize,
}

impl Shelf {
    /// Exchanges a table for an equal one.
    fn table(&mut self, own: &mut Arc<Table>) {
        let key = own.root() ^ own.known() as u64;
        if let Some(same) = self.tables.get(&key).into_iter().flatten().find(|same| *same == own) {
            *own = same.clone();
            return;
        }
        let table = Arc::make_mut(own);
        // What came with a copy of another node's table is shared already.
        for cluster in table.clusters_mut().iter_mut().filter(|own| Arc::strong_count(own) == 1) {
            self.cluster(cluster);
        }
        let index = table.shared_index();
        let mut others = self.tables.values().flatten().map(|other| other.shared_index());
        if let Some(other) = others.find(|other| Arc::ptr_eq(other, &index) || *other == index) {
            *table.index_mut() = other;
        }
        self.tables.entry(key).or_default().push(own.clone());
        self.clear_now_and_then();
    }

    fn cluster(&mut self, own: &mut Arc<Cluster>) {
        let alike = self.clusters.entry((own.id, own.digest())).or_default();
        match alike.iter().find(|same| *same == own) {
            Some(same) => *own = same.clone(),
            None => alike.push(own.clone()),
        }
    }

    /// The points of a ring with these members.
    pub(crate) fn ring(&mut self, ring: &mut Ring) {
        let key = ring.digest();
        match self.rings.get(&key) {
            Some(same) => ring.adopt(same),
            None => {
                if let Some(points) = ring.built() {
                    self.rings.insert(key, points);
                    self.clear_now_and_then();
                }
            }
        }
    }

    /// Drops what no node uses any more.
    fn clear_now_and_then(&mut self) {
        self.fresh += 1;
        if self.fresh <= 64 + self.tables.len() / 2 {
            return;
        }
        self.fresh = 0;
        for tables in self.tables.values_mut() {
            tables.retain(|table| Arc::strong_count(table) > 1);
        }
        self.tables.retain(|_, tables| !tables.is_empty());
        for clusters in self.clusters.values_mut() {
            clusters.retain(|cluster| Arc::strong_count(cluster) > 1);
        }
        self.clusters.retain(|_, clusters| !clusters.is_empty());
        self.rings.retain(|_, ring| Arc::strong_count(ring) > 1);
    }
}

impl Membership {
    /// Uses memory that other nodes of this process hold, where it is equal.
    pub(crate) fn share(&mut self, shelf: &mut Shelf) {
        if std::mem::take(&mut self.unshared) {
            shelf.table(&mut self.table);
        }
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::{ids::ProxyId, overlay::MemberState};

    use super::{super::table::tests::record, *};

    fn records() -> Vec<MemberRecord> {
        let of = |n| record(&format!("p{n}"), &format!("c{}", n / 5), 1, MemberState::Up);
        (0..50).map(of).collect()
    }

    #[test]
    fn a_snapshot_survives_being_written_and_read() {
        let snapshot = MembersSnapshot::of(records(), &[]);
        let again = MembersSnapshot::from_updates(&snapshot.to_updates());
        assert_eq!(again.table, snapshot.table);
        assert_eq!(again.ring, snapshot.ring);
    }

    #[test]
    fn equal_tables_become_one_and_different_ones_stay_what_they_are() {
        let mut shelf = Shelf::default();
        let mut one = MembersSnapshot::of(records(), &[]).table;
        let mut two = MembersSnapshot::of(records(), &[]).table;
        let mut other = MembersSnapshot::of(records(), &[]).table;
        let dead = Member::of(&record("p7", "c1", 1, MemberState::Down));
        Arc::make_mut(&mut other).put("c1", vec![dead]);
        let looks = |table: &Table| (table.root(), table.known(), table.living());
        let before = looks(&other);
        for table in [&mut one, &mut two, &mut other] {
            shelf.table(table);
        }
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(looks(&other), before);
        let cluster = |table: &Table, name| table.cluster(ClusterId::of(name)).unwrap().clone();
        assert!(Arc::ptr_eq(&cluster(&one, "c3"), &cluster(&other, "c3")));
        assert!(!other.is_alive(ProxyId::of("p7")));
    }
}
