//! What the rest of the brain asks membership.

use std::{net::IpAddr, sync::Arc, time::Duration};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    overlay::{Coordinate, MemberRecord, MemberState},
    time::Time,
};

use super::{
    Membership,
    merge::alive,
    spread::Subject,
    table::{Cluster, Member, Table},
};
use crate::view::{ProxyView, member_state};

impl Membership {
    /// What this proxy says of itself.
    pub(crate) const fn own(&self) -> &MemberRecord {
        &self.own
    }

    /// Whether any other proxy told what it knows.
    pub(crate) const fn in_touch(&self) -> bool {
        self.in_touch
    }

    /// Whether another proxy knew the same at some time: what a newcomer has to learn, it has.
    pub(crate) const fn synced(&self) -> bool {
        self.synced
    }

    pub(crate) const fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The live proxies, this one among them, with their clusters.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (ProxyId, ClusterId)> + '_ {
        self.table.clusters().flat_map(|c| c.alive().map(|member| (member.id, c.id)))
    }

    /// The live proxies of a cluster.
    pub(crate) fn alive_in(&self, cluster: ClusterId) -> impl Iterator<Item = ProxyId> + '_ {
        let cluster = self.table.cluster(cluster).into_iter();
        cluster.flat_map(|cluster| cluster.alive()).map(|member| member.id)
    }

    /// The live proxies of the own cluster but this one.
    pub(crate) fn mates(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.alive_in(self.cluster).filter(|&id| id != self.own_id)
    }

    /// How many proxies live, this one among them.
    pub(crate) fn living(&self) -> usize {
        self.table.living()
    }

    /// How many clusters have a live proxy.
    pub(crate) fn live_clusters(&self) -> usize {
        self.table.live_clusters()
    }

    /// Whether a proxy takes part; this one does.
    pub(crate) fn is_alive(&self, id: ProxyId) -> bool {
        id == self.own_id || self.table.is_alive(id)
    }

    /// Whether a proxy takes new groups and targets.
    pub(crate) fn is_up(&self, id: ProxyId) -> bool {
        self.table.get(id).is_some_and(|(c, m)| !c.down && m.state == MemberState::Up)
    }

    /// The cluster of a known proxy.
    pub(crate) fn cluster(&self, id: ProxyId) -> Option<ClusterId> {
        self.table.cluster_of(id)
    }

    /// The measured round-trip time to a proxy.
    pub(crate) fn rtt(&self, id: ProxyId) -> Option<Duration> {
        self.peers.get(&id)?.rtt
    }

    /// The NAT addresses of a known proxy.
    pub(crate) fn nat(&self, id: ProxyId) -> Vec<IpAddr> {
        self.table.get(id).map_or_else(Vec::new, |(_, member)| member.who.nat.to_vec())
    }

    /// Name and cluster of a known proxy, for people.
    pub(crate) fn names(&self, id: ProxyId) -> Option<(&str, &str)> {
        let (cluster, member) = self.table.get(id)?;
        Some((&member.who.name, &cluster.name))
    }

    /// Where to send what is meant for a proxy: name and address.
    pub(crate) fn contact(&self, id: ProxyId) -> Option<(Arc<str>, IpAddr)> {
        if let Some((_, member)) = self.table.get(id) {
            let address = member.who.unicast.from(self.addresses)?;
            return Some((member.who.name.clone(), address));
        }
        self.seeds.get(&id).cloned()
    }

    /// How many proxies are known, this one among them.
    pub(crate) fn known(&self) -> usize {
        self.table.known()
    }

    /// Changes whenever this proxy, or its cluster as a whole, had to deny its death.
    pub(crate) fn denials(&self) -> (u64, u32) {
        let version = self.table.cluster(self.cluster).map_or(0, |cluster| cluster.version);
        (self.own.incarnation, version)
    }

    /// Where a cluster is, as it published.
    pub(crate) fn coordinate(&self, cluster: ClusterId) -> Option<Coordinate> {
        let cluster = self.table.cluster(cluster).filter(|cluster| cluster.stamp > 0)?;
        Some(cluster.coordinate)
    }

    /// The published coordinate of the own cluster.
    pub(crate) fn published(&self) -> Option<Coordinate> {
        self.coordinate(self.cluster)
    }

    /// The proxies that were measured: how far they are, and where they see themselves.
    pub(crate) fn measured(&self) -> impl Iterator<Item = (Duration, Coordinate)> + '_ {
        self.peers.values().filter_map(|peer| Some((peer.rtt?, peer.coordinate?)))
    }

    /// Where this proxy sees itself: told with each answer to a beat.
    pub(crate) const fn locate(&mut self, coordinate: Coordinate) {
        self.coordinate = coordinate;
    }

    /// Whether this proxy speaks for its cluster: one does, that of the lowest id.
    pub(crate) fn speaks(&self) -> bool {
        self.mates().all(|mate| mate > self.own_id)
    }

    /// Publishes the own coordinate as that of the cluster.
    pub(crate) fn publish(&mut self, now: Time) {
        let (own, coordinate) = (self.cluster, self.coordinate);
        self.change().edit(own, |cluster| {
            cluster.stamp = cluster.stamp.saturating_add(1);
            cluster.coordinate = coordinate;
        });
        self.spread.push_later(Subject::Cluster(own), self.own_id, now);
    }

    /// All known proxies by cluster and name, and seeds that never answered.
    pub(crate) fn view(&self, now: Time) -> Vec<ProxyView> {
        let known =
            self.table.clusters().flat_map(|c| c.members().iter().map(|m| self.row(c, m, now)));
        let unknown = self.seeds.iter().filter(|(id, _)| self.table.get(**id).is_none());
        let unknown = unknown.map(|(id, (name, address))| ProxyView {
            name: name.as_ref().to_owned(),
            id: id.to_string(),
            cluster: String::new(),
            state: "unknown",
            unicast: vec![*address],
            nat: Vec::new(),
            incarnation: 0,
            rtt_ms: None,
            heard_ms: None,
            own: false,
        });
        let mut views: Vec<_> = known.chain(unknown).collect();
        views.sort_by(|a, b| (&a.cluster, &a.name).cmp(&(&b.cluster, &b.name)));
        views
    }

    fn row(&self, cluster: &Cluster, member: &Member, now: Time) -> ProxyView {
        let peer = self.peers.get(&member.id);
        let lost = cluster.down && alive(member.state);
        ProxyView {
            name: member.who.name.as_ref().to_owned(),
            id: member.id.to_string(),
            cluster: cluster.name.as_ref().to_owned(),
            state: member_state(if lost { MemberState::Down } else { member.state }),
            unicast: member.who.unicast.to_vec(),
            nat: member.who.nat.to_vec(),
            incarnation: member.incarnation,
            rtt_ms: peer.and_then(|peer| peer.rtt).map(|rtt| rtt.as_secs_f64() * 1_000.0),
            heard_ms: peer.and_then(|p| p.heard).map(|heard| (now - heard).as_millis() as u64),
            own: member.id == self.own_id,
        }
    }
}
