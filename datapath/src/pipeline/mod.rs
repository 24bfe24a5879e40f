//! What happens to a packet.

mod verdict;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use pias_protocol::{
    forwarding::ForwardingUpdate,
    geneve,
    group::GroupKey,
    ids::{ProxyId, TargetId},
    time::Time,
};
use serde::Serialize;

pub use verdict::{Side, Verdict};

use crate::{
    counters::Counters, drop_reason::DropReason, explain::Explanation, limits::Limits,
    packet::Packet,
};

/// What a pipeline is told once.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// This proxy.
    pub self_id: ProxyId,
    /// The anycast prefixes.
    pub anycast: Vec<IpNet>,
    /// The source addresses of NAT delivery, at most one a family.
    pub nat: Vec<IpAddr>,
    /// This proxy's tunnel endpoints, at most one a family.
    pub unicast: Vec<IpAddr>,
    /// Octets of the largest packet that the network between proxies carries.
    pub underlay_mtu: u16,
    /// The sizes of tables.
    pub limits: Limits,
    /// Seeds the tables' hashes and the choice of ports; from the operating system's entropy, so
    /// that nobody can aim at one bucket.
    pub seed: u64,
}

/// The tables of one proxy and what they do to packets. One engine owns it.
pub struct Pipeline {
    config: PipelineConfig,
    counters: Counters,
}

#[allow(clippy::wrong_self_convention, reason = "`from_tun` says where a packet came from")]
impl Pipeline {
    /// A pipeline with empty tables.
    #[must_use]
    pub fn new(config: PipelineConfig) -> Self {
        Self { config, counters: Counters::default() }
    }

    /// A packet that the kernel routed into the TUN device.
    pub fn from_tun(&mut self, _packet: &mut Packet, _now: Time, _side: &mut Side) -> Verdict {
        self.drop_for(DropReason::NotOurs)
    }

    /// A packet that another proxy sent; `packet` is what stood behind the Geneve header.
    pub fn from_tunnel(
        &mut self,
        _outer_source: IpAddr,
        _header: &geneve::Header,
        _packet: &mut Packet,
        _now: Time,
        _side: &mut Side,
    ) -> Verdict {
        self.drop_for(DropReason::NotOurs)
    }

    /// Applies what the overlay says. Packets that it frees come out through `side`.
    pub fn apply(&mut self, _update: ForwardingUpdate, _now: Time, _side: &mut Side) {}

    /// Ages tables in bounded steps; to be called about every 50 ms.
    pub fn tick(&mut self, _now: Time, _side: &mut Side) {}

    /// The path to a peer carries only packets of `mtu` octets, as its sockets learnt.
    pub fn path_mtu(&mut self, _peer_tunnel: IpAddr, _mtu: u16, _now: Time) {}

    /// What happened to packets so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts packets that the engine had to drop.
    pub fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.counters.count_drops(reason, packets);
    }

    /// Up to `limit` flows that pass here.
    #[must_use]
    pub fn flows(&self, _limit: usize, _now: Time) -> Vec<FlowView> {
        Vec::new()
    }

    /// Where a packet of this client to this group would go that entered here, and why. Changes
    /// nothing.
    #[must_use]
    pub fn explain(&self, client: SocketAddr, group: GroupKey, _now: Time) -> Explanation {
        let _ = &self.config;
        Explanation { client, group, steps: Vec::new() }
    }

    /// How full the tables are.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy::default()
    }

    fn drop_for(&mut self, reason: DropReason) -> Verdict {
        self.counters.count_drop(reason);
        Verdict::Drop(reason)
    }
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Flows pinned here as an ingress.
    pub ingress_flows: usize,
    /// Flows NATed here as a JAP.
    pub nat_flows: usize,
    /// Of these, flows that never heard from their target.
    pub nat_embryonic: usize,
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
    /// Seconds since the flow began here.
    pub age_s: u64,
    /// Seconds since its last packet.
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
    /// The flow is NATed here.
    Join {
        /// Which target has it.
        lease: TargetId,
        /// The target's address.
        target: SocketAddr,
        /// The source that the target sees.
        nat: SocketAddr,
        /// `opening`, `open`, `closing`.
        state: &'static str,
    },
}
