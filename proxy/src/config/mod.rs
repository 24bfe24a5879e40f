//! The daemon's configuration: one TOML file, read once at start.
//!
//! [`load`] checks everything that can be known before the start, files and certificates included,
//! and names the line of each fault.

mod check;
pub(crate) use check::is_label;
mod file;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use pias_overlay::{Policy, Seed};

use crate::{identity::Identity, keys::ResetKeys};

/// A checked configuration, with the keys that it names.
pub struct Config {
    /// The proxy's name, as in its certificate.
    pub name: String,
    /// The name of its cluster.
    pub cluster: String,
    /// Where it keeps what must outlive a restart.
    pub state_directory: PathBuf,
    /// The anycast prefixes.
    pub anycast: Vec<IpNet>,
    /// Ends of tunnels and of the overlay's connections, at most one a family.
    pub unicast: Vec<IpAddr>,
    /// Sources of NAT delivery, at most one a family.
    pub nat: Vec<IpAddr>,
    /// UDP port of the overlay.
    pub overlay_port: u16,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Proxies to ask for the others.
    pub seeds: Vec<Seed>,
    /// Certificate, key and the operator's CA.
    pub identity: Identity,
    /// What all proxies derive their stateless resets from.
    pub reset_keys: ResetKeys,
    /// Name of the TUN device.
    pub device: String,
    /// MTU of the underlay in octets.
    pub mtu: u16,
    /// What forwards packets.
    pub engine: Engine,
    /// Interfaces that XDP works on; if none is named, all network cards.
    pub interfaces: Vec<String>,
    /// Path of the admin API's socket.
    pub admin_socket: PathBuf,
    /// Where Prometheus scrapes.
    pub metrics: SocketAddr,
    /// Between withdrawing the routes and stopping.
    pub drain_wait: Duration,
    /// Policies of groups; all others are `nearest`.
    pub groups: Vec<(SocketAddr, Policy)>,
}

/// What forwards packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// XDP where it can be had, in front of the TUN engine.
    Auto,
    /// The same, and no start without.
    Xdp,
    /// The TUN engine alone.
    Tun,
}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
    /// The line as written.
    pub text: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its content is wrong; at least one fault.
    #[error("{}", Faults(.path, .faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// All that was found, in the order of the file.
        faults: Vec<Fault>,
    },
}

struct Faults<'a>(&'a Path, &'a [Fault]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.1.iter().enumerate() {
            let Fault { line, column, message, text } = fault;
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{line}:{column}: {message}\n  {line} | {text}", self.0.display())?;
        }
        Ok(())
    }
}

/// Reads and checks a configuration.
///
/// # Errors
/// [`ConfigError`], which lists every fault with its line.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })
}

/// Checks the text of a configuration.
///
/// # Errors
/// Every fault, in the order of the text.
pub fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    let file: file::File = toml::from_str(text)
        .map_err(|error| vec![fault(text, error.span().unwrap_or(0..0).start, error.message())])?;
    check::check(file).map_err(|mut found| {
        found.sort_by_key(|(offset, _)| *offset);
        found.iter().map(|(offset, message)| fault(text, *offset, message)).collect()
    })
}

/// The fault at an octet of the text.
fn fault(text: &str, offset: usize, message: &str) -> Fault {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Fault {
        line: before.matches('\n').count() + 1,
        column: before[start..].chars().count() + 1,
        message: message.to_owned(),
        text: text[start..].lines().next().unwrap_or_default().trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests;
