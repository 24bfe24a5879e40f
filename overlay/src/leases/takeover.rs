//! How an heir takes over: at once what packets ask for, all else in steps, first the groups that
//! have no target here.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use pias_protocol::{group::GroupKey, overlay::Lease, time::Time};

use crate::{join::Join, limits::INHERITED_PER_STEP, outbox::Outbox, timing::STEP, world::World};

/// Leases that are still to be taken over; at most as many as were replicated.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    groups: BTreeMap<GroupKey, Vec<Lease>>,
    /// Their order. Those that packets asked for are not in `groups` any more.
    order: VecDeque<GroupKey>,
    /// How many there were: it bounds how long their agents' leases are.
    among: usize,
    due: Option<Time>,
}

impl Takeover {
    /// The leases of a proxy that died.
    pub(super) fn begin(
        &mut self,
        leases: Vec<Lease>,
        served: impl Fn(GroupKey) -> bool,
        now: Time,
    ) {
        self.among = self.groups.values().map(Vec::len).sum::<usize>() + leases.len();
        let mut new = Vec::new();
        for lease in leases {
            let group = lease.group;
            let known = self.groups.entry(group).or_insert_with(|| {
                new.push(group);
                Vec::new()
            });
            known.push(lease);
        }
        new.sort_by_cached_key(|&group| (served(group), group));
        self.order.extend(new);
        self.due = Some(now);
    }

    /// Leases that are still to be taken over.
    pub(super) fn rest(&self) -> impl Iterator<Item = &Lease> {
        self.groups.values().flatten()
    }

    /// A packet wants a group. Whether it was still to be taken over.
    pub(super) fn wanted(
        &mut self,
        group: GroupKey,
        join: &mut Join,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) -> bool {
        self.some(group, INHERITED_PER_STEP, join, world, now, out) > 0
    }

    /// Takes over up to `most` leases of a group. How many there were.
    fn some(
        &mut self,
        group: GroupKey,
        most: usize,
        join: &mut Join,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) -> usize {
        let Some(leases) = self.groups.get_mut(&group) else { return 0 };
        let some = leases.split_off(leases.len().saturating_sub(most));
        if leases.is_empty() {
            self.groups.remove(&group);
        }
        join.inherit(group, &some, self.among, world, now, out);
        some.len()
    }

    /// A target joined elsewhere meanwhile.
    pub(super) fn taken(&mut self, group: GroupKey, target: SocketAddr) {
        if let Some(leases) = self.groups.get_mut(&group) {
            leases.retain(|lease| lease.target != target);
        }
    }

    pub(super) const fn next(&self) -> Option<Time> {
        self.due
    }

    pub(super) fn tick(&mut self, join: &mut Join, world: &World, now: Time, out: &mut Outbox) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let mut room = INHERITED_PER_STEP;
        while room > 0
            && let Some(&group) = self.order.front()
        {
            room -= self.some(group, room, join, world, now, out);
            if !self.groups.contains_key(&group) {
                self.order.pop_front();
            }
        }
        self.due = (!self.order.is_empty()).then(|| now + STEP);
    }
}
