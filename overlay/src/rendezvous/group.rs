//! What a RAP keeps of one group.

use std::collections::BTreeMap;

use pias_protocol::{ids::ProxyId, time::Time};

use crate::{
    limits::{MAX_ASKERS, MAX_FORMER},
    timing::{ASKER_LIFETIME, COUNT_LIFETIME, INHERITED_LIFETIME, LIST_REPEAT, VACANT},
};

/// A JAP's report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// The weight of its targets, as it reported; 0 if it only stands in for others.
    count: u32,
    /// That of dead JAPs that it stands in for, until it says itself.
    inherited: u32,
    /// When it is no longer believed.
    pub(crate) expires: Time,
}

impl Count {
    /// The weight of all; never 0.
    pub(crate) const fn total(&self) -> u32 {
        self.count.saturating_add(self.inherited)
    }
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
    /// JAPs that serve it no more, the latest last: flows may be left there. At most [`MAX_FORMER`].
    former: Vec<ProxyId>,
    /// When the last JAP left.
    vacated: Option<Time>,
    /// When the list was last pushed.
    pub(crate) pushed: Option<Time>,
}

impl Group {
    /// Takes a report. Whether the set of JAPs changed.
    pub(crate) fn report(&mut self, jap: ProxyId, count: u32, now: Time) -> bool {
        self.former.retain(|&former| former != jap);
        if count == 0 {
            self.serves_no_more(jap);
            let served = self.counts.remove(&jap).is_some();
            if served && self.counts.is_empty() {
                self.vacated = Some(now);
            }
            return served;
        }
        self.vacated = None;
        let known = Count { count, inherited: 0, expires: now + COUNT_LIFETIME };
        self.counts.insert(jap, known).is_none()
    }

    fn serves_no_more(&mut self, jap: ProxyId) {
        if self.former.len() >= MAX_FORMER {
            self.former.remove(0);
        }
        self.former.push(jap);
    }

    /// Drops what was not refreshed. Whether the set of JAPs changed.
    pub(crate) fn expire(&mut self, now: Time) -> bool {
        let before = self.counts.len();
        self.counts.retain(|_, count| count.expires > now);
        self.askers.retain(|_, asker| now - asker.asked < ASKER_LIFETIME);
        self.vacated = self.vacated.filter(|&vacated| now < vacated + VACANT);
        self.counts.len() != before
    }

    /// When [`Group::expire`] will have something to do.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        let counts = self.counts.values().map(|count| count.expires);
        let askers = self.askers.values().map(|asker| asker.asked + ASKER_LIFETIME);
        counts.chain(askers).chain(self.vacant_until()).min()
    }

    /// A proxy is gone, and its interest with it. Its count is its heir's: added to what that one
    /// reported, and believed for a short time where it did not report anything. Whether there was
    /// something to inherit.
    pub(crate) fn inherit(&mut self, dead: ProxyId, heir: Option<ProxyId>, now: Time) -> bool {
        self.askers.remove(&dead);
        if let Some(at) = self.former.iter().position(|&former| former == dead) {
            self.former.remove(at);
            if let Some(heir) = heir.filter(|heir| !self.former.contains(heir)) {
                self.former.insert(at, heir);
            }
        }
        let Some(count) = self.counts.remove(&dead) else { return false };
        let Some(heir) = heir else { return false };
        let expires = count.expires.min(now + INHERITED_LIFETIME);
        self.vacated = None;
        let known = self.counts.entry(heir).or_insert(Count { count: 0, inherited: 0, expires });
        known.inherited = known.inherited.saturating_add(count.total());
        true
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

    /// JAPs that served it and may have flows of it still, the latest first.
    pub(crate) fn former(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.former.iter().rev().copied()
    }

    pub(crate) fn askers(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.askers.keys().copied()
    }

    /// Whether anybody serves it.
    pub(crate) fn served(&self) -> bool {
        !self.counts.is_empty()
    }

    /// Until when nobody is told that nobody serves it: the last target may be joining elsewhere.
    pub(crate) fn vacant_until(&self) -> Option<Time> {
        self.vacated.map(|vacated| vacated + VACANT)
    }

    /// Whether there is nothing to remember: that JAPs left is of use only while others serve it.
    pub(crate) fn idle(&self) -> bool {
        self.counts.is_empty() && self.askers.is_empty() && self.vacated.is_none()
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
        assert!(!group.idle());
        group.expire(Time::ZERO + VACANT);
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
    fn an_heir_is_believed_to_serve_for_a_while_and_then_only_what_it_reports() {
        const HEIR: ProxyId = ProxyId(2);
        let total = |group: &Group| group.counts().map(|(id, c)| (id, c.total())).next();
        let mut group = Group::default();
        group.report(JAP, 3, Time::ZERO);
        group.inherit(JAP, Some(HEIR), Time::ZERO);
        assert_eq!(total(&group), Some((HEIR, 3)));
        assert_eq!(group.next_expiry(), Some(Time::ZERO + INHERITED_LIFETIME));
        assert!(!group.report(HEIR, 2, Time::ZERO));
        assert_eq!(total(&group), Some((HEIR, 2)));
        group.inherit(HEIR, None, Time::ZERO);
        assert!(group.idle());
    }

    #[test]
    fn what_an_heir_serves_itself_is_added_to_what_it_inherits() {
        const HEIR: ProxyId = ProxyId(2);
        let mut group = Group::default();
        group.report(JAP, 3, Time::ZERO);
        group.report(HEIR, 4, Time::ZERO);
        group.inherit(JAP, Some(HEIR), Time::ZERO);
        assert_eq!(group.counts().map(|(_, c)| c.total()).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn one_that_lost_its_last_jap_is_waited_for_until_another_serves_it() {
        let mut group = Group::default();
        group.report(JAP, 0, Time::ZERO);
        assert_eq!(group.vacant_until(), None, "it was not served");
        group.report(JAP, 3, Time::ZERO);
        group.report(JAP, 0, Time::ZERO);
        assert_eq!(group.vacant_until(), Some(Time::ZERO + VACANT));
        group.report(ProxyId(2), 1, Time::ZERO);
        assert_eq!(group.vacant_until(), None);
    }

    #[test]
    fn who_served_it_last_is_named_first_until_it_serves_again() {
        let former = |group: &Group| group.former().map(|id| id.0).collect::<Vec<_>>();
        let mut group = Group::default();
        for n in 1..=MAX_FORMER as u64 + 1 {
            group.report(ProxyId(n), 0, Time::ZERO);
        }
        assert_eq!(former(&group), [5, 4, 3, 2]);
        group.report(ProxyId(3), 7, Time::ZERO);
        group.report(ProxyId(4), 0, Time::ZERO);
        assert_eq!(former(&group), [4, 5, 2]);
    }

    #[test]
    fn the_heir_of_one_that_served_it_once_is_named_in_its_place() {
        let former = |group: &Group| group.former().map(|id| id.0).collect::<Vec<_>>();
        let mut group = Group::default();
        group.report(ProxyId(1), 0, Time::ZERO);
        group.report(ProxyId(2), 0, Time::ZERO);
        group.inherit(ProxyId(1), Some(ProxyId(9)), Time::ZERO);
        assert_eq!(former(&group), [2, 9]);
        group.inherit(ProxyId(2), Some(ProxyId(9)), Time::ZERO);
        assert_eq!(former(&group), [9]);
        group.inherit(ProxyId(9), None, Time::ZERO);
        assert_eq!(former(&group), []);
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
