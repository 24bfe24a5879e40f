//! What an agent and its JAP say to each other, on one bidirectional stream that the agent opens.
//!
//! ```text
//! agent                                    JAP
//!   │ ── Join ───────────────────────────►  │   one per group and protocol
//!   │ ◄─────────────── Welcome, Joined ───  │   lease, and how often to keep it alive
//!   │ ── KeepAlive ──────────────────────►  │   every `keep_alive_ms`
//!   │ ◄──────────────── KeepAliveAck ─────  │   may change the interval
//!   │ ◄──────────────────────── Ping ─────  │   when flows to the target stay unanswered
//!   │ ── Pong ───────────────────────────►  │   at once
//!   │ ── Health ─────────────────────────►  │   its own check of the service changed
//!   │ ◄─────────────────── TargetChange ──  │   what the proxy sees of the service changed
//!   │ ── Leave ──────────────────────────►  │   then the agent closes
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    envelope::messages,
    group::GroupKey,
    ids::TargetId,
    limits::{MAX_NAME, MAX_REASON, MAX_WEIGHT},
};

messages! {
    /// What an agent says.
    AgentMessage {
        /// Wishes to become a member.
        1 => Join,
        /// Ends a membership.
        2 => Leave,
        /// The agent's own check of its service changed.
        3 => Health,
        /// Keeps all memberships of the connection alive.
        4 => KeepAlive,
        /// Answers [`Ping`].
        5 => Pong,
    }
}

messages! {
    /// What a JAP says to an agent.
    JapMessage {
        /// Who the agent talks to; first on the stream.
        65 => Welcome,
        /// A membership began.
        66 => Joined,
        /// A membership is not granted.
        67 => Refused,
        /// Answers [`KeepAlive`].
        68 => KeepAliveAck,
        /// Is anyone there?
        69 => Ping,
        /// What the proxy sees of the target changed.
        70 => TargetChange,
        /// The proxy is about to stop: join elsewhere.
        71 => Draining,
    }
}

/// Wishes to become a member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The agent's number for this wish, repeated in the answer.
    pub request: u32,
    /// Which group.
    pub group: GroupKey,
    /// Where the target is reached, of the same address family as the group.
    pub target: SocketAddr,
    /// Its share of flows relative to others, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Whether the service is up by the agent's own check.
    pub healthy: bool,
}

impl Join {
    fn check(&self) -> Result<(), &'static str> {
        if self.weight == 0 || self.weight > MAX_WEIGHT {
            return Err("weight");
        }
        if self.group.port == 0 || self.target.port() == 0 {
            return Err("port 0");
        }
        Ok(())
    }
}

/// Ends a membership: no new flows come; those that are, stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Which.
    pub lease: TargetId,
}

/// The agent's own check of its service changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Of which membership.
    pub lease: TargetId,
    /// Whether the service is up.
    pub up: bool,
}

/// Keeps all memberships of the connection alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// Repeated in the answer.
    pub sequence: u64,
}

/// Answers [`Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// That of the ping.
    pub sequence: u64,
}

/// Who the agent talks to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The proxy's name.
    pub proxy: String,
    /// Its cluster's name.
    pub cluster: String,
}

impl Welcome {
    fn check(&self) -> Result<(), &'static str> {
        if self.proxy.len() > MAX_NAME || self.cluster.len() > MAX_NAME {
            return Err("name");
        }
        Ok(())
    }
}

/// A membership began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The wish that this grants.
    pub request: u32,
    /// Its name from now on.
    pub lease: TargetId,
    /// How often to send [`KeepAlive`], in milliseconds.
    pub keep_alive_ms: u32,
    /// How long the membership lasts without one, in milliseconds.
    pub lease_ms: u32,
}

/// A membership is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The wish.
    pub request: u32,
    /// Why, for a program.
    pub code: RefusalCode,
    /// Why, for a person.
    pub reason: String,
}

impl Refused {
    fn check(&self) -> Result<(), &'static str> {
        if self.reason.len() > MAX_REASON {
            return Err("reason");
        }
        Ok(())
    }
}

/// Why a membership is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The address is not in an anycast prefix of this service.
    NotAnycast,
    /// The target's address is of another family than the group's.
    Family,
    /// The target's address cannot be a target (anycast, multicast, unspecified, loopback, ...).
    TargetAddress,
    /// The port belongs to the proxies themselves.
    ReservedPort,
    /// The proxy, or this connection, holds as many targets as it may.
    Full,
}

/// Answers [`KeepAlive`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAliveAck {
    /// That of the keep-alive.
    pub sequence: u64,
    /// The interval from now on, in milliseconds.
    pub keep_alive_ms: u32,
    /// How long memberships last without one from now on, in milliseconds.
    pub lease_ms: u32,
}

/// Is anyone there?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Repeated in the answer.
    pub sequence: u64,
}

/// What the proxy sees of the target changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetChange {
    /// Of which membership.
    pub lease: TargetId,
    /// Whether it gets new flows.
    pub up: bool,
    /// Why, for a person.
    pub reason: String,
}

impl TargetChange {
    fn check(&self) -> Result<(), &'static str> {
        if self.reason.len() > MAX_REASON {
            return Err("reason");
        }
        Ok(())
    }
}

/// The proxy is about to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// In how many milliseconds it closes the connection.
    pub closes_in_ms: u32,
}

macro_rules! unbounded {
    ($($message:ident),+) => {
        $(impl $message {
            #[allow(clippy::unused_self, reason = "the same shape as the bounded messages")]
            fn check(&self) -> Result<(), &'static str> {
                Ok(())
            }
        })+
    };
}
unbounded!(Leave, Health, KeepAlive, Pong, Joined, KeepAliveAck, Ping, Draining);
