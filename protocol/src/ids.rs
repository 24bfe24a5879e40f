//! Names of the machines: proxies and clusters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash;

/// A proxy: the hash of the name in its certificate.
///
/// Eight octets are enough: with 20,000 proxies two names collide with a chance of 1 in 10^11, and a
/// proxy refuses a peer whose name hashes to an id that another name already holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProxyId(pub u64);

impl ProxyId {
    /// The id of the proxy with this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(hash::name(name))
    }
}

impl fmt::Debug for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy:{:016x}", self.0)
    }
}

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A cluster, the proxies of one POP: the hash of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// The id of the cluster with this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(hash::name(name))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster:{:016x}", self.0)
    }
}

/// A target's membership in one group at one JAP. Never used again while the JAP lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetId(pub u64);

/// A packet that the datapath holds until the overlay says where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParkedId(pub u64);
