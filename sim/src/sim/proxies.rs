//! What a scenario does with proxies: start, stop, drain, and look inside.

use std::net::{IpAddr, Ipv4Addr};

use pias_overlay::{MembersSnapshot, Node, NodeConfig, Seed};
use pias_protocol::{hash, ids::ProxyId};

use super::{
    Sim,
    event::Event,
    host::{HostNo, Running},
};
use crate::{datapath::Datapath, network::ROUTING};

/// Up to so many clusters every proxy has one of each among its seeds; beyond, so many drawn ones.
const SEEDS: usize = 16;

impl Sim {
    /// The node of a live proxy.
    ///
    /// # Panics
    /// If it is dead or unknown.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.node_at(self.host(name)).expect("the proxy is alive")
    }

    /// The node of a proxy by its number; `None` while it is dead.
    #[must_use]
    pub fn node_at(&self, host: HostNo) -> Option<&Node> {
        self.hosts[host].running.as_ref().map(|running| &running.node)
    }

    /// How many proxies there are, dead or alive.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// A proxy's name.
    #[must_use]
    pub fn name(&self, host: HostNo) -> &str {
        &self.hosts[host].name
    }

    /// A proxy's id.
    #[must_use]
    pub fn id(&self, host: HostNo) -> ProxyId {
        self.hosts[host].id
    }

    /// The cluster that a proxy is in.
    #[must_use]
    pub fn cluster_of(&self, host: HostNo) -> usize {
        self.hosts[host].cluster
    }

    /// The proxies of a cluster.
    #[must_use]
    pub fn in_cluster(&self, cluster: usize) -> std::ops::Range<HostNo> {
        self.first[cluster]..self.first[cluster + 1]
    }

    /// Whether a proxy's process exists.
    #[must_use]
    pub fn runs(&self, host: HostNo) -> bool {
        self.hosts[host].running.is_some()
    }

    /// Whether a proxy's process is stopped for a while.
    #[must_use]
    pub fn is_paused(&self, host: HostNo) -> bool {
        self.hosts[host].paused_until > self.now
    }

    /// The live proxies, by name.
    pub fn alive(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|host| host.running.is_some()).map(|host| host.name.as_str())
    }

    /// Whether a proxy's routes are announced.
    #[must_use]
    pub fn announced(&self, name: &str) -> bool {
        self.hosts[self.host(name)].announced
    }

    /// The number of a proxy.
    ///
    /// # Panics
    /// If the topology has none of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> HostNo {
        self.ids.get(ProxyId::of(name)).expect("the topology has a proxy of this name")
    }

    /// Kills a proxy, at once and without a word.
    pub fn crash(&mut self, name: &str) {
        self.crash_at(self.host(name));
    }

    /// As [`Sim::crash`], by number.
    pub fn crash_at(&mut self, n: HostNo) {
        self.hosts[n].renew(None);
        self.beliefs.forget_observer(n);
        self.push(ROUTING, Event::Route { host: n as u32 });
        let Self { hosts, trace, now, .. } = self;
        trace.note(*now, format_args!("{} crashes", hosts[n].name));
    }

    /// Starts a proxy that is dead.
    pub fn restart(&mut self, name: &str) {
        self.boot(self.host(name));
    }

    /// As [`Sim::restart`], by number.
    pub fn restart_at(&mut self, n: HostNo) {
        self.boot(n);
    }

    /// Drains a proxy.
    pub fn drain(&mut self, name: &str) {
        self.drain_at(self.host(name));
    }

    /// As [`Sim::drain`], by number.
    pub fn drain_at(&mut self, n: HostNo) {
        self.with_node(n, Node::drain);
    }

    /// Stops a proxy in good order: it says goodbye, and is dead.
    pub fn stop_at(&mut self, n: HostNo) {
        self.with_node(n, Node::leave);
        self.crash_at(n);
    }

    pub(super) fn announce(&mut self, n: HostNo, ready: bool) {
        self.hosts[n].announced = ready;
        self.push(ROUTING, Event::Route { host: n as u32 });
    }

    /// A proxy's machine starts piasd.
    pub(super) fn boot(&mut self, n: HostNo) {
        let config = self.config(n);
        let seed = hash::mix(self.seed, (n as u64) << 32 | u64::from(self.hosts[n].life));
        let now = self.hosts[n].local(self.now);
        let node = Node::new(config, seed, now);
        self.run(n, node, Datapath::new(self.hosts[n].id));
    }

    /// The same for a proxy that knows all others already, and so does its datapath.
    pub(super) fn boot_known(&mut self, n: HostNo, known: &MembersSnapshot) {
        let seed = hash::mix(self.seed, (n as u64) << 32 | u64::from(self.hosts[n].life));
        let node = Node::with_members(self.config(n), known, seed, self.hosts[n].local(self.now));
        self.run(n, node, Datapath::knowing(self.hosts[n].id, self.hosts.len()));
    }

    fn run(&mut self, n: HostNo, node: Node, datapath: Datapath) {
        self.hosts[n].renew(Some(Box::new(Running { node, datapath })));
        // What is said of its former life may still be on its way.
        self.disturb(n, self.now);
        self.beliefs.forget_observer(n);
        let Self { hosts, trace, now, .. } = self;
        trace.note(*now, format_args!("{} starts", hosts[n].name));
        self.pump(n);
    }

    pub(super) fn config(&self, n: HostNo) -> NodeConfig {
        let host = &self.hosts[n];
        NodeConfig {
            name: host.name.clone(),
            cluster: self.topology.clusters[host.cluster].name.clone(),
            unicast: vec![address(n)],
            nat: vec![],
            anycast: vec![ipnet::Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24).into()],
            seeds: self.seeds(n),
            heartbeat: pias_overlay::DEFAULT_HEARTBEAT,
            policies: self.policies.clone(),
            drain_wait: std::time::Duration::from_secs(5),
            incarnation: self.now.as_micros() / 1_000 + u64::from(host.life) + 1,
        }
    }

    /// The first proxy of its own cluster and of others.
    fn seeds(&self, n: HostNo) -> Vec<Seed> {
        let clusters = self.topology.clusters.len();
        let others: Vec<usize> = if clusters <= SEEDS {
            (0..clusters).collect()
        } else {
            let draw = |k: usize| hash::mix(n as u64, k as u64) as usize % clusters;
            std::iter::once(self.hosts[n].cluster).chain((1..SEEDS / 4).map(draw)).collect()
        };
        let seed = |cluster: usize| {
            let first = self.first[cluster];
            Seed { name: self.hosts[first].name.clone(), address: address(first) }
        };
        others.into_iter().map(seed).collect()
    }
}

fn address(host: HostNo) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xC633_6401 + host as u32))
}
