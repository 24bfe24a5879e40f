//! What a node wishes its driver to do: the outputs of the sans-IO brain.

use std::{net::IpAddr, sync::Arc};

use pias_protocol::{
    agent::JapMessage,
    forwarding::ForwardingUpdate,
    ids::ProxyId,
    overlay::{AgentLink, OverlayMessage},
    time::Time,
};
use serde::{Deserialize, Serialize};

use crate::notice::Notice;

/// The driver's number for one agent's connection; never used again while the node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(pub u64);

/// One thing to do, in the order of [`Node::poll_effect`](crate::Node::poll_effect).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a message to another proxy, connecting first if need be. If that fails the message is
    /// dropped, and [`Node::peer_unreachable`](crate::Node::peer_unreachable) called; where a
    /// connection is lost with what was said on it, call
    /// [`Node::undelivered`](crate::Node::undelivered).
    Send {
        /// Whose id; the peer's certificate must carry [`name`](Self::Send::name).
        to: ProxyId,
        /// Its name.
        name: Arc<str>,
        /// Its unicast address, of a family that this proxy has too.
        address: IpAddr,
        /// How.
        delivery: Delivery,
        /// What.
        message: OverlayMessage,
    },
    /// Tell the datapath.
    Forward(ForwardingUpdate),
    /// Say something to an agent.
    Agent {
        /// To which.
        agent: AgentId,
        /// What.
        message: JapMessage,
    },
    /// Close an agent's connection, after what was said to it before. The driver need not call
    /// [`Node::agent_closed`](crate::Node::agent_closed) for it.
    CloseAgent {
        /// Which.
        agent: AgentId,
        /// Why; its `Display` is the reason phrase of the connection's close.
        reason: CloseReason,
    },
    /// Reset the connection of an agent to a proxy that is dead, so that it joins anew at once: a
    /// QUIC stateless reset (RFC 9000 section 10.3). Nothing is known of whether it arrives.
    ResetAgent(AgentLink),
    /// Ready (install the routes of the anycast prefixes) or not (withdraw them). Said once each.
    Announce(bool),
    /// Answer to these NAT addresses beside the own ones, as a last resort to routing. Said when they
    /// change, and replaces those said before.
    StandBy(Vec<StandbyAddress>),
    /// Worth a line in the log.
    Notice(Notice),
}

/// A NAT address of a mate that comes here when nobody else answers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StandbyAddress {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub of: ProxyId,
    /// Whether another proxy answers to it while it lives: the owner, or one that goes on with the
    /// flows of the owner. Else this one does.
    pub live: bool,
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// In a QUIC datagram: may be lost, never waits.
    Datagram,
    /// On a stream; messages between two proxies arrive in order.
    Stream,
}

/// Why an agent's connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Nothing was heard for as long as the lease lasts.
    #[error("no keep-alive within the lease: join again")]
    LeaseExpired,
    /// Pings stayed unanswered while clients' flows arrived.
    #[error("pings unanswered: join again")]
    Unresponsive,
    /// The proxy holds as many connections as it may.
    #[error("too many agents here: join again later")]
    TooManyAgents,
}

/// When a node wishes to be called again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When; in the past if it is overdue.
    pub at: Time,
    /// Whose timer it is.
    pub why: Timer,
}

/// Whose timer makes a node wish to be called; for traces, the driver need not look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The grace at the start ends: announce even though no seed answered.
    Ready,
    /// Heartbeats, silence, news, comparisons, and the forgetting of the dead.
    Membership,
    /// Look where this proxy is; publish that.
    Proximity,
    /// As a RAP: counts expire, lists are pushed, held packets are refused.
    Rendezvous,
    /// As an ingress: a RAP did not answer, a refusal is over, an entry is idle.
    Ingress,
    /// As a JAP: leases, pings, probes, resets of inherited agents.
    Targets,
    /// As a JAP: reports to RAPs are refreshed, repeated or moved.
    Reports,
    /// As a JAP: leases are told to the heir and to mates; as an heir, they are taken over.
    Leases,
}
