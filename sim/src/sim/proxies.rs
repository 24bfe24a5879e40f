//! What a scenario does with proxies: start, stop, pause, drain, and look inside.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use pias_overlay::{Node, NodeConfig, Seed};
use pias_protocol::{hash, ids::ProxyId};

use super::Sim;
use crate::datapath::Datapath;

impl Sim {
    /// The node of a live proxy.
    ///
    /// # Panics
    /// If it is dead or unknown.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let host = &self.hosts[self.host(name)];
        host.node.as_ref().map(|(node, _)| node).expect("the proxy is alive")
    }

    /// The live proxies, by name.
    pub fn alive(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|host| host.node.is_some()).map(|host| host.name.as_str())
    }

    /// Whether a proxy's routes are announced.
    #[must_use]
    pub fn announced(&self, name: &str) -> bool {
        self.hosts[self.host(name)].announced
    }

    /// Kills a proxy, at once and without a word.
    pub fn crash(&mut self, name: &str) {
        let host = self.host(name);
        let (now, host) = (self.now, &mut self.hosts[host]);
        host.node = None;
        host.announced = false;
        host.died = now;
        host.epoch += 1;
        host.agents.clear();
        self.note(format_args!("{name} crashes"));
    }

    /// Starts a proxy that is dead.
    pub fn restart(&mut self, name: &str) {
        let host = self.host(name);
        self.boot(host);
    }

    /// Stops a proxy's process for a while: nothing is lost, all comes late.
    pub fn pause(&mut self, name: &str, time: Duration) {
        let host = self.host(name);
        self.hosts[host].paused_until = self.now + time;
        self.note(format_args!("{name} is paused"));
    }

    /// Drains a proxy.
    pub fn drain(&mut self, name: &str) {
        let host = self.host(name);
        self.with_node(host, Node::drain);
    }

    /// Cuts the ways between a cluster and all others.
    pub fn isolate(&mut self, cluster: usize) {
        for other in (0..self.topology.clusters.len()).filter(|&other| other != cluster) {
            self.network.cut(cluster, other);
        }
    }

    pub(super) fn host(&self, name: &str) -> usize {
        let id = ProxyId::of(name);
        *self.ids.get(&id).expect("the topology has a proxy of this name")
    }

    pub(super) fn boot(&mut self, n: usize) {
        let seeds = (0..self.topology.clusters.len()).filter_map(|cluster| {
            let first = self.hosts.iter().position(|host| host.cluster == cluster)?;
            Some(Seed { name: self.hosts[first].name.clone(), address: address(first) })
        });
        let host = &self.hosts[n];
        let config = NodeConfig {
            name: host.name.clone(),
            cluster: self.topology.clusters[host.cluster].name.clone(),
            unicast: vec![address(n)],
            nat: vec![],
            anycast: vec![ipnet::Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24).into()],
            seeds: seeds.collect(),
            heartbeat: pias_overlay::DEFAULT_HEARTBEAT,
            policies: self.policies.clone(),
            drain_wait: std::time::Duration::from_secs(5),
            incarnation: self.now.as_micros() / 1_000 + host.epoch + 1,
        };
        let seed = hash::mix(self.seed, (n as u64) << 32 | host.epoch);
        let node = Node::new(config, seed, self.now);
        let host = &mut self.hosts[n];
        host.epoch += 1;
        host.node = Some((node, Datapath::new(ProxyId::of(&host.name))));
        host.timeout = (None, host.timeout.1 + 1);
        let name = self.hosts[n].name.clone();
        self.note(format_args!("{name} starts"));
        self.pump(n);
    }
}

fn address(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xC633_6401 + host as u32))
}
