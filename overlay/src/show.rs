//! What a node shows of itself.

use std::{collections::BTreeMap, net::SocketAddr};

use pias_protocol::{
    group::GroupKey,
    hash::FlowKey,
    placement::{self, Candidate},
    time::Time,
};

use crate::{
    node::Node,
    view::{ExplainView, GroupDetailView, GroupView, ProxyView, StatusView, TargetView},
};

impl Node {
    /// The node as a whole.
    #[must_use]
    pub fn status(&self) -> StatusView {
        let members = &self.world.members;
        let own = members.own();
        StatusView {
            name: own.name.clone(),
            cluster: own.cluster.clone(),
            state: match (self.is_draining(), self.ready) {
                (true, _) => "draining",
                (false, true) => "up",
                (false, false) => "starting",
            },
            ready: self.ready,
            incarnation: own.incarnation,
            proxies_alive: members.living(),
            proxies_known: members.known(),
            clusters: members.live_clusters(),
            ingress_groups: self.ingress.len(),
            rendezvous_groups: self.rendezvous.len(),
            agents: self.join.agents(),
            targets: self.join.len(),
            counters: self.out.counters,
        }
    }

    /// All known proxies, by cluster and name.
    #[must_use]
    pub fn proxies(&self, now: Time) -> Vec<ProxyView> {
        self.world.members.view(now)
    }

    /// All groups that this proxy has to do with.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupView> {
        let mut targets: BTreeMap<GroupKey, usize> = BTreeMap::new();
        for (group, _) in self.join.groups() {
            *targets.entry(group).or_default() += 1;
        }
        for &group in self.ingress.groups().chain(self.rendezvous.groups()) {
            targets.entry(group).or_default();
        }
        targets.into_iter().map(|(group, targets)| self.summary(&group, targets)).collect()
    }

    fn summary(&self, group: &GroupKey, targets: usize) -> GroupView {
        let candidates = self.ingress.candidates(group);
        GroupView {
            group: group.to_string(),
            ingress: self.ingress.state(group),
            candidates: candidates.iter().map(|c| self.world.candidate(c)).collect(),
            rendezvous: self.world.responsible(group),
            targets,
        }
    }

    /// All about one group; also of one that nothing is known of but its RAPs.
    #[must_use]
    pub fn group(&self, group: &GroupKey, now: Time) -> GroupDetailView {
        let world = &self.world;
        let local = self.join.view(Some(*group), now);
        GroupDetailView {
            summary: self.summary(group, local.len()),
            policy: world.policy(group),
            raps: world.ring.raps(group).into_iter().map(|rap| world.name(rap)).collect(),
            asks: world.raps_by_distance(group).first().map(|&rap| world.name(rap)),
            counts: self.rendezvous.counts(group, world, now),
            askers: self.rendezvous.askers(group).into_iter().map(|id| world.name(id)).collect(),
            local,
        }
    }

    /// All targets registered here.
    #[must_use]
    pub fn targets(&self, now: Time) -> Vec<TargetView> {
        self.join.view(None, now)
    }

    /// Where a packet from `client` to `group` would go that enters here, and why.
    #[must_use]
    pub fn explain(&self, group: &GroupKey, client: Option<SocketAddr>) -> ExplainView {
        let world = &self.world;
        let asks = world.raps_by_distance(group).first().copied();
        let mut steps = Vec::new();
        let list = match (self.ingress.state(group), asks) {
            (Some("candidates"), _) => {
                steps.push("an ingress entry is here: the packet goes straight to a JAP".into());
                self.ingress.candidates(group).to_vec()
            }
            (Some("refused"), _) => {
                steps.push("a RAP said that nobody serves the group: the packet is refused".into());
                Vec::new()
            }
            (_, Some(rap)) if rap == world.own => {
                steps.push("no ingress entry, but this proxy is a RAP of the group".into());
                self.rendezvous.list(group, world.cluster, world)
            }
            (_, Some(rap)) => {
                let name = world.name(rap);
                steps.push(format!("no list here: the packet goes to RAP {name}, the nearest one"));
                Vec::new()
            }
            (_, None) => {
                steps.push("no RAP: the ring is empty".into());
                Vec::new()
            }
        };
        let order = self.explain_order(&list, group, client, &mut steps);
        ExplainView {
            group: group.to_string(),
            policy: world.policy(group),
            raps: world.ring.raps(group).into_iter().map(|rap| world.name(rap)).collect(),
            order: order.iter().map(|c| world.candidate(c)).collect(),
            steps,
        }
    }

    /// The order in which a flow tries a list, and a sentence for its first choice.
    fn explain_order(
        &self,
        list: &[Candidate],
        group: &GroupKey,
        client: Option<SocketAddr>,
        steps: &mut Vec<String>,
    ) -> Vec<Candidate> {
        let order = match client {
            Some(client) => placement::order(list, FlowKey { client, group: *group }.hash()),
            None => list.to_vec(),
        };
        if let Some(first) = order.first() {
            let name = self.world.name(first.proxy);
            let tier = list.iter().filter(|c| c.tier == first.tier).count();
            steps.push(if client.is_some() {
                format!("JAP {name} wins the draw among {tier} of tier {}", first.tier)
            } else {
                format!("tier {} is drawn from first: {tier} JAPs", first.tier)
            });
            if first.proxy == self.world.own {
                steps.push("which is this proxy: it delivers to a target of its own".into());
            }
        }
        order
    }
}
