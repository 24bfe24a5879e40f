//! What a node knows, for the node of the process that comes after it on the same host: an upgrade
//! is no restart. To the others it is the same proxy, with the same incarnation, that was silent for
//! a moment.
//!
//! ```text
//!   Node ──hand_over──► NodeState ──(the driver)──► take_over ──► Node
//! ```
//! What is known of others, and what others count on, goes over; what is under way (a question to a
//! RAP, a probe, a packet that waits) does not, and is begun anew. Agents' connections cannot go
//! over: the agents are reset, and their targets stay for as long as a lease lasts, within which they
//! join again.

use std::net::IpAddr;

use pias_protocol::{
    forwarding::ForwardingUpdate,
    group::GroupKey,
    ids::ProxyId,
    overlay::{Lease, LeaseReplica, MemberUpdate},
    placement::Candidate,
    time::Time,
};
use serde::{Deserialize, Serialize};

use crate::{
    config::NodeConfig,
    effect::StandbyAddress,
    membership::{MembersSnapshot, REFUTATION_BITS},
    node::Node,
};

/// What a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// The proxy itself.
    pub own: OwnState,
    /// All proxies and clusters.
    pub members: Vec<MemberUpdate>,
    /// Proxies that died not long ago, and who stands in for them.
    pub heirs: Vec<(ProxyId, ProxyId)>,
    /// Dead mates, their NAT addresses, and who goes on with their flows.
    pub heirlooms: Vec<(ProxyId, Vec<IpAddr>, ProxyId)>,
    /// As a RAP: the counts of JAPs; 0 for those that served a group before.
    pub counts: Vec<(GroupKey, ProxyId, u32)>,
    /// As a RAP: the ingresses that are told of changes.
    pub askers: Vec<(GroupKey, ProxyId)>,
    /// As an ingress: the lists of RAPs.
    pub lists: Vec<(GroupKey, Vec<Candidate>)>,
    /// As a JAP: the targets and their agents.
    pub leases: Vec<Lease>,
    /// As an heir: the leases of live mates, as those told them.
    pub replicas: Vec<(ProxyId, LeaseReplica)>,
    /// As an heir: leases of dead mates that are not served yet.
    pub inherited: Vec<Lease>,
}

/// What a proxy is itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnState {
    /// The incarnation that it started with, as [`NodeConfig::incarnation`].
    pub incarnation: u64,
    /// The last number that a target was given.
    pub last_target: u64,
    /// The mates' NAT addresses that are routed here.
    pub standby: Vec<StandbyAddress>,
}

impl Node {
    /// Whether others have heard what they count on: a moment after it was said, or longer if one of
    /// them is away.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.join.all_heard()
    }

    /// What is known now. `None` if the proxy is not in service: it does not know enough yet, or it
    /// drains.
    #[must_use]
    pub fn hand_over(&self) -> Option<NodeState> {
        let own = OwnState {
            incarnation: self.world.members.own().incarnation >> REFUTATION_BITS,
            last_target: self.join.last_target(),
            standby: self.flows.standby(),
        };
        let heirs = self.world.heirs.iter();
        let (replicas, inherited) = self.leases.hand_over();
        self.ready.then(|| NodeState {
            own,
            members: self.snapshot().to_updates(),
            heirs: heirs.map(|(&dead, &(heir, _))| (dead, heir)).collect(),
            heirlooms: self.flows.heirlooms(),
            counts: self.rendezvous.all_counts(),
            askers: self.rendezvous.all_askers(),
            lists: self.ingress.lists(),
            leases: self.join.leases().filter_map(|id| self.join.lease(id)).collect(),
            replicas,
            inherited,
        })
    }

    /// A node that goes on `now` where another one ended. Its first effects tell the datapath all
    /// that the other one's was told, but for flows.
    #[must_use]
    pub fn take_over(config: NodeConfig, state: NodeState, seed: u64, now: Time) -> Self {
        let incarnation = state.own.incarnation;
        let known = MembersSnapshot::from_updates(&state.members);
        let mut node = Self::with_members(NodeConfig { incarnation, ..config }, &known, seed, now);
        node.tell_peers();
        for (dead, heir) in state.heirs {
            node.world.heirs.insert(dead, (heir, now));
            node.out.forward(ForwardingUpdate::PeerGone { id: dead, heir: Some(heir) });
        }
        node.join.restore(state.leases, state.own.last_target, now, &mut node.out);
        node.rendezvous.restore(state.counts, state.askers, now);
        node.ingress.restore(state.lists, now, &mut node.out);
        let dead = node.world.heirs.keys().copied();
        let (join, out) = (&node.join, &mut node.out);
        node.leases.restore(state.replicas, state.inherited, dead, join, now, out);
        node.leases.mates_changed(&node.join, &node.world, now);
        node.flows.restore(state.heirlooms, now);
        node.flows.settle(&node.world, &mut node.out);
        node.become_ready();
        node.settle(now);
        node
    }
}
