//! `piasd`, the proxy daemon, and `piasctl`, its control program.
//!
//! The daemon drives the sans-IO overlay and the datapath's engine: it has the clock, the sockets,
//! the keys and the configuration, and decides nothing about packets or members.
//!
//! ```text
//!          overlay_net ◄─── QUIC, mutual TLS ───► other proxies
//!              ▲
//!              ▼                 forward / event
//!  admin ──► brain (Node) ◄───────────────────────► engine ◄── packets
//!              ▲    │                                 ▲
//!              │    └─► routes                        │ datagrams of the registration port
//!          join_net ◄─────────────────────────────────┘ ◄─── QUIC ───► agents
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | [`config`] | the configuration file and its checks |
//! | [`daemon`] | start, drain and stop |
//! | [`brain`] | the task that owns the overlay's node |
//! | [`overlay_net`], [`join_net`], [`framing`] | QUIC with proxies and with agents |
//! | [`identity`], [`keys`] | certificates, and the shared secret of stateless resets |
//! | [`routes`], [`host`], [`notify`], [`incarnation`] | kernel, service manager, restarts |
//! | [`hand_over`] | a new piasd goes on where the running one ended |
//! | [`admin`], [`metrics`], [`log_limit`] | what operators see |
//! | [`ctl`] | `piasctl` |
//! | [`limits`] | every bound of the daemon |

pub mod admin;
pub mod brain;
pub mod config;
pub mod connection_ids;
pub mod ctl;
pub mod daemon;
pub mod framing;
pub mod hand_over;
pub mod host;
pub mod identity;
pub mod incarnation;
pub mod interfaces;
pub mod join_net;
pub mod keys;
pub mod limits;
pub mod log_limit;
pub mod metrics;
pub mod notify;
pub mod overlay_net;
pub mod routes;
#[cfg(test)]
mod testing;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The admin API's socket, unless the configuration names another.
pub const ADMIN_SOCKET: &str = "/run/pias/piasd.sock";

/// Where Prometheus scrapes, unless the configuration says otherwise.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9427);
