//! The test bed: a client, two proxies in a row, and a target.
//!
//! ```text
//!   client ──────── near ──────── far ──────── target
//!   10.1.0.2      .1   10.2.0.1  .2   10.3.0.1    .2
//!   2001:db8:1::2 ::1  2001:db8:2::1 ::2  2001:db8:3::1 ::2
//!
//!   anycast 203.0.113.0/24, 2001:db8:a::/48; NAT 192.0.2.1, 2001:db8:f1::1 (near),
//!   192.0.2.2, 2001:db8:f2::1 (far)
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
};

use pias_datapath::{
    engine::{
        self, Datagram, Engine, EngineConfig, EngineFailure, EngineHandle, FastConfig, HandOver,
        Hooks, Prepared, StartError,
    },
    limits::Limits,
    pipeline::PipelineConfig,
};
use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry, Target, TargetState},
    group::GroupKey,
    ids::{ProxyId, TargetId},
    placement::Candidate,
};

use super::hosts::{End, Host};

pub(crate) const NEAR: &str = "near";
pub(crate) const FAR: &str = "far";

/// Groups of both families, over UDP and TCP, and the target of each family.
pub(crate) const GROUPS: [[&str; 2]; 2] = [
    ["203.0.113.10:7/udp", "203.0.113.10:7/tcp"],
    ["[2001:db8:a::10]:7/udp", "[2001:db8:a::10]:7/tcp"],
];
pub(crate) const TARGETS: [&str; 2] = ["10.3.0.2:7", "[2001:db8:3::2]:7"];

/// Where hosts have a BPF file system, if they do.
pub(crate) const BPF_DIRECTORY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/bpf");

/// The hosts, linked and routed.
pub(crate) struct Bed {
    pub(crate) client: Host,
    pub(crate) near: Host,
    pub(crate) far: Host,
    pub(crate) target: Host,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let bed = Self {
            client: Host::new("client"),
            near: Host::new(NEAR),
            far: Host::new(FAR),
            target: Host::new("target"),
        };
        let default = ["0.0.0.0/0", "::/0"];
        bed.client.link(
            &bed.near,
            &End { addresses: &["10.1.0.2", "2001:db8:1::2"], routes: &default },
            &End { addresses: &["10.1.0.1", "2001:db8:1::1"], routes: &[] },
        );
        bed.near.link(
            &bed.far,
            &End {
                addresses: &["10.2.0.1", "2001:db8:2::1"],
                routes: &["10.3.0.0/24", "192.0.2.2", "2001:db8:3::/64", "2001:db8:f2::1"],
            },
            &End {
                addresses: &["10.2.0.2", "2001:db8:2::2"],
                routes: &["10.1.0.0/24", "192.0.2.1", "2001:db8:1::/64", "2001:db8:f1::1"],
            },
        );
        bed.far.link(
            &bed.target,
            &End { addresses: &["10.3.0.1", "2001:db8:3::1"], routes: &[] },
            &End { addresses: &["10.3.0.2", "2001:db8:3::2"], routes: &default },
        );
        bed
    }
}

/// A proxy: an engine, and routes to it.
pub(crate) struct Proxy {
    pub(crate) engine: Engine,
    pub(crate) handle: EngineHandle,
    pub(crate) registrations: Receiver<Datagram>,
    pub(crate) ended: Receiver<Result<(), EngineFailure>>,
}

/// Starts an engine on `host`, with these tunnel endpoints.
pub(crate) fn try_start(
    host: &Host,
    name: &str,
    unicast: &[&str],
    device: &str,
    fast: Option<FastConfig>,
) -> Result<Proxy, StartError> {
    run(host, name, unicast, device, fast, engine::start)
}

fn run(
    host: &Host,
    name: &str,
    unicast: &[&str],
    device: &str,
    fast: Option<FastConfig>,
    start: impl FnOnce(EngineConfig, Hooks) -> Result<Engine, StartError> + Send + 'static,
) -> Result<Proxy, StartError> {
    let config = engine_config(name, unicast, device, fast);
    host.run(move || Proxy::start_here(config, start))
}

/// What an engine with these tunnel endpoints is told.
pub(crate) fn engine_config(
    name: &str,
    unicast: &[&str],
    device: &str,
    fast: Option<FastConfig>,
) -> EngineConfig {
    let addresses = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
    let pipeline = PipelineConfig {
        self_id: ProxyId::of(name),
        anycast: ["203.0.113.0/24", "2001:db8:a::/48"]
            .iter()
            .map(|prefix| prefix.parse().unwrap())
            .collect(),
        nat: addresses(&nat(name)),
        unicast: addresses(unicast),
        underlay_mtu: 1500,
        limits: Limits::default(),
        seed: 7,
    };
    let pins = PathBuf::from(BPF_DIRECTORY).join(device);
    EngineConfig { device: device.to_owned(), pipeline, pins, fast }
}

fn nat(name: &str) -> [&'static str; 2] {
    match name {
        NEAR => ["192.0.2.1", "2001:db8:f1::1"],
        _ => ["192.0.2.2", "2001:db8:f2::1"],
    }
}

impl Proxy {
    /// Starts an engine on the host whose thread this is.
    pub(crate) fn start_here(
        config: EngineConfig,
        start: impl FnOnce(EngineConfig, Hooks) -> Result<Engine, StartError>,
    ) -> Result<Self, StartError> {
        let (registration, registrations) = channel();
        let (end, ended) = channel();
        let hooks = Hooks {
            event: Box::new(|_| true),
            registration: Box::new(move |datagram| registration.send(datagram).is_ok()),
            ended: Box::new(move |result| drop(end.send(result))),
        };
        let engine = start(config, hooks)?;
        let handle = engine.handle();
        Ok(Self { engine, handle, registrations, ended })
    }

    /// Starts an engine on `host`, with these tunnel endpoints, and routes to it.
    pub(crate) fn start(host: &Host, name: &str, unicast: &[&str]) -> Self {
        Self::start_with(host, name, unicast, None)
    }

    /// The same with XDP in front.
    pub(crate) fn start_with(
        host: &Host,
        name: &str,
        unicast: &[&str],
        fast: Option<FastConfig>,
    ) -> Self {
        let proxy = try_start(host, name, unicast, "pias0", fast).unwrap();
        route(host, name, proxy.engine.device_name());
        proxy
    }

    /// Starts an engine on `host` with what another one handed over.
    pub(crate) fn take_over(
        host: &Host,
        name: &str,
        unicast: &[&str],
        fast: Option<FastConfig>,
        legacy: HandOver,
    ) -> Result<Self, StartError> {
        run(host, name, unicast, "pias0", fast, move |config, hooks| {
            let prepared = Prepared::new(&config)?;
            engine::take_over(config, hooks, prepared, legacy.device, legacy.tunnels)
        })
    }

    /// Tells it of another proxy.
    pub(crate) fn peer(&self, name: &str, tunnel: &str) {
        let tunnel = address(tunnel);
        self.handle.update(ForwardingUpdate::Peer { id: ProxyId::of(name), tunnel }).unwrap();
    }

    /// Sends clients of `group` to the proxy `to`.
    pub(crate) fn ingress(&self, group: &str, to: &str) {
        let candidate = Candidate { proxy: ProxyId::of(to), tier: 0, weight: 1 };
        let entry = IngressEntry::Candidates(vec![candidate]);
        self.handle.update(ForwardingUpdate::Ingress { group: key(group), entry }).unwrap();
    }

    /// Makes `target` a target of `group`.
    pub(crate) fn target(&self, group: &str, target: &str) {
        let target = Target {
            id: TargetId(pias_protocol::hash::group(&key(group))),
            group: key(group),
            address: target.parse().unwrap(),
            weight: 1,
            state: TargetState::Up,
        };
        self.handle.update(ForwardingUpdate::Target(target)).unwrap();
    }
}

/// Routes the proxy's packets to its device.
pub(crate) fn route(host: &Host, name: &str, device: &str) {
    for prefix in ["203.0.113.0/24", "2001:db8:a::/48"].into_iter().chain(nat(name)) {
        host.ip(&format!("route add {prefix} dev {device}"));
    }
}

pub(crate) fn key(group: &str) -> GroupKey {
    group.parse().unwrap()
}

pub(crate) fn socket(group: &str) -> SocketAddr {
    key(group).socket()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
