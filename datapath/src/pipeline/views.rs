//! What an operator sees of a pipeline's tables.

use std::net::SocketAddr;

use pias_protocol::{
    forwarding::TargetState,
    group::GroupKey,
    hash::FlowKey,
    ids::{ProxyId, TargetId},
    time::Time,
};
use serde::Serialize;

use super::Pipeline;
use crate::{
    classify::is_host,
    explain::{Explanation, Step},
    flow::Phase,
    slots::Handle,
    table::{Choice, Peer, Place},
};

/// How full the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Flows pinned here as an ingress.
    pub ingress_flows: usize,
    /// Flows NATed here as a JAP.
    pub nat_flows: usize,
    /// Of these, flows that were never established.
    pub nat_embryonic: usize,
    /// Flows of mates, held for them.
    pub standby_flows: usize,
    /// Packets that wait for the overlay.
    pub parked: usize,
    /// Fragments that wait for their first.
    pub fragments_held: usize,
}

/// A flow that passes here, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// Who sends.
    pub client: SocketAddr,
    /// To which group.
    pub group: GroupKey,
    /// What this proxy is to the flow.
    #[serde(flatten)]
    pub role: FlowRole,
    /// Seconds since the flow began here; of one that is held, since its proxy last told of it.
    pub age_s: u64,
    /// Seconds since its last packet; of one that is held, as its age.
    pub idle_s: u64,
}

/// What this proxy is to a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum FlowRole {
    /// The flow enters here.
    Ingress {
        /// Its JAP.
        proxy: ProxyId,
    },
    /// The flow is held for a mate.
    Standby {
        /// The mate.
        proxy: ProxyId,
        /// The target's address.
        target: SocketAddr,
        /// The source that the target sees.
        nat: SocketAddr,
    },
    /// The flow is NATed here.
    Join {
        /// Which target has it.
        lease: TargetId,
        /// The target's address.
        target: SocketAddr,
        /// The source that the target sees.
        nat: SocketAddr,
        /// `datagrams`, `opening`, `open` or `closing`.
        state: &'static str,
    },
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Datagrams => "datagrams",
        Phase::Opening => "opening",
        Phase::Open => "open",
        Phase::Closing => "closing",
    }
}

const fn state_name(state: TargetState) -> &'static str {
    match state {
        TargetState::Up => "up",
        TargetState::Draining => "draining",
        TargetState::Down => "down",
    }
}

impl Pipeline {
    /// How full the tables are.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            ingress_flows: self.pins.count(),
            nat_flows: self.nat.count(),
            nat_embryonic: self.nat.embryonic(),
            standby_flows: self.standby.count(),
            parked: self.parking.count(),
            fragments_held: self.fragments.held(),
        }
    }

    /// Up to `limit` flows of these groups, or of all if there are none: those NATed here first, then
    /// those that enter here, then those held.
    #[must_use]
    pub fn flows(&self, groups: &[GroupKey], limit: usize, now: Time) -> Vec<FlowView> {
        let joined = self.nat.iter().map(|flow| FlowView {
            client: flow.key.client,
            group: flow.key.group,
            role: FlowRole::Join {
                lease: flow.lease,
                target: flow.address,
                nat: flow.nat,
                state: phase_name(flow.phase),
            },
            age_s: flow.created.age(now).as_secs(),
            idle_s: flow.last.age(now).as_secs(),
        });
        let entered = self.pins.iter().filter_map(|flow| {
            Some(FlowView {
                client: flow.key.client,
                group: flow.key.group,
                role: FlowRole::Ingress { proxy: self.pinned_to(flow.peer)?.id },
                age_s: flow.created.age(now).as_secs(),
                idle_s: flow.last.age(now).as_secs(),
            })
        });
        let held = self.standby.iter().map(|held| {
            let told_s = now.since(held.told).as_secs();
            FlowView {
                client: held.record.key.client,
                group: held.record.key.group,
                role: FlowRole::Standby {
                    proxy: held.of,
                    target: held.record.target,
                    nat: held.record.nat,
                },
                age_s: told_s,
                idle_s: told_s,
            }
        });
        let wanted = |flow: &FlowView| groups.is_empty() || groups.contains(&flow.group);
        joined.chain(entered).chain(held).filter(wanted).take(limit).collect()
    }

    /// Where a packet of this client to this group would go that entered here now and may open a
    /// flow, and why. Changes nothing.
    #[must_use]
    pub fn explain(&self, client: SocketAddr, group: GroupKey, now: Time) -> Explanation {
        let mut steps = Vec::new();
        if let Some(step) = self.explain_address(client, &group) {
            steps.push(step);
        } else {
            self.explain_ingress(&FlowKey { client, group }, now, &mut steps);
        }
        Explanation { client, group, steps }
    }

    fn explain_address(&self, client: SocketAddr, group: &GroupKey) -> Option<Step> {
        if !self.prefixes.contains(group.address) {
            Some(Step::NotAnycast)
        } else if !is_host(client.ip())
            || self.is_ours(client.ip())
            || client.is_ipv4() != group.address.is_ipv4()
        {
            Some(Step::BadSource)
        } else if super::is_registration(group) {
            Some(Step::Registration)
        } else {
            None
        }
    }

    fn explain_ingress(&self, key: &FlowKey, now: Time, steps: &mut Vec<Step>) {
        if let Some(flow) = self.pins.get(key)
            && let Some(peer) = self.pinned_to(flow.peer)
        {
            let idle_ms = flow.last.age(now).as_millis() as u64;
            steps.push(Step::Pinned { proxy: peer.id, idle_ms });
            steps.push(Step::Tunnel { proxy: peer.id, address: peer.tunnel });
            return;
        }
        steps.push(Step::NotPinned);
        if self.nat.forward(key).is_some() {
            return self.explain_join(key, steps);
        }
        self.explain_candidates(key, steps);
        match self.table.place(&key.group, key.hash()) {
            Place::Here => {
                steps.push(Step::Chosen { proxy: self.config.self_id });
                self.explain_join(key, steps);
            }
            Place::Join(handle) => {
                if let Some(peer) = self.table.peer(handle) {
                    steps.push(Step::Chosen { proxy: peer.id });
                    steps.push(Step::Tunnel { proxy: peer.id, address: peer.tunnel });
                }
            }
            Place::Rendezvous(handle) => {
                if let Some(peer) = self.table.peer(handle) {
                    steps.push(Step::Rendezvous { proxy: peer.id });
                    steps.push(Step::Tunnel { proxy: peer.id, address: peer.tunnel });
                }
            }
            Place::Refuse => steps.push(Step::Refused),
            Place::Missed => steps.push(Step::Missed),
        }
    }

    /// Where a flow that is pinned to a JAP goes: there, or to that one's heir.
    fn pinned_to(&self, jap: Handle) -> Option<&Peer> {
        let heir = || match self.table.heir_of(jap)? {
            Place::Join(heir) => self.table.peer(heir),
            _ => None,
        };
        self.table.peer(jap).or_else(heir)
    }

    fn explain_candidates(&self, key: &FlowKey, steps: &mut Vec<Step>) {
        use pias_protocol::forwarding::IngressEntry;
        let Some(IngressEntry::Candidates(list)) = self.table.group(&key.group).map(|g| &g.entry)
        else {
            return;
        };
        steps.extend(list.iter().map(|candidate| Step::Candidate {
            proxy: candidate.proxy,
            tier: candidate.tier,
            weight: candidate.weight,
            live: self.table.is_live(candidate.proxy),
        }));
        steps.extend(list.iter().filter(|c| !self.table.is_live(c.proxy)).filter_map(|c| {
            let heir = self.table.stand_in(c.proxy)?;
            Some(Step::StandsIn { dead: c.proxy, heir })
        }));
        if !list.iter().any(|candidate| self.table.stand_in(candidate.proxy).is_some()) {
            steps.push(Step::NoLiveCandidate);
        }
    }

    fn explain_join(&self, key: &FlowKey, steps: &mut Vec<Step>) {
        steps.push(Step::JoinHere);
        let known = self.nat.forward(key).and_then(|handle| self.nat.get(handle));
        if let Some(flow) = known
            && self.goes_on(&flow)
        {
            steps.push(Step::KnownFlow {
                target: flow.lease,
                address: flow.address,
                nat: flow.nat,
            });
            return;
        }
        steps.extend(self.table.targets_of(&key.group).map(|(_, target)| Step::Target {
            target: target.id,
            address: target.address,
            weight: target.weight,
            state: state_name(target.state),
            sender: target.address.ip() == key.client.ip(),
        }));
        let chosen = match self.table.choose_target(&key.group, key.client, key.hash()) {
            Choice::Target(handle) => self.table.target(handle),
            Choice::NoTarget | Choice::OnlySender => None,
        };
        steps.push(chosen.map_or(Step::SecondChance, |entry| Step::Delivered {
            target: entry.target.id,
            address: entry.target.address,
        }));
    }
}
