//! The reporting of counts by itself: the very code with which a [`Node`](crate::Node) reports as a
//! JAP and acknowledges as a RAP, without the rest of it. Figures about reports need ten thousand
//! JAPs over hours; nodes would spend all of that on heartbeats and leases.
//!
//! ```text
//!  count ─► Reporter ──poll: CountReport──► Listener
//!              ▲                               │
//!              └──── acknowledged: CountAck ───┘  with the band
//! ```

use pias_protocol::{
    group::GroupKey,
    ids::ProxyId,
    overlay::{CountAck, CountReport, OverlayMessage},
    time::Time,
};

use crate::{
    join::report::{Reports, Responsible},
    outbox::{Outbox, Queued},
    random::Random,
    rendezvous::Load,
};

/// RAPs that stay the same, and live.
#[derive(Debug)]
struct Lasting(Vec<ProxyId>);

impl Responsible for Lasting {
    fn raps(&self, _: &GroupKey) -> Vec<ProxyId> {
        self.0.clone()
    }

    fn is_alive(&self, _: ProxyId) -> bool {
        true
    }
}

/// What a JAP does to keep RAPs informed, as long as none of them comes or goes.
#[derive(Debug)]
pub struct Reporter {
    own: ProxyId,
    raps: Lasting,
    reports: Reports,
    out: Outbox,
}

impl Reporter {
    /// The JAP `own`, whose groups all have the RAPs `raps`; it may be one of them. `seed` feeds the
    /// jitter of its timers.
    #[must_use]
    pub fn new(own: ProxyId, raps: Vec<ProxyId>, seed: u64) -> Self {
        let reports = Reports::new(Random::new(seed));
        Self { own, raps: Lasting(raps), reports, out: Outbox::new(own) }
    }

    /// The number of targets of a group changed.
    pub fn count(&mut self, group: GroupKey, count: u32, now: Time) {
        self.reports.count(group, count, &self.raps, now, &mut self.out);
    }

    /// A RAP heard a report.
    pub fn acknowledged(&mut self, rap: ProxyId, ack: &CountAck) {
        self.reports.acknowledged(rap, ack);
    }

    /// When [`Reporter::handle_timeout`] should be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        self.reports.next()
    }

    /// Refreshes what is due, and repeats what was not acknowledged.
    pub fn handle_timeout(&mut self, now: Time) {
        self.reports.tick(&self.raps, now, &mut self.out);
    }

    /// The next report and whom it is for, until `None`. One for the JAP itself travels nowhere.
    pub fn poll(&mut self) -> Option<(ProxyId, CountReport)> {
        if let Some(OverlayMessage::CountReport(report)) = self.out.pop_loopback() {
            return Some((self.own, report));
        }
        match self.out.pop()? {
            Queued::Message { to, message: OverlayMessage::CountReport(report), .. } => {
                Some((to, report))
            }
            other => unreachable!("reports are all that a reporter sends: {other:?}"),
        }
    }
}

/// What a RAP answers to reports.
#[derive(Debug)]
pub struct Listener(Load);

impl Listener {
    /// A RAP that starts `now`.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self(Load::new(now))
    }

    /// Fixes how far, in percent, a count may move unreported: 0 to hear of every change, at most 100.
    /// Otherwise it follows the load, as in a [`Node`](crate::Node).
    pub const fn fix_band(&mut self, percent: u8) {
        self.0.fix_band(percent);
    }

    /// A report came: its answer.
    pub fn heard(&mut self, report: &CountReport, now: Time) -> CountAck {
        CountAck { group: report.group, count: report.count, band_percent: self.0.heard(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JAP: ProxyId = ProxyId(1);
    const RAP: ProxyId = ProxyId(2);

    fn group() -> GroupKey {
        "203.0.113.1:53/udp".parse().unwrap()
    }

    /// Counts up and down again, and how often the RAP is told with a band of so many percent.
    fn reports(band: u8) -> Vec<u32> {
        let mut reporter = Reporter::new(JAP, vec![RAP], 1);
        let mut listener = Listener::new(Time::ZERO);
        listener.fix_band(band);
        let mut told = Vec::new();
        for (n, count) in (1..=20).chain((0..20).rev()).enumerate() {
            let now = Time::from_micros(n as u64);
            reporter.count(group(), count, now);
            while let Some((to, report)) = reporter.poll() {
                assert_eq!(to, RAP);
                told.push(report.count);
                reporter.acknowledged(RAP, &listener.heard(&report, now));
            }
        }
        told
    }

    #[test]
    fn without_a_band_every_change_is_told() {
        let all: Vec<u32> = (1..=20).chain((0..20).rev()).collect();
        assert_eq!(reports(0), all);
    }

    #[test]
    fn a_band_spares_what_lies_within_it_but_never_the_last_leave() {
        assert_eq!(reports(100), [1, 3, 7, 15, 0]);
        assert_eq!(reports(50), [1, 2, 4, 7, 11, 17, 8, 3, 1, 0]);
    }

    #[test]
    fn a_jap_that_is_a_rap_tells_itself() {
        let mut reporter = Reporter::new(JAP, vec![JAP, RAP], 1);
        reporter.count(group(), 1, Time::ZERO);
        let told: Vec<_> = std::iter::from_fn(|| reporter.poll()).map(|(to, _)| to).collect();
        assert_eq!(told, [JAP, RAP]);
    }
}
