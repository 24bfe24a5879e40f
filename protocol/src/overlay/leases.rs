//! Leases inside a cluster: what the heir of a JAP must know to serve its targets the moment it
//! dies, and what mates tell each other of targets that moved.
//!
//! ```text
//! JAP                                    its heir
//!  │ ── LeaseReplica 0 ──────────────────► │   begins anew: forget what was told before
//!  │ ◄─────────────────────── LeaseAck ──  │   one batch at a time
//!  │ ── LeaseReplica 1 ──────────────────► │   what changed, as it is now
//!  │ ◄─── LeaseAck, or "begin anew" ─────  │   unanswered: the same targets in the next one
//!
//! new JAP                                its mates
//!  │ ── LeaseTaken ──────────────────────► │   their leases of these targets are over
//! ```

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    group::GroupKey,
    ids::TargetId,
    limits::{MAX_LEASES_PER_MESSAGE, MAX_WEIGHT},
};

/// Where an agent is, and what of its connection to a JAP others must know to reset it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgentLink {
    /// The agent's address and port.
    pub remote: SocketAddr,
    /// The anycast address that it connected to.
    pub anycast: IpAddr,
    /// The connection id by which the agent addresses the JAP: the one that the JAP chose in the
    /// handshake (RFC 9000 section 7.2). The token of a stateless reset follows from it.
    pub connection: [u8; 8],
}

/// What is known of a target's service, as far as an heir must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseState {
    /// Nothing speaks against it.
    Up,
    /// The agent's own check fails.
    Unwell,
    /// It refused a probe.
    Refuses,
    /// It did not answer a probe.
    Silent,
    /// The target left; its flows may end.
    Left,
}

/// A target's lease at its JAP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name at the JAP.
    pub id: TargetId,
    /// The group it serves.
    pub group: GroupKey,
    /// Where it is reached.
    pub target: SocketAddr,
    /// Its share of flows, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// What is known of its service.
    pub state: LeaseState,
    /// Its agent.
    pub link: AgentLink,
}

impl Lease {
    fn check(&self) -> Result<(), &'static str> {
        if self.weight == 0 || self.weight > MAX_WEIGHT {
            return Err("weight");
        }
        if self.group.port == 0 || self.target.port() == 0 {
            return Err("port 0");
        }
        if self.group.address.is_ipv4() != self.target.is_ipv4() {
            return Err("family");
        }
        Ok(())
    }
}

/// Leases of the sender, to its heir.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReplica {
    /// Chosen at random each time the sender begins anew.
    pub epoch: u64,
    /// Counts the batches of an epoch. At 0 the receiver forgets what the sender told it before.
    pub sequence: u64,
    /// Leases as they are now; with `ended` at most [`MAX_LEASES_PER_MESSAGE`].
    pub leases: Vec<Lease>,
    /// Leases that are no more.
    pub ended: Vec<TargetId>,
}

impl LeaseReplica {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.leases.len() + self.ended.len() > MAX_LEASES_PER_MESSAGE {
            return Err("leases");
        }
        self.leases.iter().try_for_each(Lease::check)
    }
}

/// Answers [`LeaseReplica`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAck {
    /// That of the replica.
    pub epoch: u64,
    /// That of the replica.
    pub sequence: u64,
    /// Whether the receiver has what went before; if not, the sender begins anew.
    pub known: bool,
}

/// Targets joined at the sender: what its mates hold of them is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTaken {
    /// Group and address; at most [`MAX_LEASES_PER_MESSAGE`].
    pub leases: Vec<(GroupKey, SocketAddr)>,
}

impl LeaseTaken {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.leases.len() > MAX_LEASES_PER_MESSAGE { Err("leases") } else { Ok(()) }
    }
}

unbounded!(LeaseAck);
