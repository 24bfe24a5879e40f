//! Where a packet would go, and why: the decisions of the pipeline, told instead of done.

use std::net::SocketAddr;

use pias_protocol::{
    group::GroupKey,
    ids::{ProxyId, TargetId},
};
use serde::Serialize;

/// The way of a client's packet through this proxy, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who sends.
    pub client: SocketAddr,
    /// To whom.
    pub group: GroupKey,
    /// What was looked at, in order; the last step is where the packet goes.
    pub steps: Vec<Step>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The address is in no anycast prefix of this proxy: the packet is dropped.
    NotAnycast,
    /// The source may not send to an anycast address: the packet is dropped.
    BadSource,
    /// The port is that of registration: the packet goes to piasd itself.
    Registration,
    /// The flow is known here as an ingress: it goes where it went before.
    Pinned {
        /// To which JAP.
        proxy: ProxyId,
        /// How long the flow has been idle, in milliseconds.
        idle_ms: u64,
    },
    /// The flow was pinned to a proxy that is gone: it is placed anew.
    PinnedToGone {
        /// To which proxy it was pinned.
        proxy: ProxyId,
    },
    /// The flow is not known here as an ingress.
    NotPinned,
    /// No entry for the group: the packet waits while the overlay resolves it.
    Missed,
    /// The group's list is on its way: the packet goes through a RAP.
    Rendezvous {
        /// Which.
        proxy: ProxyId,
    },
    /// The overlay says that nobody serves the group: the client is refused.
    Refused,
    /// A JAP that could be chosen.
    Candidate {
        /// Which.
        proxy: ProxyId,
        /// Lower tiers are used up first.
        tier: u8,
        /// Its share of flows within the tier.
        weight: u32,
        /// Whether it is a live proxy.
        live: bool,
    },
    /// A proxy that is named here is dead, and its heir stands in for it.
    StandsIn {
        /// Who is dead.
        dead: ProxyId,
        /// Who stands in.
        heir: ProxyId,
    },
    /// The JAP that the flow's hash chose among the live candidates.
    Chosen {
        /// Which.
        proxy: ProxyId,
    },
    /// No candidate lives: the packet waits while the overlay resolves the group.
    NoLiveCandidate,
    /// The packet goes through the tunnel; what follows happens there.
    Tunnel {
        /// To which proxy.
        proxy: ProxyId,
        /// At which address.
        address: std::net::IpAddr,
    },
    /// This proxy is the JAP.
    JoinHere,
    /// The flow is NATed here already.
    KnownFlow {
        /// To which target.
        target: TargetId,
        /// At which address.
        address: SocketAddr,
        /// The source that the target sees.
        nat: SocketAddr,
    },
    /// A target of this proxy that could be chosen.
    Target {
        /// Which.
        target: TargetId,
        /// At which address.
        address: SocketAddr,
        /// Its share of new flows.
        weight: u32,
        /// `up`, `draining` or `down`.
        state: &'static str,
        /// Whether it is the client itself, which is never chosen.
        sender: bool,
    },
    /// The target that the flow's hash chose.
    Delivered {
        /// Which.
        target: TargetId,
        /// At which address.
        address: SocketAddr,
    },
    /// No target here can take the flow: the packet gets a second chance elsewhere.
    SecondChance,
}
