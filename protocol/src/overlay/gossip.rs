//! How records reach everybody: pushed along a tree, announced beside it, and compared now and then.
//!
//! ```text
//!  news      ──MemberUpdate (pushed)──►  eager neighbours;   known already: ◄──Prune──
//!            ──Have───────────────────►  lazy neighbours;    still missing: ◄──Want (eager)──
//!
//!  compare   ──Compare (hash of all)──►
//!            ◄─Buckets (64 hashes)─────  none where all is equal
//!            ──Differ (per cluster)───►
//!            ◄─Keys (per proxy)────────
//!            ──MemberUpdate, Want─────►  what the other lacks, what is lacking here
//! ```

use serde::{Deserialize, Serialize};

use super::membership::MemberState;
use crate::{
    ids::{ClusterId, ProxyId},
    limits::{BUCKETS, MAX_CLUSTERS_PER_MESSAGE, MAX_KEYS_PER_MESSAGE},
};

/// Which record of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberKey {
    /// The proxy.
    pub proxy: ProxyId,
    /// As in the record.
    pub incarnation: u64,
    /// As in the record.
    pub state: MemberState,
}

/// Which record of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterKey {
    /// The cluster.
    pub cluster: ClusterId,
    /// As in the record.
    pub version: u32,
    /// As in the record.
    pub down: bool,
    /// As in the record.
    pub stamp: u32,
}

/// The sender has these records, and pushes them only to who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// At most [`MAX_KEYS_PER_MESSAGE`] with those of members.
    pub clusters: Vec<ClusterKey>,
    /// See [`Have::clusters`].
    pub members: Vec<MemberKey>,
}

impl Have {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        keys(self.clusters.len(), self.members.len())
    }
}

/// The sender wishes these records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Whether the receiver shall push to the sender from now on; with no record named, the sender
    /// makes itself known as a neighbour.
    pub eager: bool,
    /// At most [`MAX_KEYS_PER_MESSAGE`] with those of members.
    pub clusters: Vec<ClusterId>,
    /// See [`Want::clusters`].
    pub members: Vec<ProxyId>,
}

impl Want {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        keys(self.clusters.len(), self.members.len())
    }
}

/// The sender had what was pushed: announce it to the sender in future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {}

/// Is your table like mine?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The hash of all that the sender believes.
    pub root: u64,
    /// How many live proxies it knows: one that knows few is told all at once.
    pub members: u32,
}

/// Answers [`Compare`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// A hash for each of the [`BUCKETS`] ranges of cluster ids; empty if the roots are equal.
    pub digests: Vec<u64>,
}

impl Buckets {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.digests.is_empty() || self.digests.len() == BUCKETS {
            Ok(())
        } else {
            Err("digests")
        }
    }
}

/// Answers [`Buckets`]: the hashes of all clusters in the buckets that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differ {
    /// Which buckets, one bit each.
    pub buckets: u64,
    /// At most [`MAX_CLUSTERS_PER_MESSAGE`].
    pub clusters: Vec<(ClusterId, u64)>,
}

impl Differ {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        keys(self.clusters.len(), 0)
    }
}

/// Answers [`Differ`]: all that the sender knows of the clusters that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// At most [`MAX_CLUSTERS_PER_MESSAGE`]; those unknown to the sender have the version 0.
    pub clusters: Vec<ClusterKey>,
    /// All known members of those clusters, at most [`MAX_KEYS_PER_MESSAGE`].
    pub members: Vec<MemberKey>,
}

impl Keys {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        keys(self.clusters.len(), self.members.len())
    }
}

const fn keys(clusters: usize, members: usize) -> Result<(), &'static str> {
    if clusters > MAX_CLUSTERS_PER_MESSAGE {
        return Err("clusters");
    }
    if members > MAX_KEYS_PER_MESSAGE {
        return Err("members");
    }
    Ok(())
}

unbounded!(Prune, Compare);
