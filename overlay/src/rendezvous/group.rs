//! What a RAP keeps of one group.

use std::collections::BTreeMap;

use pias_protocol::{ids::ProxyId, time::Time};

use crate::{
    limits::MAX_ASKERS,
    timing::{ASKER_LIFETIME, COUNT_LIFETIME, LIST_REPEAT},
};

/// A JAP's report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// The weight of its targets; never 0.
    pub(crate) count: u32,
    /// When it is no longer believed.
    pub(crate) expires: Time,
}

/// An ingress that has the list.
#[derive(Clone, Copy, Debug)]
struct Asker {
    asked: Time,
    told: Time,
}

/// One group: the JAPs that serve it, and the ingresses that were told so.
#[derive(Debug, Default)]
pub(crate) struct Group {
    counts: BTreeMap<ProxyId, Count>,
    askers: BTreeMap<ProxyId, Asker>,
    /// When the list was last pushed.
    pub(crate) pushed: Option<Time>,
}

impl Group {
    /// Takes a report. Whether the set of JAPs changed.
    pub(crate) fn report(&mut self, jap: ProxyId, count: u32, now: Time) -> bool {
        if count == 0 {
            return self.counts.remove(&jap).is_some();
        }
        self.counts.insert(jap, Count { count, expires: now + COUNT_LIFETIME }).is_none()
    }

    /// Drops what was not refreshed. Whether the set of JAPs changed.
    pub(crate) fn expire(&mut self, now: Time) -> bool {
        let before = self.counts.len();
        self.counts.retain(|_, count| count.expires > now);
        self.askers.retain(|_, asker| now - asker.asked < ASKER_LIFETIME);
        self.counts.len() != before
    }

    /// When [`Group::expire`] will have something to do.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        let counts = self.counts.values().map(|count| count.expires);
        counts.chain(self.askers.values().map(|asker| asker.asked + ASKER_LIFETIME)).min()
    }

    /// A proxy is gone, and its count and its interest with it.
    pub(crate) fn forget(&mut self, proxy: ProxyId) {
        self.counts.remove(&proxy);
        self.askers.remove(&proxy);
    }

    /// An ingress asks. Whether it should be sent the list: not if that happened a moment ago,
    /// unless it `insists` (it asked for the list itself). Room is made by the one that asked least
    /// recently; `false` in the second place if there was none to spare.
    pub(crate) fn ask(&mut self, ingress: ProxyId, insists: bool, now: Time) -> (bool, bool) {
        if let Some(asker) = self.askers.get_mut(&ingress) {
            asker.asked = now;
            let tell = insists || now - asker.told >= LIST_REPEAT;
            if tell {
                asker.told = now;
            }
            return (tell, true);
        }
        let full = self.askers.len() >= MAX_ASKERS;
        if full
            && let Some(oldest) =
                self.askers.iter().min_by_key(|(_, asker)| asker.asked).map(|(&id, _)| id)
        {
            self.askers.remove(&oldest);
        }
        self.askers.insert(ingress, Asker { asked: now, told: now });
        (true, !full)
    }

    /// The ingresses to push a new list to.
    pub(crate) fn start_push(&mut self, now: Time) -> Vec<ProxyId> {
        self.pushed = Some(now);
        for asker in self.askers.values_mut() {
            asker.told = now;
        }
        self.askers.keys().copied().collect()
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = (ProxyId, Count)> + '_ {
        self.counts.iter().map(|(&jap, &count)| (jap, count))
    }

    pub(crate) fn askers(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.askers.keys().copied()
    }

    /// Whether anybody serves it.
    pub(crate) fn served(&self) -> bool {
        !self.counts.is_empty()
    }

    /// Whether there is nothing to remember.
    pub(crate) fn idle(&self) -> bool {
        self.counts.is_empty() && self.askers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const JAP: ProxyId = ProxyId(1);

    #[test]
    fn only_the_first_report_and_the_last_leave_change_the_set() {
        let mut group = Group::default();
        assert!(group.report(JAP, 3, Time::ZERO));
        assert!(!group.report(JAP, 9, Time::ZERO));
        assert!(group.report(JAP, 0, Time::ZERO));
        assert!(!group.report(JAP, 0, Time::ZERO));
        assert!(group.idle());
    }

    #[test]
    fn a_count_that_is_not_refreshed_is_forgotten() {
        let mut group = Group::default();
        group.report(JAP, 3, Time::ZERO);
        let expiry = group.next_expiry().unwrap();
        assert!(!group.expire(Time::from_micros(expiry.as_micros() - 1)));
        assert!(group.expire(expiry));
        assert!(!group.served());
    }

    #[test]
    fn a_burst_of_packets_earns_one_list() {
        let mut group = Group::default();
        assert_eq!(group.ask(JAP, false, Time::ZERO), (true, true));
        let soon = Time::ZERO + Duration::from_millis(5);
        assert_eq!(group.ask(JAP, false, soon), (false, true));
        assert_eq!(group.ask(JAP, true, soon), (true, true));
    }

    #[test]
    fn the_oldest_asker_makes_room() {
        let mut group = Group::default();
        for n in 0..=MAX_ASKERS as u64 {
            group.ask(ProxyId(n), false, Time::from_micros(n));
        }
        assert_eq!(group.askers().count(), MAX_ASKERS);
        assert!(!group.askers().any(|id| id == ProxyId(0)));
    }
}
