//! The driver: a queue of events, and the hosts that they happen to.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use pias_overlay::{AgentId, Delivery, Effect, Node, NodeConfig, Policy, Seed};
use pias_protocol::{
    agent::{AgentMessage, JapMessage, Leave},
    forwarding::{ForwardingEvent, ProbeOutcome},
    group::GroupKey,
    hash::{self, FlowKey},
    ids::{ProxyId, TargetId},
    overlay::OverlayMessage,
    time::Time,
};

use crate::{
    agent::{Agent, AgentNo, ROUTING, Service},
    datapath::{Action, Arrival, Datapath, Outcome, Packet},
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

    // Time.

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

    // Proxies.

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

    fn host(&self, name: &str) -> usize {
        let id = ProxyId::of(name);
        *self.ids.get(&id).expect("the topology has a proxy of this name")
    }

    fn boot(&mut self, n: usize) {
        let seeds = (0..self.topology.clusters.len()).filter_map(|cluster| {
            let first = self.hosts.iter().position(|host| host.cluster == cluster)?;
            Some(Seed { name: self.hosts[first].name.clone(), address: address(first) })
        });
        let host = &self.hosts[n];
        let config = NodeConfig {
            name: host.name.clone(),
            cluster: self.topology.clusters[host.cluster].name.clone(),
            unicast: vec![address(n)],
            anycast: vec![ipnet::Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24).into()],
            seeds: seeds.collect(),
            heartbeat: pias_overlay::DEFAULT_HEARTBEAT,
            policies: self.policies.clone(),
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

    // Targets.

    /// An agent near a cluster joins its target to a group.
    ///
    /// # Panics
    /// If `group` is no group.
    pub fn join(&mut self, cluster: usize, group: &str) -> AgentNo {
        let group = group.parse().expect("a group, as in 203.0.113.10:53/udp");
        let no = AgentNo(self.agents.len());
        self.agents.push(Agent::new(no.0, cluster, group));
        self.push(Duration::ZERO, Event::Reconnect { agent: no, generation: 0 });
        no
    }

    /// Where an agent's target is.
    #[must_use]
    pub fn target(&self, agent: AgentNo) -> SocketAddr {
        self.agents[agent.0].target
    }

    /// The name of an agent's JAP, if it holds a membership there.
    #[must_use]
    pub fn jap(&self, agent: AgentNo) -> Option<&str> {
        let agent = &self.agents[agent.0];
        agent.lease?;
        agent.connection.map(|(host, _)| self.hosts[host].name.as_str())
    }

    /// An agent leaves in good order.
    pub fn leave(&mut self, agent: AgentNo) {
        if let Some(lease) = self.agents[agent.0].lease {
            self.say(agent, Some(Leave { lease }.into()));
        }
        self.say(agent, None);
        self.agents[agent.0].runs = false;
    }

    /// Kills an agent: nothing is said, nothing is answered.
    pub fn kill_agent(&mut self, agent: AgentNo) {
        self.agents[agent.0].runs = false;
    }

    /// What a target's service does from now on.
    pub fn serve(&mut self, agent: AgentNo, service: Service) {
        self.agents[agent.0].service = service;
    }

    // Clients.

    /// A client's packet enters at a proxy. Its number.
    ///
    /// # Panics
    /// If `group` is no group.
    pub fn send(&mut self, ingress: &str, client: u16, group: &str) -> usize {
        let group: GroupKey = group.parse().expect("a group, as in 203.0.113.10:53/udp");
        let no = self.outcomes.len();
        let client = SocketAddr::from(([198, 18, 0, 1], client));
        let flow = FlowKey { client, group }.hash();
        let packet = Packet { no, flow, group, ingress: ProxyId::of(ingress), path: Vec::new() };
        self.outcomes.push(Outcome::Travels);
        let host = self.host(ingress);
        self.push(Duration::ZERO, Event::Packet { host, packet, arrival: Arrival::Client });
        no
    }

    /// What became of a packet.
    #[must_use]
    pub fn outcome(&self, packet: usize) -> &Outcome {
        &self.outcomes[packet]
    }

    /// Sends a packet and waits for what becomes of it, for at most two seconds.
    pub fn ask(&mut self, ingress: &str, client: u16, group: &str) -> Outcome {
        let no = self.send(ingress, client, group);
        self.until(Duration::from_secs(2), |sim| *sim.outcome(no) != Outcome::Travels);
        self.outcomes[no].clone()
    }

    // What happens.

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

    // Packets.

    fn packet(&mut self, host: usize, mut packet: Packet, arrival: Arrival) {
        let now = self.now;
        let name = self.hosts[host].name.clone();
        packet.path.push(name);
        let Some((_, datapath)) = &mut self.hosts[host].node else {
            self.end(packet.no, Outcome::Lost { path: packet.path });
            return;
        };
        let actions = datapath.arrive(packet, arrival, now);
        self.act(host, actions);
    }

    fn act(&mut self, host: usize, actions: Vec<Action>) {
        let epoch = self.hosts[host].epoch;
        for action in actions {
            match action {
                Action::Event(event) => {
                    self.push(crate::datapath::PARKED, Event::Unpark { host, epoch });
                    self.push(Duration::ZERO, Event::Forwarding { host, epoch, event });
                }
                Action::Tunnel { to, packet, arrival } => self.tunnel(host, to, packet, arrival),
                Action::Deliver { target, address, packet } => {
                    self.deliver(host, target, address, packet);
                }
                Action::Refuse(packet) => {
                    self.end(packet.no, Outcome::Refused { path: packet.path });
                }
                Action::Lose(packet) => self.end(packet.no, Outcome::Lost { path: packet.path }),
                Action::Probe(target) => self.probe(host, target),
            }
        }
    }

    fn tunnel(&mut self, host: usize, to: ProxyId, packet: Packet, arrival: Arrival) {
        let arrives = self.ids.get(&to).copied().and_then(|peer| {
            let (here, there) = (self.hosts[host].cluster, self.hosts[peer].cluster);
            Some((peer, self.network.packet(here, there, self.now)?))
        });
        match arrives {
            Some((peer, at)) => self.push_at(at, Event::Packet { host: peer, packet, arrival }),
            None => self.end(packet.no, Outcome::Lost { path: packet.path }),
        }
    }

    fn deliver(&mut self, host: usize, target: TargetId, address: SocketAddr, packet: Packet) {
        let path = packet.path;
        let event = match self.service(address) {
            Service::Serves => {
                self.end(packet.no, Outcome::Answered { target: address, path });
                None
            }
            Service::Refuses => {
                self.end(packet.no, Outcome::Refused { path });
                Some(ForwardingEvent::TargetRefuses(target))
            }
            Service::Silent => {
                self.end(packet.no, Outcome::Lost { path });
                let node = self.hosts[host].node.as_mut();
                node.and_then(|(_, datapath)| datapath.unanswered(target))
            }
        };
        if let Some(event) = event {
            let epoch = self.hosts[host].epoch;
            self.push(Duration::from_millis(1), Event::Forwarding { host, epoch, event });
        }
    }

    fn probe(&mut self, host: usize, target: TargetId) {
        let node = self.hosts[host].node.as_ref();
        let Some(address) = node.and_then(|(_, datapath)| datapath.target(target)) else { return };
        let (outcome, after) = match self.service(address) {
            Service::Serves => (ProbeOutcome::Answered, Duration::from_millis(1)),
            Service::Refuses => (ProbeOutcome::Refused, Duration::from_millis(1)),
            Service::Silent => (ProbeOutcome::Silent, Duration::from_secs(1)),
        };
        let epoch = self.hosts[host].epoch;
        let event = ForwardingEvent::ProbeDone { target, outcome };
        self.push(after, Event::Forwarding { host, epoch, event });
    }

    fn service(&self, target: SocketAddr) -> Service {
        let agent = self.agents.iter().find(|agent| agent.target == target);
        agent.map_or(Service::Silent, |agent| agent.service)
    }

    fn end(&mut self, no: usize, outcome: Outcome) {
        self.note(format_args!("packet {no}: {outcome:?}"));
        self.outcomes[no] = outcome;
    }

    // Agents.

    /// To the first announced proxy, nearest cluster first, as routing would have it.
    fn connect(&mut self, no: AgentNo, generation: u64) {
        let agent = &self.agents[no.0];
        if !agent.runs || agent.generation != generation {
            return;
        }
        let near = self.topology.by_distance(agent.cluster);
        let reachable = near.into_iter().filter(|&c| self.network.connected(agent.cluster, c));
        let host = reachable.flat_map(|cluster| {
            let own = self.hosts.iter().enumerate().filter(move |(_, h)| h.cluster == cluster);
            own.filter(|(_, h)| h.announced).map(|(n, _)| n).collect::<VecDeque<_>>()
        });
        let Some(host) = host.into_iter().next() else {
            self.reconnect(no, Duration::from_millis(100));
            return;
        };
        self.last_agent += 1;
        let id = AgentId(self.last_agent);
        self.hosts[host].agents.insert(id, no);
        let agent = &mut self.agents[no.0];
        agent.connection = Some((host, id));
        agent.generation += 1;
        let (remote, join, generation) = (agent.remote(), agent.join(), agent.generation);
        let keep_alive = agent.keep_alive;
        self.with_node(host, |node, now| node.agent_connected(id, remote, now));
        self.say(no, Some(join));
        self.push(keep_alive, Event::AgentTick { agent: no, generation });
    }

    fn reconnect(&mut self, no: AgentNo, after: Duration) {
        let agent = &mut self.agents[no.0];
        agent.connection = None;
        agent.lease = None;
        agent.generation += 1;
        let generation = agent.generation;
        self.push(after, Event::Reconnect { agent: no, generation });
    }

    /// An agent says something to its JAP, or (`None`) closes.
    fn say(&mut self, no: AgentNo, message: Option<AgentMessage>) {
        let agent = &self.agents[no.0];
        let Some((host, _)) = agent.connection else { return };
        let delay = self.network.delay(agent.cluster, self.hosts[host].cluster);
        let generation = agent.generation;
        self.push(delay, Event::FromAgent { agent: no, generation, message });
    }

    fn agent_says(&mut self, no: AgentNo, generation: u64, message: Option<AgentMessage>) {
        let agent = &self.agents[no.0];
        let Some((host, id)) = agent.connection.filter(|_| agent.generation == generation) else {
            return;
        };
        match message {
            Some(message) => self.with_node(host, |node, now| node.agent_message(id, message, now)),
            None => {
                self.hosts[host].agents.remove(&id);
                self.with_node(host, |node, now| node.agent_closed(id, now));
            }
        }
    }

    /// A keep-alive; or, where the JAP died and routing moved the agent's packets to another proxy,
    /// that one's stateless reset, upon which the agent joins anew.
    fn agent_tick(&mut self, no: AgentNo, generation: u64) {
        let agent = &mut self.agents[no.0];
        if !agent.runs || agent.generation != generation {
            return;
        }
        let Some((host, id)) = agent.connection else { return };
        let (mut wait, keep_alive) = (agent.keep_alive, agent.keep_alive());
        let host = &self.hosts[host];
        if host.agents.contains_key(&id) {
            self.say(no, Some(keep_alive));
        } else if host.announced || self.now - host.died >= ROUTING {
            self.reconnect(no, Duration::from_millis(1));
            return;
        } else {
            wait = ROUTING;
        }
        self.push(wait, Event::AgentTick { agent: no, generation });
    }
}

fn address(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xC633_6401 + host as u32))
}
