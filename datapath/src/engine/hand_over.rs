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

use crate::pipeline::Tables;

/// What an engine hands over.
#[derive(Debug)]
pub struct HandOver {
    /// The TUN device.
    pub device: TunDevice,
    /// The sockets that receive from other proxies, one per endpoint.
    pub tunnels: Vec<UdpSocket>,
    /// The flows.
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
