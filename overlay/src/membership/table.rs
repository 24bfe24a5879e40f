//! What is believed of everybody: clusters and their members, behind one shared pointer.
//!
//! ```text
//!  Arc<Table> ─┬─ clusters: [Arc<Cluster>] by id ── members: [Member] by id ── Arc<Identity>
//!              ├─ index:    Arc<[(proxy, cluster)]> by proxy
//!              └─ root:     hash of all, and how many live
//! ```
//! A change copies what it touches: one cluster's few entries and the list of clusters. So many
//! nodes of one process (a simulation) can hold one table, and a proxy of 20,000 needs 4 MiB for it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    overlay::{ClusterKey, ClusterRecord, Coordinate, MemberKey, MemberRecord, MemberState},
};

use super::{digest, merge::alive};

/// Addresses of a proxy, at most one a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Of several of one family the last counts.
    pub(crate) fn of(list: &[IpAddr]) -> Self {
        let mut addresses = Self::default();
        for address in list {
            match address {
                IpAddr::V4(v4) => addresses.v4 = Some(*v4),
                IpAddr::V6(v6) => addresses.v6 = Some(*v6),
            }
        }
        addresses
    }

    /// IPv4 first.
    pub(crate) fn to_vec(self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)).collect()
    }

    /// Where a proxy with these addresses is reached from one with `own`: over IPv4 if both have it.
    pub(crate) fn from(self, own: Self) -> Option<IpAddr> {
        let v4 = own.v4.and(self.v4).map(IpAddr::V4);
        v4.or_else(|| own.v6.and(self.v6).map(IpAddr::V6))
    }
}

/// What does not change while a proxy runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Arc<str>,
    pub(crate) unicast: Addresses,
    pub(crate) nat: Addresses,
}

/// A proxy, as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: ProxyId,
    pub(crate) incarnation: u64,
    pub(crate) state: MemberState,
    pub(crate) who: Arc<Identity>,
}

impl Member {
    pub(crate) fn of(record: &MemberRecord) -> Self {
        Self {
            id: ProxyId::of(&record.name),
            incarnation: record.incarnation,
            state: record.state,
            who: Arc::new(Identity {
                name: record.name.as_str().into(),
                unicast: Addresses::of(&record.unicast),
                nat: Addresses::of(&record.nat),
            }),
        }
    }

    pub(crate) fn record(&self, cluster: &Cluster) -> MemberRecord {
        MemberRecord {
            name: self.who.name.as_ref().to_owned(),
            cluster: cluster.name.as_ref().to_owned(),
            unicast: self.who.unicast.to_vec(),
            nat: self.who.nat.to_vec(),
            incarnation: self.incarnation,
            state: self.state,
        }
    }

    pub(crate) const fn key(&self) -> MemberKey {
        MemberKey { proxy: self.id, incarnation: self.incarnation, state: self.state }
    }
}

/// The proxies of one POP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) name: Arc<str>,
    /// What is said of the cluster as a whole.
    pub(crate) version: u32,
    pub(crate) down: bool,
    pub(crate) stamp: u32,
    pub(crate) coordinate: Coordinate,
    /// Sorted by id.
    members: Vec<Member>,
    digest: u64,
    /// How many members are alive by their own records.
    standing: u32,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let mut cluster = Self {
            id: ClusterId::of(name),
            name: name.into(),
            version: 0,
            down: false,
            stamp: 0,
            coordinate: Coordinate::default(),
            members: Vec::new(),
            digest: 0,
            standing: 0,
        };
        cluster.seal();
        cluster
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn get(&self, id: ProxyId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        Some(&self.members[at])
    }

    /// The members that live, all things considered.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !self.down && alive(member.state))
    }

    /// How many live.
    pub(crate) const fn living(&self) -> usize {
        if self.down { 0 } else { self.standing as usize }
    }

    /// The members that would live if the cluster did.
    pub(crate) fn standing(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| alive(member.state))
    }

    pub(crate) const fn key(&self) -> ClusterKey {
        ClusterKey { cluster: self.id, version: self.version, down: self.down, stamp: self.stamp }
    }

    pub(crate) const fn record(&self) -> ClusterRecord {
        ClusterRecord {
            cluster: self.id,
            version: self.version,
            down: self.down,
            stamp: self.stamp,
            coordinate: self.coordinate,
        }
    }

    /// The hash of what must be equal everywhere; 0 where nobody lives, so that it does not matter
    /// when the dead are forgotten.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    fn seal(&mut self) {
        self.standing = self.members.iter().filter(|member| alive(member.state)).count() as u32;
        self.digest = if self.living() == 0 { 0 } else { digest::cluster(self) };
    }

    fn put(&mut self, member: Member) {
        match self.members.binary_search_by_key(&member.id, |member| member.id) {
            Ok(at) => self.members[at] = member,
            Err(at) => self.members.insert(at, member),
        }
    }
}

/// Up to so many entries are cheaper to insert one by one.
const FEW: usize = 16;

/// Which cluster a proxy is of, sorted by proxy.
pub(crate) type Index = Vec<(ProxyId, ClusterId)>;

/// All clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    clusters: Vec<Arc<Cluster>>,
    index: Arc<Index>,
    root: u64,
    living: usize,
    live_clusters: usize,
}

impl Table {
    /// The hash of all that must be equal everywhere.
    pub(crate) const fn root(&self) -> u64 {
        self.root
    }

    /// How many proxies live.
    pub(crate) const fn living(&self) -> usize {
        self.living
    }

    /// How many clusters have a live proxy.
    pub(crate) const fn live_clusters(&self) -> usize {
        self.live_clusters
    }

    /// How many proxies are known.
    pub(crate) fn known(&self) -> usize {
        self.index.len()
    }

    /// All known proxies by id, with their clusters.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter()
    }

    pub(crate) fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.position(id).ok().map(|at| &self.clusters[at])
    }

    pub(crate) fn cluster_of(&self, id: ProxyId) -> Option<ClusterId> {
        let at = self.index.binary_search_by_key(&id, |&(proxy, _)| proxy).ok()?;
        Some(self.index[at].1)
    }

    pub(crate) fn get(&self, id: ProxyId) -> Option<(&Arc<Cluster>, &Member)> {
        let cluster = self.cluster(self.cluster_of(id)?)?;
        Some((cluster, cluster.get(id)?))
    }

    /// Whether a proxy lives, all things considered.
    pub(crate) fn is_alive(&self, id: ProxyId) -> bool {
        self.get(id).is_some_and(|(cluster, member)| !cluster.down && alive(member.state))
    }

    /// The other clusters clockwise from one, in the order of ids.
    pub(crate) fn after(&self, id: ClusterId) -> impl Iterator<Item = &Arc<Cluster>> {
        let (here, next) = match self.position(id) {
            Ok(at) => (at, at + 1),
            Err(at) => (at, at),
        };
        self.clusters[next..].iter().chain(&self.clusters[..here])
    }

    /// The other clusters counter-clockwise from one.
    pub(crate) fn before(&self, id: ClusterId) -> impl Iterator<Item = &Arc<Cluster>> {
        let (here, next) = match self.position(id) {
            Ok(at) => (at, at + 1),
            Err(at) => (at, at),
        };
        self.clusters[..here].iter().rev().chain(self.clusters[next..].iter().rev())
    }

    fn position(&self, id: ClusterId) -> Result<usize, usize> {
        self.clusters.binary_search_by_key(&id, |cluster| cluster.id)
    }

    /// Changes a known cluster.
    pub(crate) fn edit(&mut self, id: ClusterId, change: impl FnOnce(&mut Cluster)) {
        if let Ok(at) = self.position(id) {
            self.account(at, false);
            let cluster = Arc::make_mut(&mut self.clusters[at]);
            change(cluster);
            cluster.seal();
            self.account(at, true);
        }
    }

    /// Takes members of one cluster in, in place of what was known of them.
    pub(crate) fn put(&mut self, name: &str, members: Vec<Member>) {
        self.put_all(vec![(name, members)]);
    }

    /// Takes members of several clusters in.
    pub(crate) fn put_all(&mut self, clusters: Vec<(&str, Vec<Member>)>) {
        let mut entries = Index::new();
        let mut left = false;
        for (name, members) in clusters {
            let id = ClusterId::of(name);
            if let Err(at) = self.position(id) {
                self.clusters.insert(at, Arc::new(Cluster::new(name)));
            }
            for member in &members {
                match self.cluster_of(member.id) {
                    Some(old) if old == id => {}
                    Some(old) => {
                        self.edit(old, |cluster| cluster.members.retain(|m| m.id != member.id));
                        left = true;
                        entries.push((member.id, id));
                    }
                    None => entries.push((member.id, id)),
                }
            }
            self.edit(id, |cluster| members.into_iter().for_each(|member| cluster.put(member)));
        }
        self.enter(entries);
        if left {
            // Clusters that proxies left one after the other would add up. Empty ones are in no total.
            self.clusters.retain(|cluster| !cluster.members.is_empty());
        }
    }

    /// Enters proxies into the index.
    fn enter(&mut self, mut entries: Index) {
        if entries.is_empty() {
            return;
        }
        let index = Arc::make_mut(&mut self.index);
        if entries.len() > FEW {
            entries.sort_by_key(|&(proxy, _)| proxy);
            index.retain(|(proxy, _)| entries.binary_search_by_key(proxy, |e| e.0).is_err());
            index.append(&mut entries);
            // A stable sort recognises the two runs, and merges them.
            index.sort_by_key(|&(proxy, _)| proxy);
            index.dedup_by_key(|entry| entry.0);
            return;
        }
        for (proxy, cluster) in entries {
            match index.binary_search_by_key(&proxy, |&(proxy, _)| proxy) {
                Ok(at) => index[at].1 = cluster,
                Err(at) => index.insert(at, (proxy, cluster)),
            }
        }
    }

    /// Forgets members, and clusters that have none left.
    pub(crate) fn forget(&mut self, gone: impl Fn(&Cluster, &Member) -> bool) {
        let mut forgotten = Vec::new();
        for at in (0..self.clusters.len()).rev() {
            let cluster = &self.clusters[at];
            let lost: Vec<_> =
                cluster.members.iter().filter(|m| gone(cluster, m)).map(|m| m.id).collect();
            if lost.is_empty() && !cluster.members.is_empty() {
                continue;
            }
            let id = cluster.id;
            self.edit(id, |cluster| cluster.members.retain(|m| !lost.contains(&m.id)));
            if self.clusters[at].members.is_empty() {
                self.account(at, false);
                self.clusters.remove(at);
            }
            forgotten.extend(lost);
        }
        if !forgotten.is_empty() {
            forgotten.sort_unstable();
            let still = |id: &ProxyId| forgotten.binary_search(id).is_err();
            Arc::make_mut(&mut self.index).retain(|(proxy, _)| still(proxy));
        }
    }

    /// Adds a cluster to the totals, or takes it out of them.
    fn account(&mut self, at: usize, add: bool) {
        let cluster = &self.clusters[at];
        let (living, live) = (cluster.living(), usize::from(cluster.living() > 0));
        self.root ^= digest::placed(cluster);
        if add {
            self.living += living;
            self.live_clusters += live;
        } else {
            self.living -= living;
            self.live_clusters -= live;
        }
    }

    /// Uses another equal cluster's memory.
    pub(super) fn clusters_mut(&mut self) -> &mut [Arc<Cluster>] {
        &mut self.clusters
    }

    pub(super) fn shared_index(&self) -> Arc<Index> {
        self.index.clone()
    }

    /// Uses another equal index's memory.
    pub(super) fn index_mut(&mut self) -> &mut Arc<Index> {
        &mut self.index
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::membership) fn record(
        name: &str,
        cluster: &str,
        incarnation: u64,
        state: MemberState,
    ) -> MemberRecord {
        let host = ProxyId::of(name).0.to_be_bytes();
        MemberRecord {
            name: name.into(),
            cluster: cluster.into(),
            unicast: vec![IpAddr::from([10, host[0], host[1], host[2]])],
            nat: vec![],
            incarnation,
            state,
        }
    }

    pub(in crate::membership) fn filled(records: &[MemberRecord]) -> Table {
        let mut table = Table::default();
        for record in records {
            table.put(&record.cluster, vec![Member::of(record)]);
        }
        table
    }

    #[test]
    fn a_proxy_is_reached_over_the_older_family_where_both_have_it() {
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        let four: IpAddr = "192.0.2.1".parse().unwrap();
        let both = Addresses::of(&[six, four]);
        assert_eq!(both.from(both), Some(four));
        assert_eq!(both.from(Addresses::of(&[six])), Some(six));
        assert_eq!(both.from(Addresses::default()), None);
        assert_eq!(both.to_vec(), [four, six]);
    }

    #[test]
    fn a_proxy_that_moves_to_another_cluster_is_of_one_only() {
        let mut table = filled(&[record("a", "x", 1, MemberState::Up)]);
        table.put("y", vec![Member::of(&record("a", "y", 2, MemberState::Up))]);
        assert_eq!(table.cluster_of(ProxyId::of("a")), Some(ClusterId::of("y")));
        assert_eq!((table.living(), table.known(), table.live_clusters()), (1, 1, 1));
        assert_eq!(table.clusters().count(), 1, "a cluster that everybody left is not kept");
    }

    #[test]
    fn a_cluster_that_is_down_has_nobody_alive_and_does_not_count() {
        let mut table =
            filled(&[record("a1", "a", 1, MemberState::Up), record("b1", "b", 1, MemberState::Up)]);
        let alone = filled(&[record("b1", "b", 1, MemberState::Up)]);
        table.edit(ClusterId::of("a"), |cluster| {
            cluster.version += 1;
            cluster.down = true;
        });
        assert!(!table.is_alive(ProxyId::of("a1")));
        assert_eq!((table.living(), table.live_clusters()), (1, 1));
        assert_eq!(table.root(), alone.root(), "who forgot it agrees with who did not");
    }

    #[test]
    fn the_forgotten_leave_no_trace() {
        let kept = [record("a1", "a", 1, MemberState::Up), record("c1", "c", 1, MemberState::Up)];
        let mut table = filled(&kept);
        table.put("a", vec![Member::of(&record("a2", "a", 1, MemberState::Down))]);
        table.put("b", vec![Member::of(&record("b1", "b", 1, MemberState::Left))]);
        table.forget(|_, member| !alive(member.state));
        assert_eq!(table, filled(&kept));
    }

    proptest! {
        #[test]
        fn the_totals_follow_from_what_is_in_the_table(
            changes in prop::collection::vec((0_u8..12, 0_u8..4, 0_u64..3, 0_u8..5), 1..60),
        ) {
            let states = [MemberState::Up, MemberState::Draining, MemberState::Down, MemberState::Left];
            let mut table = Table::default();
            for (proxy, cluster, incarnation, state) in changes {
                let (name, cluster) = (format!("p{proxy}"), format!("c{cluster}"));
                match states.get(usize::from(state)) {
                    Some(&state) => {
                        let member = Member::of(&record(&name, &cluster, incarnation, state));
                        table.put(&cluster, vec![member]);
                    }
                    None => table.edit(ClusterId::of(&cluster), |c| c.down = !c.down),
                }
            }
            let living = table.clusters().flat_map(|c| c.alive()).count();
            let clusters = table.clusters().filter(|c| c.alive().count() > 0).count();
            let root = table.clusters().fold(0, |root, c| root ^ digest::placed(c));
            prop_assert_eq!(table.living(), living);
            prop_assert_eq!(table.live_clusters(), clusters);
            prop_assert_eq!(table.root(), root);
            let mut index: Vec<_> =
                table.clusters().flat_map(|c| c.members().iter().map(|m| (m.id, c.id))).collect();
            index.sort_unstable();
            prop_assert_eq!(&index, table.index());
        }
    }
}
