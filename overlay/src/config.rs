//! What a node is told about itself at the start.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use pias_protocol::overlay::{MemberRecord, MemberState};
use serde::{Deserialize, Serialize};

use crate::membership::REFUTATION_BITS;

/// How long between two heartbeats, unless the configuration says otherwise.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_millis(100);

/// A node's configuration.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The name in its certificate, at most [`pias_protocol::limits::MAX_NAME`] octets.
    pub name: String,
    /// The name of its cluster (POP), bounded likewise.
    pub cluster: String,
    /// Its unicast addresses, one or two, at most one a family: where others reach it.
    pub unicast: Vec<IpAddr>,
    /// The source addresses of its NAT delivery, at most one a family.
    pub nat: Vec<IpAddr>,
    /// The anycast prefixes; joins for other addresses are refused.
    pub anycast: Vec<IpNet>,
    /// Whom to ask for the others at the start. Its own name may be among them.
    pub seeds: Vec<Seed>,
    /// How long between two heartbeats, usually [`DEFAULT_HEARTBEAT`].
    pub heartbeat: Duration,
    /// The policy of groups by `AA:port`; the others use [`Policy::Nearest`]. All proxies must be
    /// told the same.
    pub policies: BTreeMap<SocketAddr, Policy>,
    /// How long a drain lasts before the driver stops; agents are told.
    pub drain_wait: Duration,
    /// Higher at each start than at any before, below 2^47: milliseconds of Unix time will do. A
    /// proxy whose clock ran backwards still gets in, by refuting what is said of its past.
    pub incarnation: u64,
}

impl NodeConfig {
    /// What a node with this configuration says of itself at its start.
    #[must_use]
    pub fn record(&self) -> MemberRecord {
        MemberRecord {
            name: self.name.clone(),
            cluster: self.cluster.clone(),
            unicast: self.unicast.clone(),
            nat: self.nat.clone(),
            incarnation: self.incarnation << REFUTATION_BITS,
            state: MemberState::Up,
        }
    }
}

/// A proxy that is known by configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The name in its certificate.
    pub name: String,
    /// Its unicast address.
    pub address: IpAddr,
}

/// How the JAPs of a group are ranked for an ingress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The nearest JAP by round-trip time from the ingress's cluster; among equally near ones in
    /// proportion to their targets.
    #[default]
    Nearest,
    /// All JAPs in proportion to their targets.
    Balanced,
    /// All JAPs alike.
    Random,
}
