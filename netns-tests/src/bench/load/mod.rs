//! The load generators, each a subcommand of `pias-lab load` that runs in a
//! host of the lab and prints one line of JSON.
//!
//! | command | what it does |
//! | --- | --- |
//! | `udp-echo` | sends every datagram back |
//! | `udp-rtt` | one request outstanding; exact percentiles of the time to its reply |
//! | `udp-rate` | many sockets with a window of requests each; replies per second |
//! | `tcp-accept` | a byte there and back on every connection |
//! | `tcp-connect` | connect, a byte there and back, close; connections per second |

mod connect;
mod percentile;
mod rate;
mod rtt;
mod tcp;
mod udp;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

pub(crate) use connect::ConnectReport;
pub(crate) use rate::RateReport;
pub(crate) use rtt::RttReport;

/// What a generator is to do.
#[derive(Debug, Subcommand)]
pub enum Load {
    /// Send every datagram back until killed
    UdpEcho {
        /// Where to listen
        at: SocketAddr,
    },
    /// Time 64-byte requests, one at a time
    UdpRtt {
        /// Whom to ask
        to: SocketAddr,
        /// Most requests
        #[arg(long)]
        count: usize,
        /// Longest time
        #[arg(long)]
        time: humantime::Duration,
    },
    /// Count replies to 64-byte requests at saturation
    UdpRate {
        /// Whom to ask
        to: SocketAddr,
        /// Time to count, after a warm-up of a quarter of it
        #[arg(long)]
        time: humantime::Duration,
    },
    /// Send the first byte of every connection back until killed
    TcpAccept {
        /// Where to listen
        at: SocketAddr,
    },
    /// Count connections that carry a byte there and back
    TcpConnect {
        /// Whom to connect to
        to: SocketAddr,
        /// Most connections
        #[arg(long)]
        count: usize,
        /// Longest time
        #[arg(long)]
        time: humantime::Duration,
    },
}

/// Why a generator gave up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A socket, or the thread that serves it.
    #[error("cannot {what} {address}: {source}")]
    Socket {
        /// What was tried: "listen at", "connect to".
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// Not one reply came.
    #[error("{0} does not answer: is its server up, and the way to it?")]
    Silent(SocketAddr),
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Report(#[from] io::Error),
}

fn failed(what: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Socket { what, address, source }
}

/// Runs a generator; the servers return only with an error.
pub(crate) fn run(load: &Load) -> Result<(), LoadError> {
    match *load {
        Load::UdpEcho { at } => match udp::echo(at)? {},
        Load::TcpAccept { at } => match tcp::accept(at)? {},
        Load::UdpRtt { to, count, time } => report(&rtt::measure(to, count, time.into())?),
        Load::UdpRate { to, time } => report(&rate::measure(to, time.into())?),
        Load::TcpConnect { to, count, time } => report(&connect::measure(to, count, time.into())?),
    }
}

fn report<T: Serialize>(report: &T) -> Result<(), LoadError> {
    let line = serde_json::to_string(report).map_err(io::Error::from)?;
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// How often something happened, per second.
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
