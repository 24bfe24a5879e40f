//! Things worth a line in the log.

use std::{fmt, net::SocketAddr};

use pias_protocol::{group::GroupKey, ids::TargetId};

/// Something that an operator may wish to know; its `Display` is the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A proxy takes part.
    ProxyUp {
        /// Its name.
        name: String,
        /// Its cluster.
        cluster: String,
    },
    /// A proxy is about to stop.
    ProxyDraining {
        /// Its name.
        name: String,
    },
    /// A proxy is dead, or said goodbye.
    ProxyGone {
        /// Its name.
        name: String,
        /// How that is known.
        why: GoneWhy,
    },
    /// All proxies of a cluster are unreachable.
    ClusterGone {
        /// Its name.
        name: String,
        /// How many they were.
        proxies: usize,
    },
    /// A cluster is back.
    ClusterUp {
        /// Its name.
        name: String,
        /// How many proxies it has.
        proxies: usize,
    },
    /// Somebody took the own cluster for lost, which is denied.
    ClusterRefuted {
        /// The version of the cluster's record from now on.
        version: u32,
    },
    /// Somebody took this proxy for dead or draining, which is denied.
    Refuted {
        /// The incarnation from now on.
        incarnation: u64,
    },
    /// A record of a proxy was not believed.
    RecordRefused {
        /// The name that it carries.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Ready: the routes may be installed.
    Ready {
        /// Whether other proxies were heard; a lone proxy is ready after a grace.
        alone: bool,
    },
    /// Draining began.
    Draining,
    /// A target joined.
    TargetJoined {
        /// Its membership.
        target: TargetId,
        /// The group.
        group: GroupKey,
        /// Where it is reached.
        address: SocketAddr,
        /// Where its agent is.
        agent: SocketAddr,
    },
    /// A wish to join was refused.
    JoinRefused {
        /// The group.
        group: GroupKey,
        /// Where the agent is.
        agent: SocketAddr,
        /// What it was told.
        why: String,
    },
    /// A target gets flows again.
    TargetUp {
        /// Its membership.
        target: TargetId,
        /// The group.
        group: GroupKey,
        /// Where it is reached.
        address: SocketAddr,
        /// How that is known.
        why: &'static str,
    },
    /// A target gets no flows.
    TargetDown {
        /// Its membership.
        target: TargetId,
        /// The group.
        group: GroupKey,
        /// Where it is reached.
        address: SocketAddr,
        /// How that is known.
        why: &'static str,
    },
    /// A mate died, and this proxy serves its targets.
    Inherited {
        /// Its name.
        name: String,
        /// How many.
        targets: usize,
    },
    /// A target's membership ended.
    TargetGone {
        /// Its membership.
        target: TargetId,
        /// The group.
        group: GroupKey,
        /// Where it was reached.
        address: SocketAddr,
        /// Why.
        why: &'static str,
    },
}

/// How it is known that a proxy is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneWhy {
    /// This proxy did not hear it.
    Silent,
    /// Another proxy says so.
    Rumour,
    /// It said goodbye.
    Left,
    /// It started anew without a pause that anybody noticed.
    Restarted,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProxyUp { name, cluster } => write!(f, "proxy {name} (cluster {cluster}) is up"),
            Self::ProxyDraining { name } => write!(f, "proxy {name} is draining"),
            Self::ProxyGone { name, why } => write!(f, "proxy {name} is gone: {why}"),
            Self::Refuted { incarnation } => {
                write!(f, "a rumour about this proxy is denied with incarnation {incarnation}")
            }
            Self::ClusterGone { name, proxies } => {
                write!(f, "cluster {name} with {proxies} proxies is gone: none answers")
            }
            Self::ClusterUp { name, proxies } => {
                write!(f, "cluster {name} with {proxies} proxies is back")
            }
            Self::ClusterRefuted { version } => {
                write!(f, "a rumour about this cluster is denied with version {version}")
            }
            Self::RecordRefused { name, why } => {
                write!(f, "a record of proxy {name} is not believed: {why}")
            }
            Self::Ready { alone: false } => f.write_str("ready, in touch with other proxies"),
            Self::Ready { alone: true } => f.write_str("ready, no other proxy was heard"),
            Self::Draining => f.write_str("draining: no new targets, routes are withdrawn"),
            Self::TargetJoined { target, group, address, agent } => {
                write!(f, "target {} {address} joined {group} (agent {agent})", target.0)
            }
            Self::JoinRefused { group, agent, why } => {
                write!(f, "agent {agent} may not join {group}: {why}")
            }
            Self::TargetUp { target, group, address, why } => {
                write!(f, "target {} {address} of {group} is up: {why}", target.0)
            }
            Self::TargetDown { target, group, address, why } => {
                write!(f, "target {} {address} of {group} is down: {why}", target.0)
            }
            Self::Inherited { name, targets } => {
                write!(f, "{targets} targets of {name} are served here until their agents are back")
            }
            Self::TargetGone { target, group, address, why } => {
                write!(f, "target {} {address} of {group} is gone: {why}", target.0)
            }
        }
    }
}

impl fmt::Display for GoneWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it does not answer",
            Self::Rumour => "others say so",
            Self::Left => "it left",
            Self::Restarted => "it restarted",
        })
    }
}
