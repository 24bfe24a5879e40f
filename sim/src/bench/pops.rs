//! How soon a crash is known inside its POP.

use std::time::Duration;

use super::{quantile, report::Row};
use crate::{
    sim::{HostNo, Setup, Sim},
    topology::Topology,
    trace::Keep,
};

/// Until coordinates are known and all is quiet.
const SETTLE: Duration = Duration::from_secs(15);
/// Between two crashes.
const APART: Duration = Duration::from_millis(37);
/// How exactly it is looked.
const STEP: Duration = Duration::from_millis(1);
/// Packets take up to so much longer than their way.
const JITTER: Duration = Duration::from_millis(1);
/// How long mates may take at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// A crash that not all mates know of yet.
struct Crash {
    victim: HostNo,
    after: Duration,
    unaware: Vec<HostNo>,
}

/// One crash in each cluster, without loss and with 5 % of it.
pub(super) fn measure(topology: Topology, seed: u64) -> Vec<Row> {
    let mut quiet = crashes(topology.clone(), seed, 0);
    let mut lossy = crashes(topology, seed, 50);
    let name = "crash known inside the POP";
    vec![
        Row::at_most(format!("{name}, p99"), quantile(&mut quiet, 0.99).as_secs_f64(), "s", 0.5),
        Row::plain(format!("{name}, median"), quantile(&mut quiet, 0.5).as_secs_f64(), "s"),
        Row::plain(
            format!("{name}, p99, 5 % loss everywhere"),
            quantile(&mut lossy, 0.99).as_secs_f64(),
            "s",
        ),
    ]
}

/// How long each mate of each victim took; one that never knew took [`PATIENCE`].
fn crashes(topology: Topology, seed: u64, loss: u32) -> Vec<Duration> {
    let clusters = topology.clusters.len();
    let mut sim = Setup { keep: Keep::Nothing, ..Setup::new(topology, seed) }.start_known();
    sim.network.jitter(JITTER);
    sim.network.lose(loss);
    sim.run_for(SETTLE);
    let (mut open, mut known) = (Vec::new(), Vec::new());
    for cluster in 0..clusters {
        open.push(crash_in(&mut sim, cluster));
        watch(&mut sim, &mut open, APART, &mut known);
    }
    watch(&mut sim, &mut open, PATIENCE, &mut known);
    known.extend(open.iter().flat_map(|crash| crash.unaware.iter().map(|_| PATIENCE)));
    known
}

fn crash_in(sim: &mut Sim, cluster: usize) -> Crash {
    let mates = sim.in_cluster(cluster);
    let victim = mates.start + cluster % mates.len();
    sim.crash_at(victim);
    let unaware = mates.filter(|&mate| mate != victim).collect();
    Crash { victim, after: Duration::ZERO, unaware }
}

fn watch(sim: &mut Sim, open: &mut Vec<Crash>, time: Duration, known: &mut Vec<Duration>) {
    let end = sim.now() + time;
    while sim.now() < end && !open.is_empty() {
        sim.run_for(STEP);
        for crash in open.iter_mut() {
            crash.after += STEP;
            let before = crash.unaware.len();
            let beliefs = sim.beliefs();
            crash.unaware.retain(|&mate| !beliefs.takes_for_gone(mate, crash.victim));
            known.extend((crash.unaware.len()..before).map(|_| crash.after));
        }
        open.retain(|crash| !crash.unaware.is_empty());
    }
    // Where all know everything the time passes all the same.
    let left = end - sim.now();
    sim.run_for(left);
}
