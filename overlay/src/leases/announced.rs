//! What mates are told of targets that joined here: one message a step to each, at most.

use std::collections::{BTreeMap, BTreeSet};

use pias_protocol::{
    ids::{ProxyId, TargetId},
    limits::MAX_LEASES_PER_MESSAGE,
    overlay::{LeaseState, LeaseTaken},
    time::Time,
};

use crate::{
    join::Join,
    outbox::Outbox,
    timing::{LEASE_DELAY, STEP},
    world::World,
};

/// What is still to be told. At most every target once to all, and once to each mate that is back.
#[derive(Debug, Default)]
pub(super) struct Announced {
    to_all: BTreeSet<TargetId>,
    /// What mates missed while they were dead.
    missed: BTreeMap<ProxyId, BTreeSet<TargetId>>,
    due: Option<Time>,
}

impl Announced {
    /// Targets joined.
    pub(super) fn joined(&mut self, targets: BTreeSet<TargetId>, now: Time) {
        if !targets.is_empty() {
            self.to_all.extend(targets);
            self.due.get_or_insert(now + LEASE_DELAY);
        }
    }

    /// A mate does not know of these: it is back, or the connection to it was lost.
    pub(super) fn missed(
        &mut self,
        mate: ProxyId,
        targets: impl Iterator<Item = TargetId>,
        now: Time,
    ) {
        let targets: BTreeSet<_> = targets.collect();
        if !targets.is_empty() {
            self.missed.entry(mate).or_default().extend(targets);
            self.due.get_or_insert(now + LEASE_DELAY);
        }
    }

    /// A mate is gone.
    pub(super) fn gone(&mut self, mate: ProxyId) {
        self.missed.remove(&mate);
    }

    pub(super) const fn next(&self) -> Option<Time> {
        self.due
    }

    pub(super) fn tick(&mut self, join: &Join, world: &World, now: Time, out: &mut Outbox) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        if let Some(message) = some(&mut self.to_all, join) {
            for mate in world.mates() {
                out.send(mate, message.clone());
            }
        }
        for (&mate, targets) in &mut self.missed {
            if let Some(message) = some(targets, join) {
                out.send(mate, message);
            }
        }
        self.missed.retain(|_, targets| !targets.is_empty());
        let more = !self.to_all.is_empty() || !self.missed.is_empty();
        self.due = more.then(|| now + STEP);
    }
}

/// The next message's worth.
fn some(targets: &mut BTreeSet<TargetId>, join: &Join) -> Option<LeaseTaken> {
    let mut leases = Vec::new();
    while leases.len() < MAX_LEASES_PER_MESSAGE
        && let Some(target) = targets.pop_first()
    {
        // It may have left meanwhile, and be at another mate.
        let lease = join.lease(target).filter(|lease| lease.state != LeaseState::Left);
        leases.extend(lease.map(|lease| (lease.group, lease.target)));
    }
    (!leases.is_empty()).then_some(LeaseTaken { leases })
}
