//! Going on with the targets of the process before. Their agents' connections ended with it: the
//! agents are reset, and join again. Until then, for as long as their leases last, their targets are
//! members as before.

use std::collections::BTreeSet;

use pias_protocol::{overlay::Lease, time::Time};

use super::{Join, target::Registered};
use crate::{limits::MAX_TARGETS, outbox::Outbox};

impl Join {
    /// The last number that a target was given.
    pub(crate) const fn last_target(&self) -> u64 {
        self.last_target
    }

    /// Whether the RAPs have heard of all targets as they are.
    pub(crate) fn all_heard(&self) -> bool {
        self.reports.all_heard()
    }

    /// Takes in leases, under the numbers that they have. The RAPs know their counts, and are told
    /// again at the pace of a change of the ring.
    pub(crate) fn restore(
        &mut self,
        mut leases: Vec<Lease>,
        last_target: u64,
        now: Time,
        out: &mut Outbox,
    ) {
        leases.truncate(MAX_TARGETS);
        let groups: BTreeSet<_> = leases.iter().map(|lease| lease.group).collect();
        for lease in &leases {
            self.hold(lease.id, lease, leases.len(), now, out);
        }
        self.last_target = last_target;
        for group in groups {
            let count = self.of_group(group).map(Registered::share).fold(0, u32::saturating_add);
            self.reports.restore(group, count, now);
        }
        self.reports.ring_changed(now);
    }
}
