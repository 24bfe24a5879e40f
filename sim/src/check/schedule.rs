//! Which faults befall a world, and when: drawn from the seed before the run begins.

use std::time::Duration;

use pias_protocol::time::Time;

use super::world::World;
use crate::random::Draws;

/// How long proxies have to find each other before the first fault.
const START: Duration = Duration::from_secs(6);
/// Rounds of faults.
const ROUNDS: usize = 3;
/// Longest time that the faults of a round last.
const FAULTS: Duration = Duration::from_secs(16);
/// Calm between rounds: more than [`REACH`](super::reach::REACH), so that groups are asked for.
const CALM: Duration = Duration::from_secs(14);

/// A change of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A proxy dies.
    Crash(usize),
    /// A dead proxy starts.
    Start(usize),
    /// A proxy drains, and is stopped in good order some seconds later.
    Drain(usize),
    /// A draining proxy says goodbye and ends.
    Stop(usize),
    /// A proxy's process is stopped for a while.
    Pause(usize, Duration),
    /// A proxy takes long for anything.
    Slow(usize, Duration),
    /// A proxy's clock gains parts in a million.
    Skew(usize, i64),
    /// All proxies of a cluster die.
    LoseCluster(usize),
    /// Of 1,000 packets so many are lost, everywhere.
    Loss(u32),
    /// The same from and to one cluster.
    LossAt(usize, u32),
    /// Packets take up to so much longer.
    Jitter(Duration),
    /// Of 1,000 datagrams so many come twice, and so many late.
    Shuffle(u32, u32),
    /// These clusters (as bits) are parted from the others.
    Split(u64),
    /// A link between POPs is cut.
    CutLink(usize),
    /// An agent dies with its target.
    KillAgent(usize),
    /// An agent leaves.
    Leave(usize),
    /// A target's service refuses, or serves again.
    Refuse(usize, bool),
    /// A new target near a cluster joins a group.
    Join(usize, usize),
    /// What is wrong with the network ends, and proxies are as fast as ever.
    Mend,
    /// All that are dead start.
    StartAll,
}

/// A change and its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) at: Time,
    pub(super) change: Change,
}

/// All changes, in order.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) steps: Vec<Step>,
    /// When the last fault is mended.
    pub(super) mended: Time,
}

impl Schedule {
    pub(super) fn draw(world: &World, draws: &mut Draws) -> Self {
        let mut steps = Vec::new();
        let mut now = Time::ZERO + START;
        for round in 0..ROUNDS {
            let lasts = draws.between(Duration::from_millis(500), FAULTS);
            for _ in 0..=draws.below(3) {
                let at = now + draws.between(Duration::ZERO, lasts / 2);
                fault(world, at, now + lasts, draws, &mut steps);
            }
            now = now + lasts;
            steps.push(Step { at: now, change: Change::Mend });
            // Sometimes the dead stay dead for a while longer.
            if round + 1 == ROUNDS || draws.chance(700) {
                steps.push(Step { at: now, change: Change::StartAll });
            }
            if round + 1 < ROUNDS {
                now = now + CALM;
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { steps, mended: now }
    }
}

/// One fault that begins `at` and is over by `end`.
fn fault(world: &World, at: Time, end: Time, draws: &mut Draws, steps: &mut Vec<Step>) {
    let (host, cluster) = (draws.below(world.sim.hosts()), draws.below(world.clusters()));
    let agent = draws.below(world.sim.agents().max(1));
    let ms = Duration::from_millis;
    let mut add = |at: Time, change| steps.push(Step { at, change });
    match draws.below(17) {
        0 | 1 => add(at, Change::Crash(host)),
        2 => {
            add(at, Change::Crash(host));
            add(at + draws.between(ms(50), ms(3_000)), Change::Start(host));
        }
        3 | 4 => add(at, Change::Pause(host, draws.between(ms(100), ms(6_000)))),
        5 => add(at, Change::Slow(host, draws.between(ms(1), ms(6)))),
        6 => add(at, Change::Skew(host, draws.below(1_000) as i64 - 500)),
        7 => add(at, Change::LoseCluster(cluster)),
        8 => add(at, Change::Loss([10, 50, 50, 200][draws.below(4)])),
        9 => add(at, Change::LossAt(cluster, 300)),
        10 => add(at, Change::Jitter(draws.between(ms(1), ms(25)))),
        11 => add(at, Change::Shuffle(50, 50)),
        12 => add(at, Change::Split(draws.next() & ((1 << world.clusters()) - 1))),
        13 => add(at, Change::CutLink(draws.below(world.sim.network.links()))),
        14 => {
            add(at, Change::Drain(host));
            add(end, Change::Stop(host));
        }
        15 => {
            let gone =
                if draws.chance(500) { Change::KillAgent(agent) } else { Change::Leave(agent) };
            add(at, gone);
            add(end, Change::Join(cluster, draws.below(world.groups.len())));
        }
        _ => {
            add(at, Change::Refuse(agent, true));
            add(end, Change::Refuse(agent, false));
        }
    }
}
