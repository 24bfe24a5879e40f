//! The JAP's role: agents and their targets, and what the RAPs are told of them.
//!
//! Whether a target serves is decided by three witnesses: its agent's keep-alives and answers (a
//! dead agent ends its memberships), its agent's own checks, and the datapath, whose suspicions are
//! settled by a probe: see `health`.

mod admission;
mod agent;
mod granted;
mod health;
mod inherited;
mod joining;
mod leaving;
pub(crate) mod report;
mod restore;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use ipnet::IpNet;
use pias_protocol::{
    agent::{AgentMessage, Draining, KeepAliveAck, Welcome},
    forwarding::ForwardingUpdate,
    group::GroupKey,
    ids::{ProxyId, TargetId},
    overlay::{AgentLink, CountAck},
    time::Time,
};

use self::{
    agent::{Agent, Terms},
    granted::Granted,
    inherited::{Orphans, Suspects},
    report::Reports,
    target::Registered,
};
use crate::{
    effect::{AgentId, CloseReason},
    limits::{MAX_AGENTS, PINGS_PER_SECOND},
    outbox::Outbox,
    random::Random,
    timers::Timers,
    view::TargetView,
    world::World,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// An agent's lease may be over.
    Lease(AgentId),
    /// A ping may be unanswered.
    Ping(AgentId),
    /// A service that is down is probed again, or a probe is lost.
    Probe(TargetId),
    /// The flows of a target that left had their time, or the agent of an inherited one did not come.
    Gone(TargetId),
    /// Agents have waited long enough to hear that they are members.
    Granted(GroupKey),
    /// Some more agents are pinged, because they may have been reset.
    Suspects,
}

/// How many pings may be sent: refilled at [`PINGS_PER_SECOND`].
#[derive(Debug)]
struct Budget {
    micro_pings: u64,
    filled: Time,
}

impl Budget {
    const FULL: u64 = PINGS_PER_SECOND as u64 * 1_000_000;

    fn take(&mut self, now: Time) -> bool {
        let elapsed = (now - self.filled).as_micros() as u64;
        self.filled = now;
        let fresh = elapsed.saturating_mul(u64::from(PINGS_PER_SECOND));
        self.micro_pings = self.micro_pings.saturating_add(fresh).min(Self::FULL);
        let enough = self.micro_pings >= 1_000_000;
        if enough {
            self.micro_pings -= 1_000_000;
        }
        enough
    }
}

/// The agents and targets of this proxy.
#[derive(Debug)]
pub(crate) struct Join {
    anycast: Vec<IpNet>,
    /// What agents are told when a drain begins.
    drain_notice: Draining,
    agents: BTreeMap<AgentId, Agent>,
    by_remote: BTreeMap<SocketAddr, AgentId>,
    targets: BTreeMap<TargetId, Registered>,
    by_address: BTreeMap<(GroupKey, SocketAddr), TargetId>,
    reports: Reports,
    granted: Granted,
    orphans: Orphans,
    suspects: Suspects,
    /// Targets of which the heir must hear.
    changed: BTreeSet<TargetId>,
    /// Targets of which mates must hear that they are here.
    joined: BTreeSet<TargetId>,
    timers: Timers<Due>,
    budget: Budget,
    last_target: u64,
    draining: bool,
}

impl Join {
    pub(crate) fn new(
        anycast: Vec<IpNet>,
        drain_wait: Duration,
        random: Random,
        now: Time,
    ) -> Self {
        let closes_in_ms = u32::try_from(drain_wait.as_millis()).unwrap_or(u32::MAX);
        let reports = Reports::new(random);
        Self {
            anycast,
            drain_notice: Draining { closes_in_ms },
            agents: BTreeMap::new(),
            by_remote: BTreeMap::new(),
            targets: BTreeMap::new(),
            by_address: BTreeMap::new(),
            reports,
            granted: Granted::default(),
            orphans: Orphans::default(),
            suspects: Suspects::default(),
            changed: BTreeSet::new(),
            joined: BTreeSet::new(),
            timers: Timers::default(),
            budget: Budget { micro_pings: Budget::FULL, filled: now },
            last_target: 0,
            draining: false,
        }
    }

    pub(crate) fn agents(&self) -> usize {
        self.agents.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }

    /// The groups with a target here, in any state.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (GroupKey, TargetId)> + '_ {
        self.by_address.iter().map(|(&(group, _), &id)| (group, id))
    }

    /// The targets of one group, in any state.
    fn of_group(&self, group: GroupKey) -> impl Iterator<Item = &Registered> {
        let from = (group, SocketAddr::new([0, 0, 0, 0].into(), 0));
        self.by_address
            .range(from..)
            .take_while(move |((g, _), _)| *g == group)
            .filter_map(|(_, id)| self.targets.get(id))
    }

    /// Whether a target here takes new flows of a group.
    pub(crate) fn serves(&self, group: GroupKey) -> bool {
        self.of_group(group).any(Registered::takes_flows)
    }

    /// An agent opened its stream.
    pub(crate) fn connected(
        &mut self,
        id: AgentId,
        link: AgentLink,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        if self.agents.len() >= MAX_AGENTS {
            out.counters.table_full += 1;
            out.close(id, CloseReason::TooManyAgents);
            return;
        }
        let agent = Agent::new(link, Terms::with(self.targets.len()), now);
        self.timers.set(Due::Lease(id), agent.lapses());
        self.agents.insert(id, agent);
        self.by_remote.insert(link.remote, id);
        let own = world.members.own();
        out.agent(id, Welcome { proxy: own.name.clone(), cluster: own.cluster.clone() });
        if self.draining {
            out.agent(id, self.drain_notice.clone());
        }
        // The first ping measures the way.
        self.ping(id, 1, now, out);
    }

    /// An agent says something.
    pub(crate) fn message(
        &mut self,
        id: AgentId,
        message: AgentMessage,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if let AgentMessage::Pong(pong) = &message {
            agent.pong(pong.sequence, now);
        }
        agent.hear(now);
        if self.suspects.lives(id) {
            // Mates that inherited its targets can let go of them.
            self.joined.extend(&agent.targets);
        }
        match message {
            AgentMessage::Join(wish) => self.wish(id, &wish, world, now, out),
            AgentMessage::Leave(leave) => {
                if self.holds(id, leave.lease) {
                    self.leave(leave.lease, "it left", world, now, out);
                }
            }
            AgentMessage::Health(health) => {
                if self.holds(id, health.lease) {
                    self.agent_says(health.lease, health.up, world, now, out);
                }
            }
            AgentMessage::KeepAlive(keep_alive) => {
                let terms = Terms::with(self.targets.len());
                agent.terms = terms;
                self.timers.set(Due::Lease(id), agent.lapses());
                out.agent(
                    id,
                    KeepAliveAck {
                        sequence: keep_alive.sequence,
                        keep_alive_ms: terms.keep_alive.as_millis() as u32,
                        lease_ms: terms.lease.as_millis() as u32,
                    },
                );
            }
            AgentMessage::Pong(_) => {}
        }
    }

    /// Whether a membership is this agent's to change.
    fn holds(&self, agent: AgentId, target: TargetId) -> bool {
        self.agents.get(&agent).is_some_and(|agent| agent.targets.contains(&target))
    }

    /// An agent's connection is lost.
    pub(crate) fn closed(&mut self, id: AgentId, world: &World, now: Time, out: &mut Outbox) {
        self.drop_agent(id, "its agent's connection is closed", now, world, now, out);
    }

    /// Tells the datapath what a target is now, and the RAPs what its group counts.
    fn publish(&mut self, id: TargetId, world: &World, now: Time, out: &mut Outbox) {
        let Some(target) = self.targets.get(&id) else { return };
        let group = target.group;
        self.forward(id, out);
        self.count(group, world, now, out);
    }

    /// Tells the datapath, and the heir, what a target is now.
    fn forward(&mut self, id: TargetId, out: &mut Outbox) {
        if let Some(target) = self.targets.get(&id) {
            out.forward(ForwardingUpdate::Target(target.forwarding()));
            self.changed.insert(id);
        }
    }

    /// Tells the RAPs what a group counts: looks at all its targets, so once for many changes.
    fn count(&mut self, group: GroupKey, world: &World, now: Time, out: &mut Outbox) {
        let shares = self.of_group(group).map(Registered::share);
        let count = shares.fold(0, u32::saturating_add);
        self.reports.count(group, count, world, now, out);
    }

    /// Refuses joins from now on, and sends agents elsewhere.
    pub(crate) fn drain(&mut self, out: &mut Outbox) {
        self.draining = true;
        for &agent in self.agents.keys() {
            out.agent(agent, self.drain_notice.clone());
        }
    }

    /// A RAP heard a report.
    pub(crate) fn acknowledged(&mut self, rap: ProxyId, ack: &CountAck, out: &mut Outbox) {
        self.reports.acknowledged(rap, ack);
        self.say_granted(ack.group, out);
    }

    /// A RAP forgot what it was told.
    pub(crate) fn counts_wanted(&mut self, rap: ProxyId, now: Time) {
        self.reports.gone(rap, now);
    }

    /// What was said to a proxy may be lost.
    pub(crate) fn undelivered(&mut self, proxy: ProxyId, now: Time) {
        self.reports.undelivered(proxy, now);
    }

    /// The ring changed.
    pub(crate) fn ring_changed(&mut self, now: Time) {
        self.reports.ring_changed(now);
    }

    /// A proxy is gone.
    pub(crate) fn gone(&mut self, proxy: ProxyId, now: Time) {
        self.reports.gone(proxy, now);
    }

    /// A proxy takes no groups any more.
    pub(crate) fn left_ring(&mut self, proxy: ProxyId, now: Time) {
        self.reports.left_ring(proxy, now);
    }

    /// When targets need attention, and when reports do.
    pub(crate) fn next(&self) -> (Option<Time>, Option<Time>) {
        let targets = [self.timers.next(), self.orphans.next()].into_iter().flatten().min();
        (targets, self.reports.next())
    }

    pub(crate) fn tick(&mut self, world: &World, now: Time, out: &mut Outbox) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Lease(id) => self.lease_due(id, world, now, out),
                Due::Ping(id) => self.ping_due(id, world, now, out),
                Due::Probe(id) => self.probe_due(id, now, out),
                Due::Gone(id) => self.time_is_over(id, world, now, out),
                Due::Granted(group) => self.granted.say(group, out),
                Due::Suspects => self.some_suspects(now, out),
            }
        }
        self.orphans.tick(now, out);
        self.reports.tick(world, now, out);
    }

    fn lease_due(&mut self, id: AgentId, world: &World, now: Time, out: &mut Outbox) {
        let Some(agent) = self.agents.get(&id) else { return };
        let lapses = agent.lapses();
        if lapses > now {
            self.timers.set(Due::Lease(id), lapses);
            return;
        }
        out.close(id, CloseReason::LeaseExpired);
        self.drop_agent(id, "its agent sent no keep-alive", now, world, now, out);
    }

    /// All targets, or those of one group, for people.
    pub(crate) fn view(&self, group: Option<GroupKey>, now: Time) -> Vec<TargetView> {
        let wanted = self.targets.values().filter(|t| group.is_none_or(|group| t.group == group));
        wanted
            .map(|target| {
                let agent = target.agent.and_then(|agent| self.agents.get(&agent));
                let (state, why) = target.words();
                TargetView {
                    id: target.id.0,
                    group: target.group.to_string(),
                    address: target.address,
                    state,
                    why,
                    weight: target.weight,
                    agent: target.link.remote,
                    lease_ms: agent.map_or(0, |agent| agent.terms.lease.as_millis() as u64),
                    heard_ms: agent.map_or(0, |agent| (now - agent.heard).as_millis() as u64),
                }
            })
            .collect()
    }
}
