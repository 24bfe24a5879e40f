//! What the engine of the next process takes over from this one's, so that an upgrade loses nothing.
//!
//! ```text
//!   old engine                     new engine
//!     pause ──► hand_over ═══════► take_over, paused ◄── proxies, targets, lists (the overlay's)
//!     (packets wait in the           adopt: the flows
//!     kernel's queues)               resume
//!     stop
//! ```
//! Both processes hold the same device and sockets for a moment; only one of them reads.

use std::{net::UdpSocket, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

use crate::pipeline::Tables;

/// Names the tables that XDP and its engine have in common, one process after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesId(u64);

impl TablesId {
    /// That of tables over which flows are spread by this seed, which is random.
    pub(super) const fn of(seed: u64) -> Self {
        Self(seed)
    }
}

/// What an engine hands over.
#[derive(Debug)]
pub struct HandOver {
    /// The TUN device.
    pub device: TunDevice,
    /// The sockets that receive from other proxies, one per endpoint.
    pub tunnels: Vec<UdpSocket>,
    /// The flows, but for those in tables that the other process has as well.
    pub tables: Tables,
}

/// A TUN device that was made by [`start`](super::start), here or in another process.
#[derive(Debug)]
pub struct TunDevice {
    /// The device: it lives as long as one of its descriptors.
    pub descriptor: OwnedFd,
    /// Whether super-packets of UDP datagrams may be written to it.
    pub udp_segments: bool,
}
