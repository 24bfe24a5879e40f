//! What all three roles look at: who takes part, who is responsible for what, and how far it is.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pias_protocol::{
    group::GroupKey,
    ids::{ClusterId, ProxyId},
};

use crate::{
    config::Policy, membership::Membership, proximity::Distances, ring::Ring, view::CandidateView,
};
use pias_protocol::placement::Candidate;

/// The common knowledge of one node.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) own: ProxyId,
    pub(crate) cluster: ClusterId,
    pub(crate) members: Membership,
    pub(crate) ring: Ring,
    pub(crate) distances: Distances,
    pub(crate) policies: BTreeMap<SocketAddr, Policy>,
}

impl World {
    /// The policy of a group.
    pub(crate) fn policy(&self, group: &GroupKey) -> Policy {
        self.policies.get(&group.socket()).copied().unwrap_or_default()
    }

    /// Whether this proxy is a RAP of the group.
    pub(crate) fn responsible(&self, group: &GroupKey) -> bool {
        self.ring.raps(group).contains(&self.own)
    }

    /// The RAPs of a group in the order in which this proxy asks them: itself, then by the distance
    /// of their clusters as published, so that mates ask the same one.
    pub(crate) fn raps_by_distance(&self, group: &GroupKey) -> Vec<ProxyId> {
        let mut raps = self.ring.raps(group);
        raps.sort_by_key(|&rap| {
            let cluster = self.members.cluster(rap);
            let distance = cluster.and_then(|c| self.distances.between(self.cluster, c));
            (rap != self.own, distance.is_none(), distance)
        });
        raps
    }

    /// How long to wait for an answer of a proxy: three round trips, at least `least`.
    pub(crate) fn patience(&self, proxy: ProxyId, least: Duration) -> Duration {
        self.members.rtt(proxy).map_or(least, |rtt| (rtt * 3).max(least))
    }

    /// A proxy's name, or its id where it is not known any more.
    pub(crate) fn name(&self, proxy: ProxyId) -> String {
        self.members.names(proxy).map_or_else(|| proxy.to_string(), |(name, _)| name.to_owned())
    }

    /// A candidate, for people.
    pub(crate) fn candidate(&self, candidate: &Candidate) -> CandidateView {
        let cluster = self.members.names(candidate.proxy).map(|(_, cluster)| cluster.to_owned());
        CandidateView {
            proxy: self.name(candidate.proxy),
            cluster: cluster.unwrap_or_default(),
            tier: candidate.tier,
            weight: candidate.weight,
        }
    }
}
