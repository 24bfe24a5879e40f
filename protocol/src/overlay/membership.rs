//! Who takes part, and whether they live.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_MEMBERS_PER_MESSAGE, MAX_NAME};

/// Are you there?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Repeated in the answer.
    pub sequence: u64,
}

/// Answers [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAck {
    /// That of the heartbeat.
    pub sequence: u64,
}

/// News of members, flooded: a proxy passes on what was news to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberUpdate {
    /// At most [`MAX_MEMBERS_PER_MESSAGE`].
    pub members: Vec<MemberRecord>,
}

impl MemberUpdate {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.members.len() > MAX_MEMBERS_PER_MESSAGE {
            return Err("members");
        }
        self.members.iter().try_for_each(MemberRecord::check)
    }
}

/// What is known of one proxy. Of two records the one with the higher incarnation counts; at the
/// same incarnation the graver state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name; its id follows from it.
    pub name: String,
    /// The name of its cluster.
    pub cluster: String,
    /// Its unicast addresses, at most one a family.
    pub unicast: Vec<IpAddr>,
    /// The source addresses of its NAT delivery, at most one a family: a proxy that takes its flows
    /// over takes them over as well.
    pub nat: Vec<IpAddr>,
    /// Raised by the proxy itself at each start, and to refute a rumour of its death.
    pub incarnation: u64,
    /// What it is said to be.
    pub state: MemberState,
}

impl MemberRecord {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let named = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
        if !named(&self.name) || !named(&self.cluster) {
            return Err("name");
        }
        if self.unicast.is_empty() || self.unicast.len() > 2 || self.nat.len() > 2 {
            return Err("addresses");
        }
        Ok(())
    }
}

/// What a proxy is, in rising gravity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberState {
    /// Takes part in everything.
    Up,
    /// Serves what it has; takes no new targets or groups.
    Draining,
    /// Did not answer.
    Down,
    /// Said goodbye.
    Left,
}

unbounded!(Heartbeat, HeartbeatAck);
