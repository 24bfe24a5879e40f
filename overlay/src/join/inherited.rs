//! Targets whose JAP died, and what becomes of them.
//!
//! ```text
//!   the heir                                   the dead, if it was only paused and is back
//!     inherit ──► orphan: served, counted        revived ──► every agent a suspect: pinged
//!        │           │ ResetAgent, again ...                   │ answers        │ does not
//!        │           ├─ joins here: takes it over              ▼                ▼
//!        │           ├─ LeaseTaken of a mate: leaves,   LeaseTaken to mates  its targets leave,
//!        │           │  once the RAPs know that one                          their flows go on
//!        └───────────┴─ nobody comes: lapses
//! ```
//! A suspect that does not answer has been reset, as far as anybody can tell: its targets serve
//! elsewhere, and nothing is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use pias_protocol::{
    group::GroupKey,
    ids::TargetId,
    overlay::{AgentLink, Lease, LeaseState},
    time::Time,
};

use super::{
    Due, Join,
    agent::Terms,
    target::{Registered, Service},
};
use crate::{
    effect::AgentId,
    limits::{MAX_RESETS, MAX_TARGETS, RESETS_PER_STEP, SUSPECTS_PER_STEP},
    outbox::Outbox,
    timers::Timers,
    timing::{MOVED, ORPHAN_MIN, PROBE_BACKOFF_MIN, RESET_REPEAT, STEP, TAKEN_OVER},
    world::World,
};

#[derive(Debug, Default)]
struct Orphan {
    targets: BTreeSet<TargetId>,
    resets: u8,
}

/// Inherited agents that are not back, and when they are reset. At most one a target, so bounded by
/// [`MAX_TARGETS`].
#[derive(Debug, Default)]
pub(super) struct Orphans {
    waiting: BTreeMap<AgentLink, Orphan>,
    timers: Timers<AgentLink>,
    /// Not before this time more resets are sent.
    paced: Time,
}

impl Orphans {
    fn add(&mut self, link: AgentLink, target: TargetId, now: Time) {
        let orphan = self.waiting.entry(link).or_insert_with(|| {
            // Its resets are for all its targets.
            self.timers.set(link, now);
            Orphan::default()
        });
        orphan.targets.insert(target);
    }

    /// A target waits no more for its agent.
    pub(super) fn remove(&mut self, link: AgentLink, target: TargetId) {
        let Some(orphan) = self.waiting.get_mut(&link) else { return };
        orphan.targets.remove(&target);
        if orphan.targets.is_empty() {
            self.waiting.remove(&link);
            self.timers.cancel(link);
        }
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.timers.next().map(|at| at.max(self.paced))
    }

    /// Resets some agents.
    pub(super) fn tick(&mut self, now: Time, out: &mut Outbox) {
        if now < self.paced {
            return;
        }
        let mut sent = false;
        for _ in 0..RESETS_PER_STEP {
            let Some(link) = self.timers.pop(now) else { break };
            let Some(orphan) = self.waiting.get_mut(&link) else { continue };
            orphan.resets += 1;
            if orphan.resets < MAX_RESETS {
                self.timers.set(link, now + RESET_REPEAT);
            }
            sent = true;
            out.counters.agents_reset += 1;
            out.reset(link);
        }
        if sent {
            self.paced = now + STEP;
        }
    }
}

/// Agents that may have been reset while this proxy was taken for dead.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Those that were not heard since.
    all: BTreeSet<AgentId>,
    /// Of these, those not yet pinged.
    quiet: BTreeSet<AgentId>,
}

impl Suspects {
    /// An agent was heard. Whether that clears it.
    pub(super) fn lives(&mut self, agent: AgentId) -> bool {
        self.quiet.remove(&agent);
        self.all.remove(&agent)
    }
}

impl Join {
    /// What the heir must know of a lease; `None` if there is none (any more).
    pub(crate) fn lease(&self, id: TargetId) -> Option<Lease> {
        self.targets.get(&id).map(|target| Lease {
            id,
            group: target.group,
            target: target.address,
            weight: target.weight,
            state: target.lease_state(),
            link: target.link,
        })
    }

    /// All leases.
    pub(crate) fn leases(&self) -> impl Iterator<Item = TargetId> + '_ {
        self.targets.keys().copied()
    }

    /// Leases of agents that joined here so short a time ago.
    pub(crate) fn joined_within(
        &self,
        time: Duration,
        now: Time,
    ) -> impl Iterator<Item = TargetId> + '_ {
        let recent = move |target: &&Registered| {
            target.agent.is_some() && !target.leaving && now - target.since <= time
        };
        self.targets.values().filter(recent).map(|target| target.id)
    }

    /// Takes out of which targets the heir must hear, and mates.
    pub(crate) fn take_news(&mut self) -> Option<(BTreeSet<TargetId>, BTreeSet<TargetId>)> {
        let news = !self.changed.is_empty() || !self.joined.is_empty();
        news.then(|| (std::mem::take(&mut self.changed), std::mem::take(&mut self.joined)))
    }

    /// Serves targets of one group of JAPs that died, which are some of `among` such.
    pub(crate) fn inherit(
        &mut self,
        group: GroupKey,
        leases: &[Lease],
        among: usize,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        for lease in leases {
            self.inherit_one(lease, among, now, out);
        }
        self.count(group, world, now, out);
    }

    fn inherit_one(&mut self, lease: &Lease, among: usize, now: Time, out: &mut Outbox) {
        let left = lease.state == LeaseState::Left;
        let known = self.by_address.get(&(lease.group, lease.target)).copied();
        if known.is_some_and(|id| left || self.targets.get(&id).is_some_and(|t| !t.leaving)) {
            // Its agent is here already.
            return;
        }
        if known.is_none() && self.targets.len() >= MAX_TARGETS {
            out.counters.table_full += 1;
            return;
        }
        let id = known.unwrap_or_else(|| self.next_target());
        self.hold(id, lease, among, now, out);
        out.counters.leases_inherited += 1;
    }

    /// Registers the target of a lease, one of `among` such, whose agent is not connected here: until
    /// it comes, or the lease is over.
    pub(super) fn hold(
        &mut self,
        id: TargetId,
        lease: &Lease,
        among: usize,
        now: Time,
        out: &mut Outbox,
    ) {
        let target = Registered::new(id, lease.group, lease.target, None, lease.link, now)
            .inherited(lease.weight, lease.state);
        if target.service != Service::Answers {
            self.timers.set(Due::Probe(id), now + PROBE_BACKOFF_MIN);
        }
        if target.leaving {
            // It may have joined elsewhere, which a lease does not tell.
            self.timers.set(Due::Gone(id), now + MOVED);
        } else {
            // Its agent was promised no longer lease than a proxy of so many targets gives.
            self.timers.set(Due::Gone(id), now + Terms::with(among).lease.max(ORPHAN_MIN));
            self.orphans.add(lease.link, id, now);
        }
        self.targets.insert(id, target);
        self.by_address.insert((lease.group, lease.target), id);
        self.forward(id, out);
    }

    /// A mate says that a target joined there. The flows of one that has left here have all the time they
    /// like, then. An inherited one leaves in a moment: did it at once, RAPs could hear of that before they
    /// hear of the mate's, and refuse. One whose agent is connected here leaves if that connection is dead,
    /// which is tried.
    pub(crate) fn taken(
        &mut self,
        group: GroupKey,
        address: SocketAddr,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(&id) = self.by_address.get(&(group, address)) else { return };
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.leaving {
            return self.timers.set(Due::Gone(id), now + MOVED);
        }
        target.taken = true;
        let Some(agent) = target.agent else {
            self.timers.set_by(Due::Gone(id), now + TAKEN_OVER);
            let link = target.link;
            return self.orphans.remove(link, id);
        };
        self.try_agent(agent, 1, now, out);
    }

    /// This proxy was taken for dead: its agents may have been reset, and the RAPs have forgotten
    /// its counts.
    pub(crate) fn revived(&mut self, now: Time) {
        self.suspect_all(now);
        self.reports.renew(now);
    }

    /// This proxy did not run for a while: agents that were not heard meanwhile have fresh patience, and
    /// are asked whether they have been reset.
    pub(crate) fn was_away(&mut self, now: Time) {
        for agent in self.agents.values_mut() {
            agent.hear(now);
        }
        self.suspect_all(now);
    }

    fn suspect_all(&mut self, now: Time) {
        self.suspects.all = self.agents.keys().copied().collect();
        self.suspects.quiet = self.suspects.all.clone();
        if !self.suspects.quiet.is_empty() {
            self.timers.set(Due::Suspects, now);
        }
    }

    pub(super) fn some_suspects(&mut self, now: Time, out: &mut Outbox) {
        for _ in 0..SUSPECTS_PER_STEP {
            let Some(agent) = self.suspects.quiet.pop_first() else { return };
            self.try_agent(agent, 1, now, out);
        }
        if !self.suspects.quiet.is_empty() {
            self.timers.set(Due::Suspects, now + STEP);
        }
    }
}
