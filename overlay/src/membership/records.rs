//! Records in messages: as many as fit, those of a cluster never without its members' cluster.

use std::collections::BTreeMap;

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    limits::MAX_MEMBERS_PER_MESSAGE,
    overlay::{ClusterRecord, MemberRecord, MemberUpdate},
};

use super::{
    spread::Subject,
    table::{Cluster, Table},
};
use crate::limits::MAX_CLUSTERS_PER_UPDATE;

/// Collects records into messages.
struct Packer {
    pushed: bool,
    full: Vec<MemberUpdate>,
    current: MemberUpdate,
}

impl Packer {
    fn new(pushed: bool) -> Self {
        let current = MemberUpdate { pushed, ..MemberUpdate::default() };
        Self { pushed, full: Vec::new(), current }
    }

    fn next(&mut self) {
        let fresh = MemberUpdate { pushed: self.pushed, ..MemberUpdate::default() };
        self.full.push(std::mem::replace(&mut self.current, fresh));
    }

    fn cluster(&mut self, record: ClusterRecord) {
        if self.current.clusters.len() >= MAX_CLUSTERS_PER_UPDATE {
            self.next();
        }
        self.current.clusters.push(record);
    }

    fn member(&mut self, record: MemberRecord) {
        if self.current.members.len() >= MAX_MEMBERS_PER_MESSAGE {
            self.next();
        }
        self.current.members.push(record);
    }

    fn finish(mut self) -> Vec<MemberUpdate> {
        if !self.current.clusters.is_empty() || !self.current.members.is_empty() {
            self.next();
        }
        self.full
    }
}

/// The records of some subjects.
pub(super) fn named(table: &Table, subjects: &[Subject], pushed: bool) -> Vec<MemberUpdate> {
    let mut packer = Packer::new(pushed);
    for &subject in subjects {
        match subject {
            Subject::Cluster(id) => {
                if let Some(cluster) = table.cluster(id) {
                    packer.cluster(cluster.record());
                }
            }
            Subject::Member(id) => {
                if let Some((cluster, member)) = table.get(id) {
                    packer.member(member.record(cluster));
                }
            }
        }
    }
    packer.finish()
}

/// All records of the living.
pub(super) fn all(table: &Table) -> Vec<MemberUpdate> {
    let mut packer = Packer::new(false);
    for cluster in table.clusters().filter(|cluster| cluster.living() > 0) {
        // Behind its members: a cluster is known by them.
        for member in cluster.alive() {
            packer.member(member.record(cluster));
        }
        if told_of(cluster) {
            packer.cluster(cluster.record());
        }
    }
    packer.finish()
}

/// Whether there is anything to say of a cluster itself.
fn told_of(cluster: &Cluster) -> bool {
    cluster.version > 0 || cluster.stamp > 0
}

/// Members by cluster, in the order of a message. Of several records of one proxy, which an honest
/// sender does not send, the newest counts: it must not get into two clusters.
pub(super) fn by_cluster(members: &[MemberRecord]) -> BTreeMap<ClusterId, Vec<&MemberRecord>> {
    let age = |member: &MemberRecord| (member.incarnation, member.state);
    let mut newest: BTreeMap<ProxyId, &MemberRecord> = BTreeMap::new();
    for member in members {
        let known = newest.entry(ProxyId::of(&member.name)).or_insert(member);
        if age(member) > age(known) {
            *known = member;
        }
    }
    let mut clusters: BTreeMap<ClusterId, Vec<&MemberRecord>> = BTreeMap::new();
    for member in members {
        if std::ptr::eq(newest[&ProxyId::of(&member.name)], member) {
            clusters.entry(ClusterId::of(&member.cluster)).or_default().push(member);
        }
    }
    clusters
}
