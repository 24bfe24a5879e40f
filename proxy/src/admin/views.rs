//! The admin API's answers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use pias_datapath::{
    counters::Counters,
    engine::FastView,
    pipeline::{FlowRole, FlowView, Occupancy},
    xdp::layout::Mode,
};
use pias_overlay::{ExplainView, GroupDetailView, GroupView, ProxyView, StatusView, TargetView};
use pias_protocol::{
    group::{GroupKey, Protocol, parse_group},
    ids::ProxyId,
};
use serde::Serialize;

use super::ApiError;

/// `GET /status`.
#[derive(Serialize)]
pub struct Status {
    /// The overlay's part.
    #[serde(flatten)]
    pub overlay: StatusView,
    /// The program's version.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Open connections with other proxies.
    pub connections: usize,
    /// The datapath's part.
    pub engine: Engine,
}

/// The datapath's figures.
#[derive(Serialize)]
pub struct Engine {
    /// What forwards: `xdp`, in front of the TUN engine, or `tun`, that engine alone.
    pub kind: &'static str,
    /// The interfaces that XDP should work on.
    pub interfaces: Vec<Interface>,
    /// Packets by the way they went.
    pub paths: BTreeMap<&'static str, u64>,
    /// Packets that went no further, for whatever reason.
    pub dropped: u64,
    /// How full the tables are.
    pub tables: Occupancy,
}

impl Engine {
    /// The figures of these counters.
    #[must_use]
    pub fn new(counters: &Counters, tables: Occupancy, fast: &FastView) -> Self {
        let attached = fast.interfaces.iter().any(|(_, mode)| mode.is_ok());
        Self {
            kind: if attached { "xdp" } else { "tun" },
            interfaces: fast.interfaces.iter().map(Interface::new).collect(),
            paths: counters.paths().map(|(path, packets)| (path.name(), packets)).collect(),
            dropped: counters.all_drops().map(|(_, packets)| packets).sum(),
            tables,
        }
    }
}

/// An interface that XDP should work on.
#[derive(Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native`, or `generic`; without one, what enters there takes the TUN device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'static str>,
    /// Why XDP does not work there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Interface {
    fn new((name, mode): &(String, Result<Mode, String>)) -> Self {
        let (name, reason) = (name.clone(), mode.as_ref().err().cloned());
        Self { name, mode: mode.as_ref().ok().map(|mode| mode.name()), reason }
    }
}

/// `GET /proxies`.
#[derive(Serialize)]
pub struct Proxies {
    /// All known proxies, this one among them.
    pub proxies: Vec<ProxyView>,
}

/// `GET /groups`.
#[derive(Serialize)]
pub struct Groups {
    /// All groups that this proxy has to do with.
    pub groups: Vec<GroupView>,
}

/// `GET /group`.
#[derive(Serialize)]
pub struct GroupDetails {
    /// The group's protocols, each of which is a group of its own.
    pub groups: Vec<GroupDetailView>,
}

/// `GET /targets`.
#[derive(Serialize)]
pub struct Targets {
    /// All targets registered here.
    pub targets: Vec<TargetView>,
}

/// `POST /upgrade`.
#[derive(Serialize)]
pub struct Upgraded {
    /// The process that serves from now on.
    pub pid: u32,
    /// For how long packets waited, in milliseconds.
    pub paused_ms: f64,
}

/// `GET /flows`, `GET /flows?group=...`.
#[derive(Serialize)]
pub struct Flows {
    /// Flows that pass here, of one group or of all, at most [`crate::limits::FLOWS_LISTED`].
    pub flows: Vec<Flow>,
}

/// One flow.
#[derive(Serialize)]
pub struct Flow {
    /// Who sends.
    pub client: SocketAddr,
    /// To which group.
    pub group: String,
    /// `ingress`, `join` or `standby`.
    pub role: &'static str,
    /// As an ingress: the JAP. Standing by: whose flow it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// As a JAP, or standing by: the target's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<SocketAddr>,
    /// As a JAP: the target's membership.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// As a JAP, or standing by: the source that the target sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<SocketAddr>,
    /// As a JAP: `opening`, `open` or `closing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// Seconds since the flow began here.
    pub age_s: u64,
    /// Seconds since its last packet.
    pub idle_s: u64,
}

impl Flow {
    /// A flow with names in place of ids.
    #[must_use]
    pub fn new(flow: &FlowView, names: &Names) -> Self {
        let mut shown = Self {
            client: flow.client,
            group: flow.group.to_string(),
            role: "ingress",
            proxy: None,
            target: None,
            lease: None,
            nat: None,
            state: None,
            age_s: flow.age_s,
            idle_s: flow.idle_s,
        };
        match flow.role.clone() {
            FlowRole::Ingress { proxy } => shown.proxy = Some(names.of(proxy)),
            FlowRole::Standby { proxy, target, nat } => {
                shown.role = "standby";
                shown.proxy = Some(names.of(proxy));
                shown.target = Some(target);
                shown.nat = Some(nat);
            }
            FlowRole::Join { lease, target, nat, state } => {
                shown.role = "join";
                shown.lease = Some(lease.0);
                shown.target = Some(target);
                shown.nat = Some(nat);
                shown.state = Some(state);
            }
        }
        shown
    }
}

/// `GET /drops`.
#[derive(Serialize)]
pub struct Drops {
    /// All reasons, those that never happened too.
    pub drops: Vec<Drop>,
}

/// One reason.
#[derive(Serialize)]
pub struct Drop {
    /// Its name, as in `pias_drops_total{reason="..."}`.
    pub reason: &'static str,
    /// Packets that went no further for it.
    pub packets: u64,
}

impl Drops {
    /// The drops among these counters.
    #[must_use]
    pub fn new(counters: &Counters) -> Self {
        let drops = counters
            .all_drops()
            .map(|(reason, packets)| Drop { reason: reason.name(), packets })
            .collect();
        Self { drops }
    }
}

/// `GET /explain`.
#[derive(Serialize)]
pub struct Explained {
    /// Who would send, as asked.
    pub client: String,
    /// The overlay's reasoning.
    #[serde(flatten)]
    pub overlay: ExplainView,
    /// The datapath's decisions, one a line.
    pub datapath: Vec<String>,
}

/// `POST /drain`.
#[derive(Serialize)]
pub struct Drained {
    /// Always true.
    pub draining: bool,
}

/// Names of proxies by id.
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Those of these proxies.
    #[must_use]
    pub fn new(proxies: &[ProxyView]) -> Self {
        Self(proxies.iter().map(|proxy| (proxy.id.clone(), proxy.name.clone())).collect())
    }

    /// The name of a proxy, or its id where it is not known any more.
    #[must_use]
    pub fn of(&self, id: ProxyId) -> String {
        let id = id.to_string();
        self.0.get(&id).cloned().unwrap_or(id)
    }
}

/// A client as an operator writes it: an address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// With its port, if that was written.
    pub socket: Option<SocketAddr>,
}

impl Client {
    /// Reads `IP` or `IP:port`.
    ///
    /// # Errors
    /// [`ApiError::Question`] for anything else.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self { address: socket.ip(), socket: Some(socket) });
        }
        let address = text.parse().map_err(|_| {
            ApiError::Question(format!(
                "`{text}` is no client: write 198.51.100.7, 198.51.100.7:40000 or [2001:db8::7]:40000"
            ))
        })?;
        Ok(Self { address, socket: None })
    }
}

/// The groups that `AA:port` (TCP, then UDP) or `AA:port/proto` mean; at least one.
///
/// # Errors
/// [`ApiError::Question`] for what names no group.
pub fn group_keys(text: &str) -> Result<Vec<GroupKey>, ApiError> {
    let (socket, protocol) =
        parse_group(text).map_err(|error| ApiError::Question(error.to_string()))?;
    let protocols = protocol.map_or(vec![Protocol::Tcp, Protocol::Udp], |one| vec![one]);
    let key = |protocol| GroupKey { address: socket.ip(), port: socket.port(), protocol };
    Ok(protocols.into_iter().map(key).collect())
}
