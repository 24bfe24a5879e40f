//! The hand-over: a new piasd goes on where the running one ended, and nobody notices.
//!
//! ```text
//!  new process                                    running process
//!      │ ── Hello ──────────────────────────────────► │  the same name, addresses, device?
//!      │ ◄───────────────────────────── Welcome ────  │  (or Refused, and why)
//!      │ ── Ask ────────────────────────────────────► │  freezes: packets wait in the kernel
//!      │ ◄── Descriptors: TUN device, sockets ──────  │
//!      │ ◄── Part, Part, ..., End ──────────────────  │  flows, members, targets, ...
//!   starts with all that                              │
//!      │ ── Taken ──────────────────────────────────► │  ends, and withdraws nothing
//! ```
//! The running process thaws when the new one says that it failed, or dies; one that says nothing
//! for [`limits::TAKE_TIME`](crate::limits::TAKE_TIME) is killed first. The new process begins to
//! serve only when nothing can fail any more, right before it says `Taken`. So there is never none
//! that serves, and never two.
//!
//! | module | subject |
//! | --- | --- |
//! | `link` | messages and descriptors on the socket between the two |
//! | `parts` | what is known, cut into messages |
//! | `freeze` | stopping the running process's parts, and letting them go on |
//! | `give`, `take` | the two sides |
//! | `upgrade` | starting the new process, as `piasctl upgrade` does |

mod freeze;
mod give;
mod link;
mod parts;
mod take;
mod upgrade;

use std::{
    net::{IpAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use pias_datapath::engine;
use pias_overlay::NodeState;
use serde::{Deserialize, Serialize};

pub use freeze::{FreezeError, Frozen, Parts, be_heard, freeze};
pub use give::{Given, give};
pub use link::LinkError;
pub use take::{Offer, TakeError, Taking, connect};
pub use upgrade::{Command, UpgradeError, upgrade};

use crate::config::Config;

/// What a process says of itself: both must be the same proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The program's version, for the log.
    pub version: String,
    /// The proxy's name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Its TUN device.
    pub device: String,
    /// Its unicast addresses, in order.
    pub unicast: Vec<IpAddr>,
    /// Its NAT addresses.
    pub nat: Vec<IpAddr>,
    /// The anycast prefixes.
    pub anycast: Vec<IpNet>,
    /// The overlay's port.
    pub overlay_port: u16,
}

impl Hello {
    /// That of a process with this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: config.name.clone(),
            cluster: config.cluster.clone(),
            device: config.device.clone(),
            unicast: config.unicast.clone(),
            nat: config.nat.clone(),
            anycast: config.anycast.clone(),
            overlay_port: config.overlay_port,
        }
    }

    /// The configuration's key that keeps two processes from being one proxy.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Option<&'static str> {
        [
            ("name", self.name != other.name),
            ("cluster", self.cluster != other.cluster),
            ("tunnel.device", self.device != other.device),
            ("proxy.unicast", self.unicast != other.unicast),
            ("proxy.nat", self.nat != other.nat),
            ("anycast.prefixes", self.anycast != other.anycast),
            ("overlay.port", self.overlay_port != other.overlay_port),
        ]
        .into_iter()
        .find_map(|(key, differs)| differs.then_some(key))
    }
}

/// What the new process gets.
#[derive(Debug)]
pub struct Legacy {
    /// The datapath's part.
    pub engine: engine::HandOver,
    /// The overlay's part.
    pub node: NodeState,
    /// The overlay's sockets, in the order of the unicast addresses.
    pub overlay: Vec<UdpSocket>,
    /// Where Prometheus scrapes.
    pub metrics: TcpListener,
}

/// The socket of the hand-over, beside that of the admin API.
#[must_use]
pub fn socket_path(admin_socket: &Path) -> PathBuf {
    admin_socket.with_extension("hand-over")
}

#[cfg(test)]
mod tests;
