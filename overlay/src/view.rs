//! What a node shows of itself: for the admin API, as serialisable values. Times are in
//! milliseconds, names are those of the configuration, groups read `AA:port/protocol`.

use std::net::{IpAddr, SocketAddr};

use pias_protocol::overlay::MemberState;
use serde::Serialize;

use crate::{config::Policy, counters::Counters};

/// The node as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusView {
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// `starting`, `up` or `draining`.
    pub state: &'static str,
    /// Whether the routes should be installed.
    pub ready: bool,
    /// Its incarnation, as others know it.
    pub incarnation: u64,
    /// Proxies that are alive, itself among them.
    pub proxies_alive: usize,
    /// Proxies that are known, alive or not, itself among them.
    pub proxies_known: usize,
    /// Clusters with a live proxy.
    pub clusters: usize,
    /// Groups with an ingress entry here.
    pub ingress_groups: usize,
    /// Groups that this proxy keeps counts of, as a RAP.
    pub rendezvous_groups: usize,
    /// Agents connected here.
    pub agents: usize,
    /// Targets registered here.
    pub targets: usize,
    /// What happened, and what did not for want of room.
    pub counters: Counters,
}

/// One proxy as this one knows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProxyView {
    /// Its name.
    pub name: String,
    /// Its id in hexadecimal, as on the wire.
    pub id: String,
    /// Its cluster; empty if that is not known.
    pub cluster: String,
    /// `up`, `draining`, `down` (also with its whole cluster), `left`, or `unknown`: a seed of the
    /// configuration that was never heard of.
    pub state: &'static str,
    /// Its unicast addresses.
    pub unicast: Vec<IpAddr>,
    /// Its NAT addresses.
    pub nat: Vec<IpAddr>,
    /// Its incarnation.
    pub incarnation: u64,
    /// Round-trip time to it in milliseconds; none if this proxy does not watch it.
    pub rtt_ms: Option<f64>,
    /// How long ago it was heard; none if this proxy does not watch it.
    pub heard_ms: Option<u64>,
    /// Whether it is this proxy.
    pub own: bool,
}

/// One group as this proxy knows it, in any of the three roles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupView {
    /// `AA:port/protocol`.
    pub group: String,
    /// The ingress entry: `resolving`, `candidates` or `refused`; none without one.
    pub ingress: Option<&'static str>,
    /// The candidates of the ingress entry.
    pub candidates: Vec<CandidateView>,
    /// Whether this proxy is one of the group's RAPs.
    pub rendezvous: bool,
    /// How many targets are registered here, in any state.
    pub targets: usize,
}

/// A JAP in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CandidateView {
    /// Its name.
    pub proxy: String,
    /// Its cluster.
    pub cluster: String,
    /// Its tier: lower ones are used up before higher ones.
    pub tier: u8,
    /// Its share within the tier.
    pub weight: u32,
}

/// All that this proxy knows of one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupDetailView {
    /// As in the list of groups.
    #[serde(flatten)]
    pub summary: GroupView,
    /// Its policy.
    pub policy: Policy,
    /// Its RAPs, in the order of the ring.
    pub raps: Vec<String>,
    /// The RAP that the ingress asks.
    pub asks: Option<String>,
    /// As a RAP: what the JAPs reported.
    pub counts: Vec<CountView>,
    /// As a RAP: the ingresses that are told when the set of JAPs changes.
    pub askers: Vec<String>,
    /// As a JAP: its targets here.
    pub local: Vec<TargetView>,
}

/// What a JAP reported of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountView {
    /// The JAP.
    pub proxy: String,
    /// The weight of its targets, by its last report.
    pub count: u32,
    /// When that is forgotten, unless it is refreshed.
    pub expires_ms: u64,
}

/// One target registered here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetView {
    /// Its membership.
    pub id: u64,
    /// The group.
    pub group: String,
    /// Where it is reached.
    pub address: SocketAddr,
    /// `up`, `down` or `draining`.
    pub state: &'static str,
    /// Why it is in this state.
    pub why: &'static str,
    /// Its share of new flows.
    pub weight: u32,
    /// Where its agent is.
    pub agent: SocketAddr,
    /// How long its lease lasts without a keep-alive.
    pub lease_ms: u64,
    /// How long ago its agent was heard.
    pub heard_ms: u64,
}

/// Where a packet of a flow would go, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainView {
    /// The group.
    pub group: String,
    /// Its policy.
    pub policy: Policy,
    /// Its RAPs, in the order of the ring.
    pub raps: Vec<String>,
    /// The JAPs in the order in which the flow would try them; without a flow, in that of the list.
    pub order: Vec<CandidateView>,
    /// The reasoning, one sentence a line.
    pub steps: Vec<String>,
}

/// The word for a member's state.
pub(crate) const fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::Up => "up",
        MemberState::Draining => "draining",
        MemberState::Down => "down",
        MemberState::Left => "left",
    }
}
