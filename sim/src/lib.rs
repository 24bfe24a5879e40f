//! The overlay under a discrete-event clock: the very code of `piasd`'s brain, with a driver that
//! owns time, the network and a model of the datapath.
//!
//! ```text
//!              queue of events by time ──► Sim ──► Host { Node, Datapath } ──► effects ─┐
//!                       ▲                                                               │
//!                       └───────── Network: delay, loss, partitions ◄───────────────────┘
//! ```
//!
//! A run is a function of its [`Topology`], its seed and what a scenario does: the same again gives
//! the same [`Sim::trace`] to the byte.

mod agent;
mod datapath;
mod network;
mod sim;
mod topology;

pub use agent::{AgentNo, Service};
pub use datapath::{Outcome, Packet};
pub use network::Network;
pub use sim::Sim;
pub use topology::{Cluster, Topology};
