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
//! the same [`Sim::trace`] to the byte. What is modelled, and what is not: `docs/simulator.md`.

mod agent;
mod beliefs;
pub mod bench;
pub mod check;
mod datapath;
pub mod figures;
pub mod foca;
mod ids;
mod limits;
mod network;
mod places;
mod queue;
mod random;
mod routes;
mod sim;
mod tally;
mod topology;
mod trace;

pub use agent::{AgentNo, Service};
pub use beliefs::{Beliefs, Wrong};
pub use datapath::{Outcome, Packet};
pub use network::{Arrivals, Network, ROUTING};
pub use queue::Queue;
pub use random::Draws;
pub use routes::Routes;
pub use sim::{GRACE, HostNo, Setup, Sim};
pub use tally::{ACK, HANDSHAKE, Sent, Tally};
pub use topology::{Cluster, Link, Pop, ReadError, Topology, WITHIN, read};
pub use trace::Keep;
