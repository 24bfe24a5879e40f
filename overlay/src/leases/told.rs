//! What the heir is told: every lease once, then what changes.
//!
//! One batch is under way at a time, and carries leases *as they are* when it is made. One that is
//! not acknowledged is not repeated: its leases go into the next one. So a loss costs time, never
//! truth, and ten thousand leases are no burst.

use std::collections::BTreeSet;

use pias_protocol::{
    ids::{ProxyId, TargetId},
    limits::MAX_LEASES_PER_MESSAGE,
    overlay::{LeaseAck, LeaseReplica},
    time::Time,
};

use crate::{
    join::Join,
    outbox::Outbox,
    random::Random,
    timing::{LEASE_DELAY, LEASE_REFRESH, LEASE_REPEAT, STEP},
};

/// The batch under way.
#[derive(Debug)]
struct Batch {
    targets: Vec<TargetId>,
    sent: Time,
    /// When it is taken for lost.
    until: Time,
}

/// What the heir was told.
#[derive(Debug)]
pub(super) struct Told {
    heir: Option<ProxyId>,
    epoch: u64,
    /// That of the next batch.
    sequence: u64,
    /// Leases that the heir does not know, or not as they are now.
    news: BTreeSet<TargetId>,
    batch: Option<Batch>,
    /// When the next batch is due.
    due: Time,
    random: Random,
}

impl Told {
    pub(super) const fn new(random: Random) -> Self {
        Self {
            heir: None,
            epoch: 0,
            sequence: 0,
            news: BTreeSet::new(),
            batch: None,
            due: Time::ZERO,
            random,
        }
    }

    /// Who the heir is now; another one than before is told everything.
    pub(super) fn heir_is(&mut self, heir: Option<ProxyId>, join: &Join, now: Time) {
        if self.heir != heir {
            self.heir = heir;
            self.begin(join, now);
        }
    }

    /// A mate is gone, and what it was told with it, even if it is back already.
    pub(super) fn gone(&mut self, mate: ProxyId) {
        if self.heir == Some(mate) {
            self.heir = None;
        }
    }

    /// What was said to a proxy may be lost with its connection: then the batch under way is.
    pub(super) fn undelivered(&mut self, proxy: ProxyId, now: Time) {
        if self.heir == Some(proxy)
            && let Some(batch) = &mut self.batch
        {
            batch.until = batch.until.min((batch.sent + STEP).max(now));
        }
    }

    fn begin(&mut self, join: &Join, now: Time) {
        (self.epoch, self.sequence) = (self.random.next(), 0);
        self.batch = None;
        self.news = self.heir.map(|_| join.leases().collect()).unwrap_or_default();
        self.due = now;
    }

    /// Leases changed.
    pub(super) fn changed(&mut self, targets: BTreeSet<TargetId>, now: Time) {
        if self.heir.is_none() {
            return;
        }
        if self.news.is_empty() && self.batch.is_none() {
            self.due = self.due.min(now + LEASE_DELAY);
        }
        self.news.extend(targets);
    }

    /// The heir answers.
    pub(super) fn acknowledged(&mut self, from: ProxyId, ack: &LeaseAck, join: &Join, now: Time) {
        let last = self.sequence.checked_sub(1);
        if Some(from) != self.heir || ack.epoch != self.epoch || Some(ack.sequence) != last {
            return;
        }
        if !ack.known {
            self.begin(join, now);
            // One that never knows anything is told no faster than one that does.
            self.due = now + STEP;
            return;
        }
        if self.batch.take().is_some() {
            let more = if self.news.is_empty() { LEASE_REFRESH } else { STEP };
            self.due = now + more;
        }
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.heir?;
        Some(self.batch.as_ref().map_or(self.due, |batch| batch.until))
    }

    pub(super) fn tick(&mut self, join: &Join, now: Time, out: &mut Outbox) {
        let Some(heir) = self.heir else { return };
        if let Some(batch) = self.batch.take_if(|batch| batch.until <= now) {
            self.news.extend(batch.targets);
            self.due = now;
        }
        if self.batch.is_some() || now < self.due {
            return;
        }
        let (mut targets, mut leases, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        while targets.len() < MAX_LEASES_PER_MESSAGE
            && let Some(target) = self.news.pop_first()
        {
            targets.push(target);
            match join.lease(target) {
                Some(lease) => leases.push(lease),
                None => ended.push(target),
            }
        }
        out.send(heir, LeaseReplica { epoch: self.epoch, sequence: self.sequence, leases, ended });
        self.sequence += 1;
        self.batch = Some(Batch { targets, sent: now, until: now + LEASE_REPEAT });
    }
}
