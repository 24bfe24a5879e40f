//! What this JAP tells the RAPs of its groups: approximate counts.
//!
//! A RAP is told when the count leaves the band around what it was told last; the first target and
//! the last leave always; everything again now and then, and at once to a RAP that is new. A report
//! that is not acknowledged is repeated: after a while, or at once when the connection that it went
//! out on is known to be lost.
//!
//! When the ring changes, every group's RAPs are looked up anew, a few groups a step, so that a
//! large JAP does not flood the new RAPs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pias_protocol::{
    group::GroupKey,
    ids::ProxyId,
    overlay::{CountAck, CountReport},
    time::Time,
};

use crate::{
    limits::{MAX_REPORTED_RAPS, RECHECKS_PER_STEP, REPEATS_PER_STEP},
    outbox::Outbox,
    random::Random,
    timers::Timers,
    timing::{COUNT_LIFETIME, REPORT_HASTE, REPORT_REFRESH, REPORT_REPEAT, STEP},
    world::World,
};

/// Whom to report to: what [`World`] knows of it, or what figures about reports assume.
pub(crate) trait Responsible {
    /// The RAPs of a group.
    fn raps(&self, group: &GroupKey) -> Vec<ProxyId>;
    /// Whether a proxy, a RAP now or before, takes part.
    fn is_alive(&self, proxy: ProxyId) -> bool;
}

impl Responsible for World {
    fn raps(&self, group: &GroupKey) -> Vec<ProxyId> {
        self.ring.raps(group)
    }

    fn is_alive(&self, proxy: ProxyId) -> bool {
        self.members.is_alive(proxy)
    }
}

/// What one RAP was told of one group.
#[derive(Clone, Copy, Debug)]
struct Told {
    count: u32,
    band_percent: u32,
    at: Time,
    acknowledged: bool,
    repeat: Duration,
    /// It was taken for dead since: it forgot what it was told, or it did not and comes back.
    lost: bool,
}

#[derive(Debug, Default)]
struct Group {
    count: u32,
    /// When the last target left, where none is left.
    empty: Option<Time>,
    told: BTreeMap<ProxyId, Told>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Look up the RAPs of some groups anew.
    Recheck,
    /// Repeat what is not acknowledged.
    Repeat,
    /// Repeat all that this RAP did not acknowledge, as it may be lost.
    Hasten(ProxyId),
    /// Report a group although nothing changed.
    Refresh(GroupKey),
}

/// The reports of one JAP.
#[derive(Debug)]
pub(crate) struct Reports {
    groups: BTreeMap<GroupKey, Group>,
    recheck: BTreeSet<GroupKey>,
    unacknowledged: BTreeSet<(Time, GroupKey, ProxyId)>,
    /// After a step in which as much was repeated as may be, nothing more is before this time.
    paced: Time,
    /// RAPs to which reports were hastened within the last [`REPORT_HASTE`], and when.
    hastened: BTreeMap<ProxyId, Time>,
    timers: Timers<Due>,
    random: Random,
}

impl Reports {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            groups: BTreeMap::new(),
            recheck: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            paced: Time::ZERO,
            hastened: BTreeMap::new(),
            timers: Timers::default(),
            random,
        }
    }

    /// The true count of a group changed.
    pub(crate) fn count(
        &mut self,
        key: GroupKey,
        count: u32,
        raps: &impl Responsible,
        now: Time,
        out: &mut Outbox,
    ) {
        let group = match self.groups.get_mut(&key) {
            Some(group) => group,
            None if count == 0 => return,
            None => self.groups.entry(key).or_default(),
        };
        group.count = count;
        let mut told = raps.raps(&key);
        if count > 0 {
            group.empty = None;
        } else {
            group.empty.get_or_insert(now);
            // A former RAP that becomes one again must not believe in targets that left meanwhile.
            told.extend(group.told.keys().copied());
            told.sort_unstable();
            told.dedup();
        }
        for rap in told {
            if self.worth_it(key, rap) && raps.is_alive(rap) {
                self.report(key, rap, now, out);
            }
        }
        self.timers.set_by(Due::Refresh(key), now + self.random.around(REPORT_REFRESH));
    }

    /// A group of the process before: its RAPs are told at the next step, see
    /// [`Self::ring_changed`].
    pub(crate) fn restore(&mut self, key: GroupKey, count: u32, now: Time) {
        if count > 0 {
            self.groups.entry(key).or_default().count = count;
            self.timers.set_by(Due::Refresh(key), now + self.random.around(REPORT_REFRESH));
        }
    }

    /// Whether the count left the band around what a RAP was told.
    fn worth_it(&self, key: GroupKey, rap: ProxyId) -> bool {
        let Some(group) = self.groups.get(&key) else { return false };
        let Some(told) = group.told.get(&rap) else { return group.count > 0 };
        // The last leave as well: who was only silent may still believe in what was there before.
        if told.lost {
            return true;
        }
        if group.count == 0 || told.count == 0 {
            return group.count != told.count;
        }
        u64::from(group.count.abs_diff(told.count)) * 100
            > u64::from(told.count) * u64::from(told.band_percent)
    }

    fn report(&mut self, key: GroupKey, rap: ProxyId, now: Time, out: &mut Outbox) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        let before = group.told.get(&rap);
        // Who is back starts anew: what it did not answer before says nothing.
        let unanswered =
            before.filter(|told| !told.lost && !told.acknowledged && told.count == group.count);
        let repeat = unanswered
            .map_or(REPORT_REPEAT, |t| (t.repeat * 2).clamp(REPORT_REPEAT, REPORT_REFRESH));
        if let Some(before) = before {
            self.unacknowledged.remove(&(before.at + before.repeat, key, rap));
        }
        let band_percent = before.map_or(25, |told| told.band_percent);
        let count = group.count;
        let (acknowledged, lost) = (false, false);
        group.told.insert(rap, Told { count, band_percent, at: now, acknowledged, repeat, lost });
        self.unacknowledged.insert((now + repeat, key, rap));
        self.timers.set_by(Due::Repeat, now + repeat);
        if group.told.len() > MAX_REPORTED_RAPS
            && let Some((&oldest, _)) = group.told.iter().min_by_key(|(_, told)| told.at)
        {
            self.forget_told(key, oldest);
        }
        out.counters.reports_sent += 1;
        out.send(rap, CountReport { group: key, count });
    }

    /// A RAP heard a report, and says how wide its band is.
    pub(crate) fn acknowledged(&mut self, rap: ProxyId, ack: &CountAck) {
        let Some(group) = self.groups.get_mut(&ack.group) else { return };
        let Some(told) = group.told.get_mut(&rap) else { return };
        told.band_percent = u32::from(ack.band_percent.min(100));
        if told.count != ack.count {
            // It heard what was said before; what was said last may be lost.
            return;
        }
        self.unacknowledged.remove(&(told.at + told.repeat, ack.group, rap));
        told.acknowledged = true;
        // One that was taken for dead may acknowledge what came before, when it is back.
        let heard = |told: &Told| told.acknowledged && told.count == 0;
        let over = group.count == 0 && group.told.values().all(heard);
        if over {
            self.forget(ack.group);
        }
    }

    /// Whether all that was told has been heard.
    pub(crate) fn all_heard(&self) -> bool {
        self.recheck.is_empty() && self.unacknowledged.is_empty()
    }

    /// Whether the RAPs of a group know what there is to know: all that were told, but for one, which
    /// may be dead or far away.
    pub(crate) fn known(&self, key: GroupKey) -> bool {
        let Some(group) = self.groups.get(&key) else { return true };
        let told = group.told.values().filter(|told| !told.lost);
        let (all, heard) = told.fold((0_usize, 0_usize), |(all, heard), told| {
            (all + 1, heard + usize::from(told.acknowledged))
        });
        heard >= all.saturating_sub(1).max(1)
    }

    /// What was said to a proxy may be lost with its connection: what it did not acknowledge is
    /// repeated at once. A connection that comes and goes earns no more than one round of it within
    /// [`REPORT_HASTE`].
    pub(crate) fn undelivered(&mut self, rap: ProxyId, now: Time) {
        if self.unacknowledged.iter().any(|&(.., to)| to == rap) {
            let last = self.hastened.get(&rap);
            let at = last.map_or(now, |&last| (last + REPORT_HASTE).max(now));
            self.timers.set_by(Due::Hasten(rap), at);
        }
    }

    /// All that a RAP did not acknowledge is due.
    fn hasten(&mut self, rap: ProxyId, now: Time) {
        self.hastened.retain(|_, &mut last| now - last < REPORT_HASTE);
        self.hastened.insert(rap, now);
        let later = self.unacknowledged.iter().filter(|&&(at, _, to)| to == rap && at > now);
        for waiting @ (_, key, _) in later.copied().collect::<Vec<_>>() {
            let group = self.groups.get_mut(&key);
            let Some(told) = group.and_then(|group| group.told.get_mut(&rap)) else { continue };
            told.repeat = now - told.at;
            self.unacknowledged.remove(&waiting);
            self.unacknowledged.insert((now, key, rap));
        }
        self.timers.set_by(Due::Repeat, self.paced.max(now));
    }

    /// The ring changed: RAPs may be others.
    pub(crate) fn ring_changed(&mut self, now: Time) {
        if !self.groups.is_empty() {
            self.recheck.extend(self.groups.keys());
            self.timers.set_by(Due::Recheck, now + self.random.around(STEP));
        }
    }

    /// This proxy was taken for dead, and what it told with it.
    pub(crate) fn renew(&mut self, now: Time) {
        self.unacknowledged.clear();
        for told in self.groups.values_mut().flat_map(|group| group.told.values_mut()) {
            told.lost = true;
            told.acknowledged = false;
        }
        self.ring_changed(now);
    }

    /// A proxy is gone, and what it was told with it; unless it was only silent for a while. Then
    /// it has to be told of what ended meanwhile.
    pub(crate) fn gone(&mut self, proxy: ProxyId, now: Time) {
        for (&key, group) in &mut self.groups {
            if let Some(told) = group.told.get_mut(&proxy) {
                self.unacknowledged.remove(&(told.at + told.repeat, key, proxy));
                told.lost = true;
                told.acknowledged = false;
            }
        }
        self.left_ring(proxy, now);
    }

    /// A proxy is no RAP any more: another one is in its place for the groups that it was told, and
    /// for no others.
    pub(crate) fn left_ring(&mut self, proxy: ProxyId, now: Time) {
        let told = self.groups.iter().filter(|(_, group)| group.told.contains_key(&proxy));
        self.recheck.extend(told.map(|(&key, _)| key));
        if !self.recheck.is_empty() {
            self.timers.set_by(Due::Recheck, now + self.random.around(STEP));
        }
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.timers.next()
    }

    pub(crate) fn tick(&mut self, raps: &impl Responsible, now: Time, out: &mut Outbox) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Recheck => self.some_rechecks(raps, now, out),
                Due::Repeat => self.repeat(raps, now, out),
                Due::Hasten(rap) => self.hasten(rap, now),
                Due::Refresh(key) => self.refresh(key, raps, now, out),
            }
        }
    }

    fn some_rechecks(&mut self, raps: &impl Responsible, now: Time, out: &mut Outbox) {
        for _ in 0..RECHECKS_PER_STEP {
            let Some(key) = self.recheck.pop_first() else { return };
            for rap in raps.raps(&key) {
                if self.worth_it(key, rap) {
                    self.report(key, rap, now, out);
                }
            }
        }
        if !self.recheck.is_empty() {
            self.timers.set(Due::Recheck, now + self.random.around(STEP));
        }
    }

    fn repeat(&mut self, raps: &impl Responsible, now: Time, out: &mut Outbox) {
        let paced = now + self.random.around(STEP);
        for _ in 0..REPEATS_PER_STEP {
            let Some(&(at, key, rap)) = self.unacknowledged.first() else { return };
            if at > now {
                self.timers.set_by(Due::Repeat, at.max(paced));
                return;
            }
            self.unacknowledged.pop_first();
            if raps.is_alive(rap) {
                self.report(key, rap, now, out);
            } else {
                self.forget_told(key, rap);
            }
        }
        self.paced = paced;
        if let Some(&(at, ..)) = self.unacknowledged.first() {
            self.timers.set_by(Due::Repeat, at.max(paced));
        }
    }

    fn refresh(&mut self, key: GroupKey, raps: &impl Responsible, now: Time, out: &mut Outbox) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        if let Some(empty) = group.empty {
            // A RAP that did not hear of the last leave is told when it is back, until what it
            // believes in has expired by itself.
            let expired = empty + COUNT_LIFETIME;
            if now < expired {
                self.timers.set(Due::Refresh(key), expired);
            } else {
                self.forget(key);
            }
            return;
        }
        let raps = raps.raps(&key);
        let stale: Vec<_> = group
            .told
            .iter()
            .filter(|(rap, told)| !raps.contains(rap) && now - told.at >= COUNT_LIFETIME)
            .map(|(&rap, _)| rap)
            .collect();
        for rap in stale {
            self.forget_told(key, rap);
        }
        for rap in raps {
            self.report(key, rap, now, out);
        }
        self.timers.set(Due::Refresh(key), now + self.random.around(REPORT_REFRESH));
    }

    fn forget_told(&mut self, key: GroupKey, rap: ProxyId) {
        if let Some(told) = self.groups.get_mut(&key).and_then(|group| group.told.remove(&rap)) {
            self.unacknowledged.remove(&(told.at + told.repeat, key, rap));
        }
    }

    fn forget(&mut self, key: GroupKey) {
        if let Some(group) = self.groups.remove(&key) {
            for (rap, told) in group.told {
                self.unacknowledged.remove(&(told.at + told.repeat, key, rap));
            }
        }
        self.recheck.remove(&key);
        self.timers.cancel(Due::Refresh(key));
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::OverlayMessage;

    use super::*;
    use crate::outbox::Queued;

    const RAPS: [ProxyId; 2] = [ProxyId(1), ProxyId(2)];

    struct Both;

    impl Responsible for Both {
        fn raps(&self, _: &GroupKey) -> Vec<ProxyId> {
            RAPS.to_vec()
        }

        fn is_alive(&self, _: ProxyId) -> bool {
            true
        }
    }

    fn ms(n: u64) -> Time {
        Time::from_micros(n * 1_000)
    }

    fn key(port: u16) -> GroupKey {
        format!("203.0.113.1:{port}/udp").parse().unwrap()
    }

    /// Reports of so many groups, all of them told to both RAPs at the start.
    fn told(groups: u16) -> (Reports, Outbox) {
        let (mut reports, mut out) = (Reports::new(Random::new(1)), Outbox::new(ProxyId(9)));
        for port in 1..=groups {
            reports.count(key(port), 1, &Both, Time::ZERO, &mut out);
        }
        assert_eq!(sent(&mut out).len(), 2 * usize::from(groups));
        (reports, out)
    }

    fn sent(out: &mut Outbox) -> Vec<(ProxyId, GroupKey)> {
        let report = |queued| match queued {
            Queued::Message { to, message: OverlayMessage::CountReport(report), .. } => {
                (to, report.group)
            }
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| out.pop()).map(report).collect()
    }

    /// What is sent up to `end`, and when.
    fn run(reports: &mut Reports, out: &mut Outbox, end: Time) -> Vec<(Time, ProxyId)> {
        let mut all = Vec::new();
        while let Some(at) = reports.next().filter(|at| *at <= end) {
            reports.tick(&Both, at, out);
            all.extend(sent(out).into_iter().map(|(to, _)| (at, to)));
        }
        all
    }

    #[test]
    fn what_a_lost_connection_may_have_swallowed_is_said_again_at_once() {
        let (mut reports, mut out) = told(1);
        reports.undelivered(RAPS[0], ms(20));
        assert_eq!(run(&mut reports, &mut out, ms(20)), [(ms(20), RAPS[0])]);
        // The other RAP, and a further repetition, have their usual time.
        assert_eq!(run(&mut reports, &mut out, ms(999)), []);
        let later = run(&mut reports, &mut out, ms(1_999));
        assert_eq!(later.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [RAPS[1], RAPS[0]]);
    }

    #[test]
    fn the_answer_to_an_earlier_report_does_not_settle_the_last_one() {
        let (mut reports, mut out) = told(1);
        reports.count(key(1), 0, &Both, ms(10), &mut out);
        assert_eq!(sent(&mut out).len(), 2);
        for rap in RAPS {
            reports.acknowledged(rap, &CountAck { group: key(1), count: 1, band_percent: 25 });
        }
        let again = run(&mut reports, &mut out, ms(1_500));
        assert_eq!(again.iter().map(|(_, to)| *to).collect::<Vec<_>>(), RAPS);
    }

    #[test]
    fn a_rap_that_is_back_hears_of_the_last_leave_though_it_answers_to_what_came_before() {
        struct Second;
        impl Responsible for Second {
            fn raps(&self, _: &GroupKey) -> Vec<ProxyId> {
                vec![RAPS[1]]
            }

            fn is_alive(&self, proxy: ProxyId) -> bool {
                proxy == RAPS[1]
            }
        }
        let (mut reports, mut out) = told(1);
        let ack = |count| CountAck { group: key(1), count, band_percent: 25 };
        reports.gone(RAPS[0], ms(10));
        reports.count(key(1), 0, &Second, ms(20), &mut out);
        assert_eq!(sent(&mut out), [(RAPS[1], key(1))]);
        reports.acknowledged(RAPS[1], &ack(0));
        reports.acknowledged(RAPS[0], &ack(1));
        reports.ring_changed(ms(100));
        let said = run(&mut reports, &mut out, ms(500));
        assert_eq!(said.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [RAPS[0]]);
    }

    #[test]
    fn what_was_acknowledged_is_not_said_again() {
        let (mut reports, mut out) = told(1);
        reports.acknowledged(RAPS[0], &CountAck { group: key(1), count: 1, band_percent: 25 });
        reports.undelivered(RAPS[0], ms(20));
        assert_eq!(run(&mut reports, &mut out, ms(999)), []);
    }

    #[test]
    fn a_connection_that_comes_and_goes_does_not_make_a_storm() {
        let (mut reports, mut out) = told(1);
        let mut all = Vec::new();
        for n in 20..420 {
            reports.undelivered(RAPS[0], ms(n));
            all.extend(run(&mut reports, &mut out, ms(n)));
        }
        assert_eq!(all, [(ms(20), RAPS[0]), (ms(220), RAPS[0])]);
    }

    #[test]
    fn many_reports_that_may_be_lost_are_said_again_in_steps() {
        let (mut reports, mut out) = told(1_000);
        reports.undelivered(RAPS[0], ms(20));
        let all = run(&mut reports, &mut out, ms(900));
        assert_eq!(all.len(), 1_000);
        for at in all.iter().map(|&(at, _)| at).collect::<BTreeSet<_>>() {
            assert!(all.iter().filter(|(sent, _)| *sent == at).count() <= REPEATS_PER_STEP);
        }
    }
}
