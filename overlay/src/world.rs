//! What all three roles look at: who takes part, who is responsible for what, and how far it is.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pias_protocol::{
    group::GroupKey,
    hash,
    ids::{ClusterId, ProxyId},
    placement::Candidate,
    time::Time,
};

use crate::{
    config::Policy,
    limits::MAX_HEIR_CHAIN,
    membership::Membership,
    proximity::{self, Distances},
    ring::Ring,
    select::Distance,
    timing::{DISTRUST, STANDS_IN},
    view::CandidateView,
};

/// The common knowledge of one node.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) own: ProxyId,
    pub(crate) cluster: ClusterId,
    pub(crate) members: Membership,
    pub(crate) ring: Ring,
    pub(crate) distances: Distances,
    pub(crate) policies: BTreeMap<SocketAddr, Policy>,
    /// Who stood in for a proxy when it died, and when that was.
    pub(crate) heirs: BTreeMap<ProxyId, (ProxyId, Time)>,
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

    /// Round-trip time between two clusters in units of 0.1 ms, by what they published.
    pub(crate) fn distance(&self, a: ClusterId, b: ClusterId) -> Option<Distance> {
        if a == b {
            return Some(0);
        }
        Some(proximity::distance(self.members.coordinate(a)?, self.members.coordinate(b)?))
    }

    /// The RAPs of a group in the order in which this proxy asks them: itself, then by the distance
    /// of their clusters as published, so that mates ask the same one.
    pub(crate) fn raps_by_distance(&self, group: &GroupKey) -> Vec<ProxyId> {
        let mut raps = self.ring.raps(group);
        raps.sort_by_key(|&rap| {
            let cluster = self.members.cluster(rap);
            let distance = cluster.and_then(|c| self.distance(self.cluster, c));
            (rap != self.own, distance.is_none(), distance)
        });
        raps
    }

    /// The other live proxies of this one's cluster.
    pub(crate) fn mates(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.members.mates()
    }

    /// Whether a proxy is another one of this cluster, as far as is known.
    pub(crate) fn is_mate(&self, id: ProxyId) -> bool {
        id != self.own && self.members.cluster(id) == Some(self.cluster)
    }

    /// The mate that inherits what a proxy held when it dies: of its cluster's live proxies the one
    /// that the hash of both names likes best, one that does not drain if there is any. Every proxy
    /// of every cluster that sees the same proxies alive names the same one, without a word.
    pub(crate) fn heir(&self, dead: ProxyId) -> Option<ProxyId> {
        let cluster = self.members.cluster(dead)?;
        let mates = self.members.alive_in(cluster).filter(|&mate| mate != dead);
        mates.max_by_key(|&mate| (self.members.is_up(mate), hash::mix(dead.0, mate.0), mate))
    }

    /// A proxy died: who stands in for it from now on.
    pub(crate) fn died(&mut self, dead: ProxyId, now: Time) -> Option<ProxyId> {
        let heir = self.heir(dead);
        self.heirs.retain(|_, &mut (_, since)| now - since < STANDS_IN);
        self.heirs.remove(&dead);
        if let Some(heir) = heir {
            self.heirs.insert(dead, (heir, now));
        }
        heir
    }

    /// The proxy itself if it lives, else who stands in for it: the heir at its death, or that
    /// one's. The datapath follows the same chain.
    pub(crate) fn stand_in(&self, proxy: ProxyId) -> Option<ProxyId> {
        let line = std::iter::successors(Some(proxy), |id| Some(self.heirs.get(id)?.0));
        line.take(MAX_HEIR_CHAIN).find(|&id| self.members.is_alive(id))
    }

    /// Whether a proxy stands in for another for so short a time that it may not know it yet.
    pub(crate) fn is_new_heir(&self, proxy: ProxyId, now: Time) -> bool {
        self.heirs.values().any(|&(heir, since)| heir == proxy && now - since < DISTRUST)
    }

    /// How long to wait for an answer of a proxy: three round trips, measured or foretold, at least
    /// `least`.
    pub(crate) fn patience(&self, proxy: ProxyId, least: Duration) -> Duration {
        let foretold = || {
            let distance = self.distance(self.cluster, self.members.cluster(proxy)?)?;
            Some(Duration::from_micros(u64::from(distance) * 100))
        };
        let rtt = self.members.rtt(proxy).or_else(foretold);
        rtt.map_or(least, |rtt| (rtt * 3).max(least))
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

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::{MemberRecord, MemberState, MemberUpdate};

    use super::*;
    use crate::{Node, NodeConfig};

    const MATES: [&str; 3] = ["fra1", "fra2", "fra3"];

    /// What `own`, a proxy at `cluster`, knows after the news of these proxies of Frankfurt.
    fn knowing(own: &str, cluster: &str, states: &[(&str, MemberState)]) -> Node {
        let config = NodeConfig {
            name: own.into(),
            cluster: cluster.into(),
            unicast: vec!["198.51.100.1".parse().unwrap()],
            nat: Vec::new(),
            anycast: vec!["203.0.113.0/24".parse().unwrap()],
            seeds: Vec::new(),
            heartbeat: crate::DEFAULT_HEARTBEAT,
            policies: BTreeMap::new(),
            drain_wait: Duration::from_secs(5),
            incarnation: 1,
        };
        let mut node = Node::new(config, 1, Time::ZERO);
        for state in [None, Some(())] {
            let record = |&(name, later): &(&str, MemberState)| MemberRecord {
                name: name.into(),
                cluster: "fra".into(),
                unicast: vec![[198, 51, 100, 100 + name.as_bytes()[3]].into()],
                nat: Vec::new(),
                incarnation: 1,
                state: state.map_or(MemberState::Up, |()| later),
            };
            let others = states.iter().filter(|(name, _)| *name != own);
            let members = others.map(record).collect();
            let update = MemberUpdate { pushed: true, members, clusters: vec![] };
            node.handle_message(ProxyId::of("fra9"), update.into(), Time::ZERO);
        }
        node
    }

    fn heir(node: &Node, dead: &str) -> Option<ProxyId> {
        node.world.heir(ProxyId::of(dead))
    }

    #[test]
    fn every_proxy_of_every_cluster_names_the_same_heir() {
        use MemberState::{Down, Up};
        for dead in MATES {
            let states = MATES.map(|name| (name, if name == dead { Down } else { Up }));
            let afar = heir(&knowing("nyc1", "nyc", &states), dead);
            assert!(afar.is_some_and(|heir| heir != ProxyId::of(dead)));
            for mate in MATES.into_iter().filter(|mate| *mate != dead) {
                assert_eq!(heir(&knowing(mate, "fra", &states), dead), afar, "{mate}");
            }
        }
    }

    #[test]
    fn a_proxy_knows_its_own_heir_while_it_lives() {
        let states = MATES.map(|name| (name, MemberState::Up));
        let own = heir(&knowing("fra1", "fra", &states), "fra1");
        assert_eq!(own, heir(&knowing("nyc1", "nyc", &states), "fra1"));
        assert_ne!(own, Some(ProxyId::of("fra1")));
    }

    #[test]
    fn the_draining_inherit_only_where_nobody_else_is_left() {
        use MemberState::{Down, Draining, Up};
        let dead = ProxyId::of("fra1");
        let by_rank = |mate: &&str| hash::mix(dead.0, ProxyId::of(mate).0);
        let first = MATES[1..].iter().copied().max_by_key(by_rank).unwrap();
        let second = MATES[1..].iter().copied().min_by_key(by_rank).unwrap();
        let states = |one, other| [("fra1", Down), (first, one), (second, other)];
        let heir = |states: &[_]| heir(&knowing("nyc1", "nyc", states), "fra1");
        assert_eq!(heir(&states(Up, Up)), Some(ProxyId::of(first)));
        assert_eq!(heir(&states(Draining, Up)), Some(ProxyId::of(second)));
        assert_eq!(heir(&states(Draining, Down)), Some(ProxyId::of(first)));
        assert_eq!(heir(&states(Down, Down)), None);
    }
}
