//! A long run with loss everywhere and pauses of some: who is declared down that runs?

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use pias_protocol::time::Time;

use super::{quantile, report::Row};
use crate::{
    random::Draws,
    sim::{HostNo, Setup, Sim},
    topology::Topology,
    trace::Keep,
};

const SETTLE: Duration = Duration::from_secs(15);
/// Of 1,000 packets so many are lost, everywhere.
const LOSS: u32 = 50;
/// Packets take up to so much longer than their way.
const JITTER: Duration = Duration::from_millis(2);
/// One proxy is paused in each such time, for up to [`LONGEST`].
const PAUSES: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(2);
/// How exactly it is looked.
const STEP: Duration = Duration::from_millis(20);
/// A proxy that is not back after so long counts as that late.
const PATIENCE: Duration = Duration::from_secs(60);
/// For so long after it was paused a proxy's own time to catch up is told apart.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How often progress is told, in simulated time.
const PROGRESS: Duration = Duration::from_secs(1_800);

pub(super) fn measure(topology: Topology, seed: u64, time: Duration) -> Vec<Row> {
    let began = Instant::now();
    let mut draws = Draws::new(seed, 0x646179);
    let mut sim = Setup { keep: Keep::Nothing, ..Setup::new(topology, seed) }.start_known();
    sim.network.jitter(JITTER);
    sim.network.lose(LOSS);
    sim.run_for(SETTLE);
    sim.count_anew();
    let end = sim.now() + time;
    let mut told = sim.now();
    let mut pauses = Pauses::default();
    while sim.now() < end {
        pauses.one(&mut sim, &mut draws);
        let next = sim.now() + PAUSES;
        while sim.now() < next {
            sim.run_for(STEP);
            pauses.look(&sim);
        }
        if sim.now() - told >= PROGRESS {
            told = sim.now();
            let (wrong, events) = (sim.beliefs().wrong_count(), sim.tally().events);
            let rate = events as f64 / began.elapsed().as_secs_f64() / 1e6;
            eprintln!("{} proxies at {told}: {wrong} wrong, {rate:.2} M events/s", sim.hosts());
        }
    }
    for wrong in sim.beliefs().wrong() {
        let (observer, subject) = (sim.name(wrong.observer), sim.name(wrong.subject));
        eprintln!("wrong at {}: {observer} about {subject}, judged: {}", wrong.at, wrong.judged);
    }
    pauses.rows(&sim, time)
}

/// Proxies that were paused.
#[derive(Default)]
struct Pauses {
    /// Until when.
    paused: Vec<(HostNo, Time)>,
    /// Since when those go on that were paused lately.
    lately: Vec<(HostNo, Time)>,
    /// Since when they go on, while others still take them for dead.
    resumed: Vec<Resumed>,
    count: u64,
    /// How long those that were taken for dead took to be back: for their POP and for all, not
    /// counting the time in which these were paused themselves; for all but one of a hundred
    /// proxies; and for all.
    near: Vec<Duration>,
    most: Vec<Duration>,
    both: Vec<Duration>,
    all: Vec<Duration>,
}

/// A proxy that goes on, and that others take for dead.
struct Resumed {
    host: HostNo,
    since: Time,
    most: Option<Duration>,
    /// For how long a mate, and any proxy, took it for dead while both of them ran.
    near: Duration,
    all: Duration,
}

impl Pauses {
    fn one(&mut self, sim: &mut Sim, draws: &mut Draws) {
        let host = draws.below(sim.hosts());
        let paused = self.paused.iter().any(|&(other, _)| other == host);
        if paused || self.resumed.iter().any(|resumed| resumed.host == host) {
            return;
        }
        let time = draws.between(Duration::ZERO, LONGEST);
        self.paused.push((host, sim.now() + time));
        self.count += 1;
        sim.pause_at(host, time);
    }

    fn look(&mut self, sim: &Sim) {
        let (now, beliefs) = (sim.now(), sim.beliefs());
        let goes_on: Vec<_> = self.paused.extract_if(.., |(_, until)| *until <= now).collect();
        let again = |host| goes_on.iter().any(|&(other, _)| other == host);
        self.lately.retain(|&(host, since)| now - since < CATCH_UP && !again(host));
        self.lately.extend(&goes_on);
        // Who was not taken for dead by anybody in time needs not come back.
        let doubted = goes_on.into_iter().filter(|&(host, _)| beliefs.disbelievers(host) > 0);
        self.resumed.extend(doubted.map(|(host, since)| Resumed {
            host,
            since,
            most: None,
            near: Duration::ZERO,
            all: Duration::ZERO,
        }));
        let mut open = std::mem::take(&mut self.resumed);
        for resumed in &mut open {
            let (host, after) = (resumed.host, now - resumed.since);
            if beliefs.disbelievers(host) * 100 <= sim.hosts() {
                resumed.most.get_or_insert(after);
            }
            if beliefs.disbelievers(host) > 0 {
                let doubted = |others: Range<HostNo>| {
                    others.filter_map(|other| self.doubts(sim, other, resumed)).max()
                };
                let near = doubted(sim.in_cluster(sim.cluster_of(host))).unwrap_or_default();
                let all = doubted(0..sim.hosts()).unwrap_or_default();
                resumed.near = resumed.near.max(near);
                resumed.all = resumed.all.max(all);
            }
        }
        self.resumed = open;
        let over = self.resumed.extract_if(.., |resumed| {
            beliefs.disbelievers(resumed.host) == 0 || now - resumed.since >= PATIENCE
        });
        for resumed in over {
            let after = now - resumed.since;
            self.near.push(resumed.near);
            self.most.push(resumed.most.unwrap_or(after));
            self.both.push(resumed.all);
            self.all.push(after);
        }
    }

    /// For how long a proxy takes this one for dead while both run, if it does.
    fn doubts(&self, sim: &Sim, other: HostNo, resumed: &Resumed) -> Option<Duration> {
        if sim.is_paused(other) || !sim.beliefs().takes_for_gone(other, resumed.host) {
            return None;
        }
        // Who was paused hears of nothing until it goes on.
        let went_on = self.lately.iter().find(|&&(host, _)| host == other);
        let since = went_on.map_or(resumed.since, |&(_, since)| since.max(resumed.since));
        Some(sim.now() - since + STEP)
    }

    fn rows(mut self, sim: &Sim, time: Duration) -> Vec<Row> {
        let hours = time.as_secs_f64() / 3_600.0;
        let name = format!("{} proxies, {hours:.1} h, 5 % loss", sim.hosts());
        let wrong = sim.beliefs().wrong_count() as f64;
        let taken = self.all.len() as f64;
        let back =
            |whom: &str, which: &str, times: &mut Vec<Duration>, share, goal: Option<f64>| {
                let name = format!("a paused proxy is back {whom}, {which}, {name}");
                let seconds = quantile(times, share).as_secs_f64();
                match goal {
                    Some(goal) => Row::at_most(name, seconds, "s", goal),
                    None => Row::plain(name, seconds, "s"),
                }
            };
        let (both, all) =
            ("for all, while both run", "for all, also those that were paused meanwhile");
        vec![
            Row::at_most(format!("running proxies declared down, {name}"), wrong, "", 0.0),
            Row::plain(format!("pauses of up to 2 s, {name}"), self.count as f64, ""),
            Row::plain(format!("of them taken for dead, {name}"), taken, ""),
            back("in its POP", "worst", &mut self.near, 1.0, Some(1.0)),
            back("for 99 % of all", "worst", &mut self.most, 1.0, None),
            back(both, "median", &mut self.both, 0.5, None),
            back(both, "p99", &mut self.both, 0.99, None),
            back(both, "worst", &mut self.both, 1.0, Some(1.0)),
            back(all, "worst", &mut self.all, 1.0, None),
        ]
    }
}
