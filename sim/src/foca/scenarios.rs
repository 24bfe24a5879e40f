//! What happens to foca's members, and what is measured: as `bench` does with the overlay.

use std::time::Duration;

use pias_protocol::time::Time;

use super::world::World;
use crate::{random::Draws, sim::GRACE};

/// Crashes, one after the other.
const CRASHES: usize = 5;
/// How exactly it is looked.
const STEP: Duration = Duration::from_millis(10);
/// How long anything may take at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// News goes on being passed on for a while after all know it.
const LINGER: Duration = Duration::from_secs(10);
/// How long idle traffic is measured: two of foca's longest periods.
const IDLE: Duration = Duration::from_secs(250);
/// Of 1,000 packets so many are lost, everywhere.
const LOSS: u32 = 50;
/// A thousand members have one pause in each such time, for up to [`LONGEST`].
const PAUSES: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(2);
/// A split lasts until the sides have given each other up.
const SPLIT: Duration = Duration::from_secs(240);

/// What a crash costs until all know of it. The worst of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Crash {
    /// Until half, 99 % and 99.9 % of the members know.
    pub(super) known: [Duration; 3],
    /// Copies of the death received per member.
    pub(super) copies: f64,
    /// Octets sent per member beyond idle traffic.
    pub(super) octets: f64,
}

/// Octets per second and member while nothing happens: in all, and between clusters.
pub(super) fn idle(world: &mut World) -> [f64; 2] {
    let before = [world.ledger().octets, world.ledger().far_octets];
    world.run_for(IDLE);
    let after = [world.ledger().octets, world.ledger().far_octets];
    let each = world.running() as f64 * IDLE.as_secs_f64();
    [0, 1].map(|n| (after[n] - before[n]) as f64 / each)
}

/// Crashes of one member at a time; `idle` in octets per second and member.
pub(super) fn crashes(world: &mut World, draws: &mut Draws, idle: f64) -> Crash {
    let mut worst = Crash::default();
    for _ in 0..CRASHES {
        let victim = draws.below(world.count());
        if world.runs(victim) {
            let one = crash(world, victim, idle);
            for (worst, one) in worst.known.iter_mut().zip(one.known) {
                *worst = one.max(*worst);
            }
            worst.copies = worst.copies.max(one.copies);
            worst.octets = worst.octets.max(one.octets);
        }
    }
    worst
}

fn crash(world: &mut World, victim: usize, idle: f64) -> Crash {
    let (began, octets, copies) = (world.now(), world.ledger().octets, world.ledger().copies);
    world.around.ledger.followed = Some(victim);
    world.crash(victim);
    let running = world.running() as f64;
    let known = [0.5, 0.99, 0.999].map(|share| {
        let enough = (running * share).ceil() as usize;
        world.until(STEP, PATIENCE, |world| world.ledger().disbelievers(victim) >= enough);
        world.now() - began
    });
    world.run_for(LINGER);
    world.around.ledger.followed = None;
    let sent = (world.ledger().octets - octets) as f64 / running;
    Crash {
        known,
        copies: (world.ledger().copies - copies) as f64 / running,
        octets: sent - idle * (world.now() - began).as_secs_f64(),
    }
}

/// A whole cluster dies: until all know of all its members, and news per member.
pub(super) fn cluster(world: &mut World, cluster: usize) -> (Duration, f64) {
    let victims = world.in_cluster(cluster);
    let (began, verdicts) = (world.now(), world.ledger().verdicts);
    for &victim in &victims {
        world.crash(victim);
    }
    let all = world.running();
    world.until(STEP, PATIENCE, |world| {
        victims.iter().all(|&victim| world.ledger().disbelievers(victim) >= all)
    });
    (world.now() - began, (world.ledger().verdicts - verdicts) as f64 / all as f64)
}

/// What loss and pauses lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Trouble {
    /// How many members were declared down that ran, undisturbed.
    pub(super) wrong: usize,
    pub(super) pauses: usize,
    /// Pauses because of which anybody took the member for dead.
    pub(super) doubted: usize,
    /// How long it took until all took the member for alive again, at worst.
    pub(super) back: Duration,
}

/// Loss everywhere and pauses of some, for so long.
pub(super) fn trouble(world: &mut World, draws: &mut Draws, time: Duration) -> Trouble {
    world.around.network.lose(LOSS);
    world.around.ledger.count_anew();
    let end = world.now() + time;
    let every = PAUSES * 1_000 / world.count() as u32;
    let mut trouble = Trouble::default();
    let mut watched: Vec<Pause> = Vec::new();
    let mut next = world.now();
    while world.now() < end {
        if world.now() >= next {
            next = world.now() + every;
            let member = draws.below(world.count());
            if !watched.iter().any(|pause| pause.member == member) {
                let time = draws.between(Duration::ZERO, LONGEST);
                watched.push(Pause { member, until: world.now() + time, doubted: None });
                world.pause(member, time);
                trouble.pauses += 1;
            }
        }
        world.run_for(STEP);
        trouble.look(world, &mut watched);
    }
    trouble.wrong = world.ledger().wrong();
    world.around.network.calm();
    trouble
}

/// A pause whose effects are watched.
struct Pause {
    member: usize,
    until: Time,
    /// When anybody was last seen to take the member for dead.
    doubted: Option<Time>,
}

impl Trouble {
    /// Counts the pauses whose members all take for alive again, after the time in which others
    /// may still come to doubt them.
    fn look(&mut self, world: &World, watched: &mut Vec<Pause>) {
        let now = world.now();
        let over = watched.extract_if(.., |pause| {
            let doubted = world.ledger().disbelievers(pause.member) > 0;
            if doubted {
                pause.doubted = Some(now);
            }
            now >= pause.until + if doubted { PATIENCE } else { GRACE }
        });
        for pause in over {
            if let Some(doubted) = pause.doubted {
                self.doubted += 1;
                self.back = self.back.max(doubted.max(pause.until) - pause.until);
            }
        }
    }
}

/// The network splits in the middle, until the sides have given each other up, and heals: how long
/// until all agree on all again. `None` where they did not in [`PATIENCE`].
pub(super) fn split(world: &mut World, clusters: usize) -> Option<Duration> {
    let side: Vec<usize> = (0..clusters / 2).collect();
    world.around.network.split(&side);
    world.run_for(SPLIT);
    world.around.network.heal();
    world.until(STEP * 10, PATIENCE, World::agree)
}
