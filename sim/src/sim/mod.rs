//! The driver: the clock, and the hosts that events happen to.

mod agents;
mod event;
mod faults;
mod host;
mod packets;
mod proxies;
mod send;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pias_overlay::{AgentId, Effect, MembersSnapshot, Node, Policy, Shelf};
use pias_protocol::time::Time;

use self::{
    event::Event,
    host::{Host, Running},
};
pub use self::{faults::GRACE, host::HostNo};
use crate::{
    agent::Agent,
    beliefs::Beliefs,
    datapath::Outcome,
    ids::Ids,
    limits::MAX_INBOX,
    network::Network,
    places,
    queue::Queue,
    tally::Tally,
    topology::Topology,
    trace::{Keep, Trace},
};

/// What a simulation begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the proxies stand.
    pub topology: Topology,
    /// What all chance comes from.
    pub seed: u64,
    /// The policies of groups.
    pub policies: BTreeMap<SocketAddr, Policy>,
    /// How much of the run is kept for people.
    pub keep: Keep,
    /// Whether octets are counted: see [`Tally`].
    pub count_octets: bool,
    /// Whether proxies with equal tables hold them once: it makes no difference but in memory.
    pub share: bool,
}

impl Setup {
    /// The usual: all is kept, no policies.
    #[must_use]
    pub const fn new(topology: Topology, seed: u64) -> Self {
        let policies = BTreeMap::new();
        Self { topology, seed, policies, keep: Keep::All, count_octets: false, share: true }
    }

    /// Starts all proxies at time 0; they find each other through their seeds.
    #[must_use]
    pub fn start(self) -> Sim {
        let mut sim = Sim::of(self);
        for host in 0..sim.hosts.len() {
            sim.boot(host);
        }
        sim
    }

    /// Starts all proxies at time 0, each of which knows all others already: a service that has
    /// been running, of any size.
    #[must_use]
    pub fn start_known(self) -> Sim {
        let mut sim = Sim::of(self);
        let records = (0..sim.hosts.len()).map(|host| sim.config(host).record()).collect();
        let known = MembersSnapshot::of(records, &places::of_clusters(&sim.topology, &sim.network));
        for host in 0..sim.hosts.len() {
            sim.boot_known(host, &known);
        }
        sim
    }
}

/// A simulation.
#[derive(Debug)]
pub struct Sim {
    now: Time,
    queue: Queue<Event>,
    hosts: Vec<Host>,
    ids: Ids,
    /// The first host of each cluster, and one beyond the last.
    first: Vec<usize>,
    agents: Vec<Agent>,
    outcomes: Vec<Outcome>,
    topology: Topology,
    /// The network, for scenarios to damage.
    pub network: Network,
    policies: BTreeMap<SocketAddr, Policy>,
    seed: u64,
    last_agent: u64,
    trace: Trace,
    beliefs: Beliefs,
    tally: Tally,
    /// Tables that several nodes hold; `None` where nothing is shared.
    shelf: Option<Shelf>,
}

impl Sim {
    /// All proxies of the topology, started at once.
    #[must_use]
    pub fn new(topology: Topology, seed: u64) -> Self {
        Setup::new(topology, seed).start()
    }

    /// As [`Sim::new`], with policies of groups.
    #[must_use]
    pub fn with_policies(
        topology: Topology,
        seed: u64,
        policies: BTreeMap<SocketAddr, Policy>,
    ) -> Self {
        Setup { policies, ..Setup::new(topology, seed) }.start()
    }

    /// Nothing runs yet.
    fn of(setup: Setup) -> Self {
        let Setup { topology, seed, policies, keep, count_octets, share } = setup;
        let (mut hosts, mut first) = (Vec::new(), Vec::new());
        for (cluster, pop) in topology.clusters.iter().enumerate() {
            first.push(hosts.len());
            let name = |n| format!("{}{n}", pop.name);
            hosts.extend((1..=pop.proxies).map(|n| Host::new(name(n), cluster)));
        }
        first.push(hosts.len());
        let mut trace = Trace::default();
        trace.keep(keep);
        Self {
            now: Time::ZERO,
            queue: Queue::default(),
            ids: Ids::new(hosts.iter().map(|host| &host.name)),
            beliefs: Beliefs::new(&topology, &first),
            tally: Tally::new(hosts.len(), count_octets),
            hosts,
            first,
            agents: Vec::new(),
            outcomes: Vec::new(),
            network: Network::new(&topology, seed),
            topology,
            policies,
            seed,
            last_agent: 0,
            trace,
            shelf: share.then(Shelf::default),
        }
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// How many events wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Where the proxies stand.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What was counted.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Who takes whom for gone, as the nodes said themselves.
    #[must_use]
    pub const fn beliefs(&self) -> &Beliefs {
        &self.beliefs
    }

    /// Forgets what [`Sim::beliefs`] and [`Sim::tally`] counted up to now.
    pub fn count_anew(&mut self) {
        self.beliefs.count_anew();
        self.tally = Tally::new(self.hosts.len(), self.tally.counts_octets());
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until a condition holds. How long that took, or `None` if it did not within
    /// `at_most`. The condition is looked at after every event: for costly ones there is
    /// [`Sim::until_every`].
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

    /// As [`Sim::until`], looking only every `step`.
    pub fn until_every(
        &mut self,
        step: Duration,
        at_most: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !holds(self) {
            if self.now - start >= at_most {
                return None;
            }
            self.run_for(step);
        }
        Some(self.now - start)
    }

    /// What happened, line by line: empty unless all is kept.
    #[must_use]
    pub fn trace(&self) -> &str {
        self.trace.text()
    }

    /// The last lines of what happened, where [`Keep::Tail`] was chosen.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.trace.tail()
    }

    /// A hash of what happened: every line, whether the lines are kept or not (but not with
    /// [`Keep::Nothing`]).
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.trace.digest()
    }

    /// Keeps no trace: large runs need the time.
    pub fn without_trace(&mut self) {
        self.trace.keep(Keep::Nothing);
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, line);
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now + after, event);
    }

    /// The next event up to `end`, if there is one.
    fn step(&mut self, end: Time) -> bool {
        let Some((at, event)) = self.queue.pop(end) else { return false };
        // A queue's past cannot be changed: what was pushed for an earlier time happens now.
        self.now = at.max(self.now);
        self.tally.events += 1;
        match self.concerned(&event) {
            Some(host) if self.waits(host) => self.put_in_inbox(host, event),
            Some(host) => {
                self.happen(event);
                self.hosts[host].worked(self.now);
            }
            None => self.happen(event),
        }
        true
    }

    /// The host whose process an event needs.
    fn concerned(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Timeout { host }
            | Event::Message { host, .. }
            | Event::Packet { host, .. }
            | Event::Forwarding { host, .. }
            | Event::Unpark { host, .. } => Some(*host as usize),
            Event::Opened { agent, .. } | Event::FromAgent { agent, .. } => {
                self.agents[agent.0].connection.map(|(host, _)| host)
            }
            Event::ToAgent { .. }
            | Event::AgentTick { .. }
            | Event::Reconnect { .. }
            | Event::Reset { .. }
            | Event::Wake { .. }
            | Event::Route { .. } => None,
        }
    }

    /// Whether a host's process does not get to anything now.
    fn waits(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.free_at() > self.now || !host.inbox.is_empty()
    }

    /// A paused or busy process does nothing: what happens to it happens when it goes on.
    fn put_in_inbox(&mut self, n: usize, event: Event) {
        let host = &mut self.hosts[n];
        if host.inbox.len() >= MAX_INBOX && event.may_be_lost() {
            self.tally.inbox_full += 1;
            return;
        }
        host.inbox.push_back(event);
        self.wake_later(n);
    }

    fn wake_later(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if !std::mem::replace(&mut host.waking, true) {
            let at = host.free_at();
            self.queue.push(at, Event::Wake { host: n as u32 });
        }
    }

    /// A host's process goes on.
    fn wake(&mut self, n: usize) {
        self.hosts[n].waking = false;
        while self.hosts[n].free_at() <= self.now
            && let Some(event) = self.hosts[n].inbox.pop_front()
        {
            self.happen(event);
            self.hosts[n].worked(self.now);
        }
        if !self.hosts[n].inbox.is_empty() {
            self.wake_later(n);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Timeout { host } => self.timeout(host as usize),
            Event::Message { host, from, life, message } => {
                self.arrive(host as usize, from as usize, life, message);
            }
            Event::Packet { host, packet, arrival } => {
                self.packet(host as usize, *packet, arrival);
            }
            Event::Forwarding { host, life, event } => {
                if self.hosts[host as usize].life == life {
                    self.with_node(host as usize, |node, now| node.handle_event(*event, now));
                }
            }
            Event::Unpark { host, life } => self.unpark(host as usize, life),
            Event::Opened { agent, generation } => self.opened(agent, generation),
            Event::FromAgent { agent, generation, message } => {
                self.agent_says(agent, generation, message.map(|message| *message));
            }
            Event::ToAgent { agent, generation, message } => {
                self.agent_hears(agent, generation, &message);
            }
            Event::AgentTick { agent, generation } => self.agent_tick(agent, generation),
            Event::Reconnect { agent, generation } => self.connect(agent, generation),
            Event::Reset { agent, connection } => self.reset(agent, connection),
            Event::Wake { host } => self.wake(host as usize),
            Event::Route { host } => self.hosts[host as usize].follow(),
        }
    }

    /// A host's timer. It may have been set to a later time meanwhile.
    fn timeout(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if host.armed.is_none_or(|armed| armed > self.now) {
            return;
        }
        host.armed = None;
        if host.wanted.is_some_and(|wanted| wanted <= host.local(self.now)) {
            self.with_node(n, Node::handle_timeout);
        } else {
            self.arm(n);
        }
    }

    /// Sets a host's timer, unless it rings early enough anyway.
    fn arm(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        let Some(wanted) = host.wanted else { return };
        let at = host.global(wanted).max(self.now);
        if host.armed.is_none_or(|armed| at < armed) {
            host.armed = Some(at);
            self.queue.push(at, Event::Timeout { host: n as u32 });
        }
    }

    /// Lets a running node do something, and does what it wishes.
    fn with_node(&mut self, n: usize, act: impl FnOnce(&mut Node, Time)) {
        let host = &mut self.hosts[n];
        let now = host.local(self.now);
        if let Some(running) = &mut host.running {
            act(&mut running.node, now);
            self.pump(n);
        }
    }

    /// Does what a node wishes, and sets its timer.
    fn pump(&mut self, n: usize) {
        while let Some(running) = &mut self.hosts[n].running
            && let Some(effect) = running.node.poll_effect()
        {
            self.effect(n, effect);
        }
        let host = &mut self.hosts[n];
        let Some(running) = &host.running else { return };
        host.wanted = running.node.next_timeout().map(|deadline| deadline.at);
        self.arm(n);
    }

    fn effect(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::Send { to, delivery, message, .. } => self.message(n, to, delivery, message),
            Effect::Forward(update) => {
                let host = &mut self.hosts[n];
                let now = host.local(self.now);
                if let Some(Running { datapath, .. }) = host.running.as_deref_mut() {
                    let actions = datapath.apply(update, &self.ids, now);
                    self.act(n, actions);
                }
            }
            Effect::Agent { agent, message } => self.tell_agent(n, agent, message),
            Effect::CloseAgent { agent, .. } => self.close_agent(n, agent),
            Effect::ResetAgent(link) => self.send_reset(n, &link),
            Effect::Announce(ready) => {
                self.announce(n, ready);
                let Self { hosts, trace, now, .. } = self;
                trace.note(*now, format_args!("{} announces: {ready}", hosts[n].name));
            }
            // NAT addresses are not simulated.
            Effect::StandBy(_) => {}
            Effect::Notice(notice) => {
                let innocent = |subject: usize| self.hosts[subject].innocent(self.now);
                self.beliefs.hear(n, &notice, self.now, &self.ids, innocent);
                let Self { hosts, trace, now, .. } = self;
                trace.note(*now, format_args!("{}: {notice}", hosts[n].name));
                self.share(n);
            }
        }
    }

    fn close_agent(&mut self, n: usize, agent: AgentId) {
        let Some(no) = self.hosts[n].agents.remove(&agent) else { return };
        // It may have connected elsewhere since.
        if self.agents[no.0].connection == Some((n, agent)) {
            self.reconnect(no, Duration::from_millis(1));
        }
    }
}
