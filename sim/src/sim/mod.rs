//! The driver: a queue of events, and the hosts that they happen to.

mod agents;
mod packets;
mod proxies;

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, time::Duration};

use pias_overlay::{AgentId, Delivery, Effect, Node, Policy};
use pias_protocol::{
    agent::{AgentMessage, JapMessage},
    forwarding::ForwardingEvent,
    ids::ProxyId,
    overlay::OverlayMessage,
    time::Time,
};

use crate::{
    agent::{Agent, AgentNo},
    datapath::{Arrival, Datapath, Outcome, Packet},
    network::Network,
    topology::Topology,
};

/// What is to happen.
#[derive(Debug)]
enum Event {
    Timeout { host: usize, generation: u64 },
    Message { host: usize, from: ProxyId, message: OverlayMessage },
    Packet { host: usize, packet: Packet, arrival: Arrival },
    Forwarding { host: usize, epoch: u64, event: ForwardingEvent },
    FromAgent { agent: AgentNo, generation: u64, message: Option<AgentMessage> },
    ToAgent { agent: AgentNo, generation: u64, message: JapMessage },
    AgentTick { agent: AgentNo, generation: u64 },
    Reconnect { agent: AgentNo, generation: u64 },
    Unpark { host: usize, epoch: u64 },
}

/// A proxy.
#[derive(Debug)]
struct Host {
    name: String,
    cluster: usize,
    /// `None` while it is dead.
    node: Option<(Node, Datapath)>,
    /// Counts starts: what was meant for a former life is void.
    epoch: u64,
    announced: bool,
    died: Time,
    paused_until: Time,
    timeout: (Option<Time>, u64),
    agents: BTreeMap<AgentId, AgentNo>,
}

/// A simulation.
#[derive(Debug)]
pub struct Sim {
    now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    pushed: u64,
    hosts: Vec<Host>,
    ids: BTreeMap<ProxyId, usize>,
    agents: Vec<Agent>,
    outcomes: Vec<Outcome>,
    topology: Topology,
    /// The network, for scenarios to damage.
    pub network: Network,
    policies: BTreeMap<SocketAddr, Policy>,
    seed: u64,
    last_agent: u64,
    trace: Option<String>,
}

impl Sim {
    /// All proxies of the topology, started within the first 100 ms.
    #[must_use]
    pub fn new(topology: Topology, seed: u64) -> Self {
        Self::with_policies(topology, seed, BTreeMap::new())
    }

    /// As [`Sim::new`], with policies of groups.
    #[must_use]
    pub fn with_policies(
        topology: Topology,
        seed: u64,
        policies: BTreeMap<SocketAddr, Policy>,
    ) -> Self {
        let mut hosts = Vec::new();
        for (cluster, pop) in topology.clusters.iter().enumerate() {
            hosts.extend((1..=pop.proxies).map(|n| Host {
                name: format!("{}{n}", pop.name),
                cluster,
                node: None,
                epoch: 0,
                announced: false,
                died: Time::ZERO,
                paused_until: Time::ZERO,
                timeout: (None, 0),
                agents: BTreeMap::new(),
            }));
        }
        let mut sim = Self {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            pushed: 0,
            ids: hosts.iter().enumerate().map(|(n, h)| (ProxyId::of(&h.name), n)).collect(),
            hosts,
            agents: Vec::new(),
            outcomes: Vec::new(),
            network: Network::new(&topology, seed),
            topology,
            policies,
            seed,
            last_agent: 0,
            trace: Some(String::new()),
        };
        for host in 0..sim.hosts.len() {
            sim.boot(host);
        }
        sim
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until a condition holds. How long that took, or `None` if it did not within
    /// `at_most`.
    pub fn until(
        &mut self,
        at_most: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let (start, end) = (self.now, self.now + at_most);
        while !holds(self) {
            if !self.step(end) {
                self.now = end;
                return holds(self).then(|| self.now - start);
            }
        }
        Some(self.now - start)
    }

    /// The next event up to `end`, if there is one.
    fn step(&mut self, end: Time) -> bool {
        match self.queue.first_key_value() {
            Some((&(at, _), _)) if at <= end => {}
            _ => return false,
        }
        if let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.happen(event);
        }
        true
    }

    /// What happened, line by line.
    #[must_use]
    pub fn trace(&self) -> &str {
        self.trace.as_deref().unwrap_or_default()
    }

    /// Keeps no trace: large runs need the memory.
    pub fn without_trace(&mut self) {
        self.trace = None;
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.push_at(self.now + after, event);
    }

    fn push_at(&mut self, at: Time, event: Event) {
        self.pushed += 1;
        self.queue.insert((at, self.pushed), event);
    }

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            // Writing to a String cannot fail.
            let _ = writeln!(trace, "{} {line}", self.now);
        }
    }

    /// A paused process does nothing: what happens to it happens when it goes on.
    fn postponed(&self, event: &Event) -> Option<Time> {
        let host = match event {
            Event::Timeout { host, .. }
            | Event::Message { host, .. }
            | Event::Packet { host, .. }
            | Event::Forwarding { host, .. }
            | Event::Unpark { host, .. } => *host,
            Event::FromAgent { agent, .. } => self.agents[agent.0].connection?.0,
            Event::ToAgent { .. } | Event::AgentTick { .. } | Event::Reconnect { .. } => {
                return None;
            }
        };
        let until = self.hosts[host].paused_until;
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.postponed(&event) {
            self.push_at(until, event);
            return;
        }
        match event {
            Event::Timeout { host, generation } => {
                if self.hosts[host].timeout.1 == generation {
                    self.hosts[host].timeout.0 = None;
                    self.with_node(host, Node::handle_timeout);
                }
            }
            Event::Message { host, from, message } => {
                self.with_node(host, |node, now| node.handle_message(from, message, now));
            }
            Event::Packet { host, packet, arrival } => self.packet(host, packet, arrival),
            Event::Forwarding { host, epoch, event } => {
                if self.hosts[host].epoch == epoch {
                    self.with_node(host, |node, now| node.handle_event(event, now));
                }
            }
            Event::FromAgent { agent, generation, message } => {
                self.agent_says(agent, generation, message);
            }
            Event::ToAgent { agent, generation, message } => {
                let who = &mut self.agents[agent.0];
                if who.runs
                    && who.generation == generation
                    && let Some(answer) = who.hear(&message)
                {
                    self.say(agent, Some(answer));
                }
            }
            Event::AgentTick { agent, generation } => self.agent_tick(agent, generation),
            Event::Reconnect { agent, generation } => self.connect(agent, generation),
            Event::Unpark { host, epoch } => {
                let now = self.now;
                if self.hosts[host].epoch == epoch
                    && let Some((_, datapath)) = &mut self.hosts[host].node
                {
                    let actions = datapath.expire(now);
                    self.act(host, actions);
                }
            }
        }
    }

    fn with_node(&mut self, host: usize, act: impl FnOnce(&mut Node, Time)) {
        let now = self.now;
        if let Some((node, _)) = &mut self.hosts[host].node {
            act(node, now);
            self.pump(host);
        }
    }

    /// Does what a node wishes, and sets its timer.
    fn pump(&mut self, host: usize) {
        while let Some((node, _)) = &mut self.hosts[host].node
            && let Some(effect) = node.poll_effect()
        {
            self.effect(host, effect);
        }
        let Some((node, _)) = &self.hosts[host].node else { return };
        let wanted = node.next_timeout().map(|deadline| deadline.at.max(self.now));
        let (set, generation) = self.hosts[host].timeout;
        if wanted != set {
            let generation = generation + 1;
            self.hosts[host].timeout = (wanted, generation);
            if let Some(at) = wanted {
                self.push_at(at, Event::Timeout { host, generation });
            }
        }
    }

    fn effect(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Send { to, delivery, message, .. } => self.message(host, to, delivery, message),
            Effect::Forward(update) => {
                let now = self.now;
                if let Some((_, datapath)) = &mut self.hosts[host].node {
                    let actions = datapath.apply(update, now);
                    self.act(host, actions);
                }
            }
            Effect::Agent { agent, message } => {
                if let Some(&agent) = self.hosts[host].agents.get(&agent) {
                    let who = &self.agents[agent.0];
                    let generation = who.generation;
                    let delay = self.network.delay(self.hosts[host].cluster, who.cluster);
                    self.push(delay, Event::ToAgent { agent, generation, message });
                }
            }
            Effect::CloseAgent { agent, .. } => {
                if let Some(agent) = self.hosts[host].agents.remove(&agent) {
                    self.reconnect(agent, Duration::from_millis(1));
                }
            }
            Effect::Announce(ready) => {
                self.hosts[host].announced = ready;
                let name = self.hosts[host].name.clone();
                self.note(format_args!("{name} announces: {ready}"));
            }
            Effect::Notice(notice) => {
                let name = self.hosts[host].name.clone();
                self.note(format_args!("{name}: {notice}"));
            }
        }
    }

    fn message(&mut self, host: usize, to: ProxyId, delivery: Delivery, message: OverlayMessage) {
        let Some(&peer) = self.ids.get(&to) else { return };
        let (here, there) = (self.hosts[host].cluster, self.hosts[peer].cluster);
        let at = match delivery {
            Delivery::Datagram => self.network.packet(here, there, self.now),
            Delivery::Stream => self.network.stream((host, peer), here, there, self.now),
        };
        if delivery == Delivery::Stream && self.trace.is_some() {
            let (from, to) = (self.hosts[host].name.clone(), self.hosts[peer].name.clone());
            self.note(format_args!("{from} to {to}: {message:?}"));
        }
        if let Some(at) = at {
            let from = ProxyId::of(&self.hosts[host].name);
            self.push_at(at, Event::Message { host: peer, from, message });
        }
    }
}
