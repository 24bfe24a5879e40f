//! One run: a crowd joins a group at its proxies, and their reports reach the group's RAPs.

use std::time::Duration;

use pias_overlay::{Listener, Reporter};
use pias_protocol::{
    group::{GroupKey, Protocol},
    ids::ProxyId,
    overlay::{CountAck, CountReport},
    time::Time,
};

use super::{
    catchment::Catchment,
    crowd::{Change, Crowd},
};
use crate::{queue::Queue, random::Draws, routes::Routes, topology::WITHIN};

/// RAPs of a group.
const RAPS: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Flash {
    /// What the choice of RAPs and the jitter of timers come from.
    pub seed: u64,
    /// The band that RAPs ask for, in percent.
    pub band: u8,
    /// Whether JAPs refresh what they told, as proxies do. Each refresh tells the RAPs a new count,
    /// and so saves reports of changes.
    pub refreshes: bool,
}

/// What RAPs heard, minute by minute: messages between proxies, all four RAPs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Reports of changes.
    pub changes: Vec<u64>,
    /// Reports although nothing changed.
    pub refreshes: Vec<u64>,
    /// Counts that a RAP believes at the end although they lie outside of the band around the true
    /// ones.
    pub astray: usize,
}

/// Why a report is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Change,
    Refresh,
}

/// What is on its way, or due.
#[derive(Debug)]
enum Due {
    Report { jap: u32, rap: usize, report: CountReport },
    Ack { jap: u32, rap: usize, ack: CountAck },
    Timer { jap: u32 },
}

#[derive(Debug)]
struct Jap {
    reporter: Reporter,
    /// Its members.
    count: u32,
    /// For when its timer is set.
    armed: Option<Time>,
}

#[derive(Debug)]
struct Rap {
    proxy: usize,
    listener: Listener,
    /// What it believes of each JAP.
    believed: Vec<u32>,
}

/// Lets a crowd join at a catchment's proxies, over an event's length.
#[must_use]
pub fn run(crowd: &Crowd, catchment: &Catchment, flash: Flash) -> Heard {
    let mut run = Run::new(crowd, catchment, flash);
    for &change in &crowd.changes {
        run.pass(change.at);
        run.change(catchment.proxy(&crowd.members[change.member as usize]), change);
    }
    run.pass(Time::ZERO + crowd.length);
    run.finish()
}

/// A run's state. Proxies are known by their numbers.
struct Run {
    flash: Flash,
    group: GroupKey,
    queue: Queue<Due>,
    japs: Vec<Jap>,
    raps: Vec<Rap>,
    routes: Routes,
    pops: Vec<usize>,
    heard: Heard,
}

impl Run {
    fn new(crowd: &Crowd, catchment: &Catchment, flash: Flash) -> Self {
        let pops = catchment.pops();
        let mut draws = Draws::new(flash.seed, 0x0066_6C61_7368);
        let mut raps: Vec<usize> = Vec::new();
        while raps.len() < RAPS.min(pops.len()) {
            let rap = draws.below(pops.len());
            if !raps.contains(&rap) {
                raps.push(rap);
            }
        }
        let ids: Vec<_> = raps.iter().map(|&rap| id(rap)).collect();
        let jap = |n| Jap {
            reporter: Reporter::new(id(n), ids.clone(), draws.next()),
            count: 0,
            armed: None,
        };
        let japs = (0..pops.len()).map(jap).collect();
        let rap = |proxy| {
            let mut listener = Listener::new(Time::ZERO);
            listener.fix_band(flash.band);
            Rap { proxy, listener, believed: vec![0; pops.len()] }
        };
        let minutes = crowd.length.as_secs().div_ceil(MINUTE.as_secs()) as usize;
        Self {
            flash,
            group: GroupKey { address: [203, 0, 113, 1].into(), port: 53, protocol: Protocol::Udp },
            queue: Queue::default(),
            japs,
            raps: raps.into_iter().map(rap).collect(),
            routes: Routes::new(&catchment.topology),
            pops,
            heard: Heard { changes: vec![0; minutes], refreshes: vec![0; minutes], astray: 0 },
        }
    }

    /// A member joins or leaves at a proxy.
    fn change(&mut self, n: usize, change: Change) {
        let jap = &mut self.japs[n];
        jap.count = if change.joins { jap.count + 1 } else { jap.count - 1 };
        jap.reporter.count(self.group, jap.count, change.at);
        self.send(n, Why::Change, change.at);
    }

    /// Sends what a JAP wishes to say, and sets its timer.
    fn send(&mut self, n: usize, why: Why, now: Time) {
        while let Some((to, report)) = self.japs[n].reporter.poll() {
            let rap = self.rap(to);
            if self.raps[rap].proxy != n {
                self.tally(why, now);
            }
            self.queue.push(now + self.way(n, rap), Due::Report { jap: n as u32, rap, report });
        }
        let jap = &mut self.japs[n];
        if self.flash.refreshes
            && let Some(next) = jap.reporter.next_timeout()
            && jap.armed.is_none_or(|armed| next < armed)
        {
            jap.armed = Some(next);
            self.queue.push(next.max(now), Due::Timer { jap: n as u32 });
        }
    }

    /// Lets time pass.
    fn pass(&mut self, until: Time) {
        while let Some((now, due)) = self.queue.pop(until) {
            self.happen(due, now);
        }
    }

    fn happen(&mut self, due: Due, now: Time) {
        match due {
            Due::Report { jap, rap, report } => {
                let ack = self.raps[rap].listener.heard(&report, now);
                self.raps[rap].believed[jap as usize] = report.count;
                self.queue.push(now + self.way(jap as usize, rap), Due::Ack { jap, rap, ack });
            }
            Due::Ack { jap, rap, ack } => {
                let from = id(self.raps[rap].proxy);
                self.japs[jap as usize].reporter.acknowledged(from, &ack);
            }
            Due::Timer { jap: n } => {
                let jap = &mut self.japs[n as usize];
                if jap.armed.is_some_and(|armed| armed <= now) {
                    jap.armed = None;
                    jap.reporter.handle_timeout(now);
                    self.send(n as usize, Why::Refresh, now);
                }
            }
        }
    }

    fn rap(&self, id: ProxyId) -> usize {
        let found = self.raps.iter().position(|rap| rap.proxy as u64 == id.0);
        found.expect("a JAP reports to its group's RAPs only")
    }

    /// How long a message takes between a JAP and a RAP.
    fn way(&self, jap: usize, rap: usize) -> Duration {
        let rap = self.raps[rap].proxy;
        if jap == rap {
            return Duration::ZERO;
        }
        let way = self.routes.settled(self.pops[rap], self.pops[jap]);
        way.expect("a topology is connected") + WITHIN
    }

    fn tally(&mut self, why: Why, now: Time) {
        let minute = ((now - Time::ZERO).as_secs() / MINUTE.as_secs()) as usize;
        let heard = match why {
            Why::Change => &mut self.heard.changes,
            Why::Refresh => &mut self.heard.refreshes,
        };
        let last = heard.len() - 1;
        heard[minute.min(last)] += 1;
    }

    /// Lets arrive what is on its way, and compares what RAPs believe with what is true.
    fn finish(mut self) -> Heard {
        self.flash.refreshes = false;
        while let Some((now, due)) = self.queue.pop(Time::from_micros(u64::MAX)) {
            if !matches!(due, Due::Timer { .. }) {
                self.happen(due, now);
            }
        }
        let band = self.flash.band;
        let astray = |rap: &Rap| {
            let pairs = self.japs.iter().zip(&rap.believed);
            pairs.filter(|(jap, believed)| !within(jap.count, **believed, band)).count()
        };
        self.heard.astray = self.raps.iter().map(astray).sum();
        self.heard
    }
}

fn id(proxy: usize) -> ProxyId {
    ProxyId(proxy as u64)
}

/// Whether a true count may be believed to be another.
fn within(count: u32, believed: u32, band: u8) -> bool {
    if count == 0 || believed == 0 {
        return count == believed;
    }
    u64::from(count.abs_diff(believed)) * 100 <= u64::from(believed) * u64::from(band)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{figures::Clients, topology::Topology};

    fn messages(proxies: usize, band: u8, refreshes: bool) -> (u64, u64) {
        let crowd = Crowd::new(3, Duration::from_secs(300));
        let catchment = Catchment::new(&Topology::circle(20, 1), proxies, Clients::Cities, 3);
        let heard = run(&crowd, &catchment, Flash { seed: 3, band, refreshes });
        assert_eq!(heard.astray, 0, "band {band}");
        assert_eq!(heard, run(&crowd, &catchment, Flash { seed: 3, band, refreshes }));
        (heard.changes.iter().sum(), heard.refreshes.iter().sum())
    }

    #[test]
    fn without_a_band_every_rap_hears_every_change() {
        let crowd = Crowd::new(3, Duration::from_secs(300));
        let changes = crowd.changes.len() as u64;
        let (heard, refreshed) = messages(100, 0, false);
        // A RAP's own members cost no message.
        assert!(heard < 4 * changes && heard > 39 * changes / 10, "{heard} of {changes}");
        assert_eq!(refreshed, 0);
    }

    #[test]
    fn messages_fall_with_the_band_and_grow_with_the_proxies() {
        let by_band = [0, 10, 25, 50, 75, 100].map(|band| messages(40, band, false).0);
        assert!(by_band.is_sorted_by(|a, b| a > b), "{by_band:?}");
        let by_proxies = [4, 40, 400].map(|proxies| messages(proxies, 100, false).0);
        assert!(by_proxies.is_sorted_by(|a, b| a < b), "{by_proxies:?}");
    }

    #[test]
    fn refreshes_come_at_their_pace_and_spare_changes() {
        let (alone, _) = messages(40, 50, false);
        let (changes, refreshes) = messages(40, 50, true);
        assert!(changes <= alone, "{changes} of {alone}");
        // 40 JAPs tell 4 RAPs at least every 45 s and at most every 15 s, for 300 s.
        assert!((900..3_200).contains(&refreshes), "{refreshes}");
    }
}
