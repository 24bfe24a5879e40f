//! Going on with what the process before knew as a RAP.

use pias_protocol::{group::GroupKey, ids::ProxyId, time::Time};

use super::{Group, Rendezvous};
use crate::limits::MAX_RENDEZVOUS_GROUPS;

impl Rendezvous {
    /// The counts of all groups; 0 for JAPs that served one before, the latest last.
    pub(crate) fn all_counts(&self) -> Vec<(GroupKey, ProxyId, u32)> {
        let of_group = |(&key, group): (&GroupKey, &Group)| {
            let former: Vec<_> = group.former().map(|jap| (key, jap, 0)).collect();
            let counts = group.counts().map(move |(jap, count)| (key, jap, count.total()));
            counts.chain(former.into_iter().rev()).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// The ingresses that are told of changes, of all groups.
    pub(crate) fn all_askers(&self) -> Vec<(GroupKey, ProxyId)> {
        let groups = self.groups.iter();
        groups.flat_map(|(&key, group)| group.askers().map(move |asker| (key, asker))).collect()
    }

    /// Takes in what was known. What it does not know may be on its way from a JAP, to a process that
    /// has ended: it warms up as any RAP that starts.
    pub(crate) fn restore(
        &mut self,
        counts: Vec<(GroupKey, ProxyId, u32)>,
        askers: Vec<(GroupKey, ProxyId)>,
        now: Time,
    ) {
        for (key, jap, count) in counts {
            self.restore_one(key, |group| {
                group.report(jap, count, now);
            });
        }
        for (key, asker) in askers {
            self.restore_one(key, |group| {
                group.ask(asker, true, now);
            });
        }
    }

    fn restore_one(&mut self, key: GroupKey, what: impl FnOnce(&mut Group)) {
        if self.groups.len() < MAX_RENDEZVOUS_GROUPS || self.groups.contains_key(&key) {
            what(self.groups.entry(key).or_default());
            self.settle(key);
        }
    }
}
