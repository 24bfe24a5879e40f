//! Packets: parse, classify, look up, decide, rewrite.
//!
//! [`pipeline::Pipeline`] is the reference of what happens to a packet: functions over bytes and
//! bounded tables, without I/O and without a clock. An engine reads packets from the TUN device and
//! from the tunnel's sockets, hands them in, and does what the [`pipeline::Verdict`] says.
//!
//! ```text
//!             from_tun                                       from_tunnel
//!   kernel ─────────────► ┌────────────────────────────────┐ ◄───────────── other proxies
//!                         │ parse → classify → look up →   │
//!   kernel ◄───────────── │ decide → rewrite               │ ─────────────► other proxies
//!             Tun         └────────────────────────────────┘   Peer
//!                           ▲ ForwardingUpdate   │ ForwardingEvent
//!                           └───── overlay ◄─────┘
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | [`packet`] | a packet in its buffer, and what is left to offload |
//! | [`pipeline`] | the verdicts: ingress, rendezvous, join, return, ICMP |
//! | [`counters`], [`drop_reason`] | what happened to packets |
//! | [`limits`] | every bound of this crate |
//! | [`explain`] | where a packet would go, and why |

pub mod counters;
pub mod drop_reason;
pub mod engine;
pub mod explain;
pub mod limits;
pub mod packet;
pub mod pipeline;
