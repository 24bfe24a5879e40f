//! Who takes part, and whether they live.
//!
//! ```text
//!  mates        Heartbeat ⇄ HeartbeatAck      each other's sign of life
//!               Word                          "I do not hear it": "nor I", or "but I do"
//!  watchers     ClusterWord                   the same about a whole cluster
//! ```
//! How records travel is in [`gossip`](super::gossip).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::proximity::Coordinate;
use crate::{
    ids::{ClusterId, ProxyId},
    limits::{MAX_CLUSTERS_PER_MESSAGE, MAX_MEMBERS_PER_MESSAGE, MAX_NAME},
};

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Repeated in the answer.
    pub sequence: u64,
    /// Whether an answer is wished.
    pub asks: bool,
}

/// Answers a [`Heartbeat`] that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAck {
    /// That of the heartbeat.
    pub sequence: u64,
    /// Where the sender sees itself.
    pub coordinate: Coordinate,
}

/// What the sender has to say about a mate: that it hears it, or that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The mate.
    pub proxy: ProxyId,
    /// Whether it is silent.
    pub silent: bool,
}

/// What the sender has to say about a cluster that its own watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterWord {
    /// The cluster.
    pub cluster: ClusterId,
    /// The version of its record.
    pub version: u32,
    /// Whether none of its proxies is heard.
    pub silent: bool,
}

/// Records of members and clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberUpdate {
    /// Whether this is news on its way to all. Else it answers a comparison of tables, and may be
    /// what somebody believed who was cut off for long.
    pub pushed: bool,
    /// At most [`MAX_CLUSTERS_PER_MESSAGE`]; of clusters that the receiver knows, or that have
    /// members below.
    pub clusters: Vec<ClusterRecord>,
    /// At most [`MAX_MEMBERS_PER_MESSAGE`].
    pub members: Vec<MemberRecord>,
}

impl MemberUpdate {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.members.len() > MAX_MEMBERS_PER_MESSAGE {
            return Err("members");
        }
        if self.clusters.len() > MAX_CLUSTERS_PER_MESSAGE {
            return Err("clusters");
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
    fn check(&self) -> Result<(), &'static str> {
        // They are written to logs and terminals.
        let printable = |name: &str| name.bytes().all(|octet| octet.is_ascii_graphic());
        let named = |name: &str| !name.is_empty() && name.len() <= MAX_NAME && printable(name);
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

/// What is known of one cluster as a whole. Two things of it change, each by itself: of `down` that
/// with the higher version counts, at the same version the graver; of the coordinate that with the
/// higher stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster.
    pub cluster: ClusterId,
    /// Raised by whoever says that it vanished, and by its members when they deny that.
    pub version: u32,
    /// Whether all its members are taken to be dead, whatever their records say.
    pub down: bool,
    /// Raised with each new coordinate; 0 where there is none yet.
    pub stamp: u32,
    /// Where it is.
    pub coordinate: Coordinate,
}

unbounded!(Heartbeat, HeartbeatAck, Word, ClusterWord);
