//! The node: one proxy's brain, wired together.

use std::net::SocketAddr;

use pias_protocol::{
    agent::AgentMessage, forwarding::ForwardingEvent, group::GroupKey, ids::ProxyId,
    overlay::OverlayMessage, time::Time,
};

use crate::{
    config::NodeConfig,
    effect::{AgentId, Deadline, Effect},
    view::{ExplainView, GroupDetailView, GroupView, ProxyView, StatusView, TargetView},
};

/// One proxy's brain: fed by `handle_*` and the like, drained by [`Node::poll_effect`] after each.
///
/// ```text
///           driver: piasd, or the simulator
///   handle_message, handle_event, agent_*,      ▲ poll_effect until None
///   peer_unreachable, handle_timeout, drain     │ next_timeout
///                      ▼                        │
///                              Node
/// ```
pub struct Node {}

impl Node {
    /// A node that starts `now`. `seed` feeds the jitter of its timers, and nothing else.
    #[must_use]
    pub fn new(config: NodeConfig, seed: u64, now: Time) -> Self {
        Self {}
    }

    /// A message from another proxy, whose certificate proved that it is `from`.
    pub fn handle_message(&mut self, from: ProxyId, message: OverlayMessage, now: Time) {}

    /// Something that the datapath saw.
    pub fn handle_event(&mut self, event: ForwardingEvent, now: Time) {}

    /// An agent opened its stream.
    pub fn agent_connected(&mut self, agent: AgentId, remote: SocketAddr, now: Time) {}

    /// What an agent says.
    pub fn agent_message(&mut self, agent: AgentId, message: AgentMessage, now: Time) {}

    /// An agent's connection is closed or lost: its targets are gone, except those that left before
    /// and keep their flows for a while.
    pub fn agent_closed(&mut self, agent: AgentId, now: Time) {}

    /// A proxy could not be connected to, or the connection to it is lost: a hint, upon which its
    /// silence is borne for a shorter time.
    pub fn peer_unreachable(&mut self, peer: ProxyId, now: Time) {}

    /// Does what is due. Call it when [`Node::next_timeout`] has come; calls too early do nothing.
    pub fn handle_timeout(&mut self, now: Time) {}

    /// When [`Node::handle_timeout`] should be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Deadline> {
        None
    }

    /// Begins to drain: the routes are withdrawn, agents are told to join elsewhere, joins are
    /// refused, other proxies give this one no new flows.
    pub fn drain(&mut self, now: Time) {}

    /// Says goodbye to the others. The last call before a driver stops: drain the effects once more
    /// and flush the connections.
    pub fn leave(&mut self, now: Time) {}

    /// The next thing to do, until `None`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        None
    }

    /// The node as a whole.
    #[must_use]
    pub fn status(&self) -> StatusView {
        unreachable!()
    }

    /// All known proxies, by cluster and name.
    #[must_use]
    pub fn proxies(&self, now: Time) -> Vec<ProxyView> {
        Vec::new()
    }

    /// All groups that this proxy has to do with.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupView> {
        Vec::new()
    }

    /// All about one group; also of one that nothing is known of but its RAPs.
    #[must_use]
    pub fn group(&self, group: &GroupKey, now: Time) -> GroupDetailView {
        unreachable!()
    }

    /// All targets registered here.
    #[must_use]
    pub fn targets(&self, now: Time) -> Vec<TargetView> {
        Vec::new()
    }

    /// Where a packet from `client` to `group` would go that enters here, and why.
    #[must_use]
    pub fn explain(&self, group: &GroupKey, client: Option<SocketAddr>) -> ExplainView {
        unreachable!()
    }
}
