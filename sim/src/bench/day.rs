//! A long run with loss everywhere and pauses of some: who is declared down that runs?

use std::time::{Duration, Instant};

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
    /// Since when they go on.
    resumed: Vec<(HostNo, Time)>,
    paused: Vec<(HostNo, Time)>,
    count: u64,
    /// How many were taken for dead by anybody, and how long it took them to be back.
    back: Vec<Duration>,
}

impl Pauses {
    fn one(&mut self, sim: &mut Sim, draws: &mut Draws) {
        let host = draws.below(sim.hosts());
        let known = |list: &[(HostNo, Time)]| list.iter().any(|&(other, _)| other == host);
        if known(&self.paused) || known(&self.resumed) {
            return;
        }
        let time = draws.between(Duration::ZERO, LONGEST);
        self.paused.push((host, sim.now() + time));
        self.count += 1;
        sim.pause_at(host, time);
    }

    fn look(&mut self, sim: &Sim) {
        let now = sim.now();
        let resumed = self.paused.extract_if(.., |(_, until)| *until <= now);
        let doubted: Vec<_> = resumed.collect();
        // Who was not taken for dead by anybody in time needs not come back.
        self.resumed
            .extend(doubted.into_iter().filter(|&(host, _)| sim.beliefs().disbelievers(host) > 0));
        let beliefs = sim.beliefs();
        let over = self.resumed.extract_if(.., |&mut (host, since)| {
            beliefs.disbelievers(host) == 0 || now - since >= PATIENCE
        });
        self.back.extend(over.map(|(_, since)| now - since));
    }

    fn rows(mut self, sim: &Sim, time: Duration) -> Vec<Row> {
        let hours = time.as_secs_f64() / 3_600.0;
        let name = format!("{} proxies, {hours:.1} h, 5 % loss", sim.hosts());
        let wrong = sim.beliefs().wrong_count() as f64;
        let worst = quantile(&mut self.back, 1.0).as_secs_f64();
        let tail = quantile(&mut self.back, 0.99).as_secs_f64();
        vec![
            Row::at_most(format!("running proxies declared down, {name}"), wrong, "", 0.0),
            Row::plain(format!("pauses of up to 2 s, {name}"), self.count as f64, ""),
            Row::plain(format!("of them taken for dead, {name}"), self.back.len() as f64, ""),
            Row::at_most(format!("paused proxies back for all, worst, {name}"), worst, "s", 1.0),
            Row::plain(format!("paused proxies back for all, p99, {name}"), tail, "s"),
        ]
    }
}
