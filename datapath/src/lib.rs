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
//! | [`pipeline`] | the decisions: ingress, rendezvous, join, return, ICMP |
//! | [`packet`], [`wire`], [`checksum`], [`classify`] | a packet in its buffer, and what it is |
//! | [`rewrite`], [`split`] | changes of packets |
//! | [`icmp_error`], [`icmp_translate`], [`tcp_reset`] | answers, and errors on their way |
//! | [`table`], [`flow`], [`fragment`], [`parking`] | what is known |
//! | [`health`], [`probe`] | what targets show of themselves |
//! | [`rate`], [`limits`], [`slots`] | bounds |
//! | [`mapped`] | memory that the kernel shares |
//! | [`counters`], [`drop_reason`], [`explain`] | what an operator sees |
//! | [`xdp`] | what the kernel does before: programs, and the tables that they share |
//! | [`engine`] | the I/O around the pipeline: TUN device and tunnel sockets |
//! | [`mod@bench`] | what XDP is measured with |

pub mod bench;
pub mod checksum;
pub mod classify;
pub mod counters;
pub mod drop_reason;
pub mod engine;
pub mod explain;
pub mod flow;
pub mod fragment;
pub mod health;
pub mod heirs;
pub mod icmp_error;
pub mod icmp_translate;
pub mod limits;
pub mod mapped;
pub mod packet;
pub mod parking;
pub mod pipeline;
pub mod probe;
pub mod rate;
pub mod rewrite;
pub mod slots;
pub mod split;
pub mod table;
pub mod tcp_reset;
pub mod wire;
pub mod xdp;

#[cfg(test)]
mod testing;
