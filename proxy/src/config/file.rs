//! The configuration file as it is written: TOML with spans, so that a fault has a line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use humantime_serde::Serde;
use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

/// A duration written as `200ms` or `5s`.
pub(super) type Span = Spanned<Serde<Duration>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) name: Spanned<String>,
    pub(super) cluster: Spanned<String>,
    pub(super) state_directory: Option<PathBuf>,
    pub(super) anycast: Anycast,
    pub(super) proxy: Proxy,
    #[serde(default)]
    pub(super) overlay: Overlay,
    pub(super) tls: Tls,
    #[serde(default)]
    pub(super) tunnel: Tunnel,
    #[serde(default)]
    pub(super) datapath: Datapath,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) drain: Drain,
    #[serde(default)]
    pub(super) group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anycast {
    pub(super) prefixes: Spanned<Vec<Spanned<IpNet>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proxy {
    pub(super) unicast: Spanned<Vec<Spanned<IpAddr>>>,
    pub(super) nat: Spanned<Vec<Spanned<IpAddr>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Overlay {
    pub(super) port: Option<Spanned<u16>>,
    pub(super) heartbeat: Option<Span>,
    #[serde(default)]
    pub(super) seeds: Vec<Seed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seed {
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Tls {
    pub(super) certificate_authority: Spanned<PathBuf>,
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    pub(super) reset_key: Spanned<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tunnel {
    pub(super) device: Option<Spanned<String>>,
    pub(super) mtu: Option<Spanned<u16>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Datapath {
    #[serde(default)]
    pub(super) engine: Engine,
    #[serde(default)]
    pub(super) interfaces: Vec<Spanned<String>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    #[default]
    Auto,
    Xdp,
    Tun,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) socket: Option<PathBuf>,
    pub(super) metrics: Option<Spanned<SocketAddr>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    pub(super) wait: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) address: Spanned<SocketAddr>,
    pub(super) policy: Policy,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    Nearest,
    Balanced,
    Random,
}
