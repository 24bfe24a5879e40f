//! The baseline: [foca](https://docs.rs/foca) 2.0, an implementation of SWIM, on the simulator's
//! clock, topology and network, measured as the overlay's own membership is.
//!
//! ```text
//!  identity   who a member is; foca's chance out of the simulator's
//!  settings   foca's parameters
//!  world      the driver: timers and packets on the queue, through the network
//!  ledger     who takes whom for gone, octets, copies
//!  wire       news in foca's packets
//!  scenarios  what happens, and what is measured
//! ```
//!
//! Das Guptas, Motivala and others: "SWIM: Scalable Weakly-consistent Infection-style Process Group
//! Membership Protocol", DSN 2002.

mod identity;
mod ledger;
mod scenarios;
mod settings;
mod wire;
mod world;

use std::{mem::size_of, time::Duration};

pub use self::settings::Settings;
use self::{identity::Id, world::World};
use crate::{bench::report::Row, random::Draws, topology::Topology};

/// Splits are measured for up to so many members: beyond, foca's gossip about half of them takes
/// longer to simulate than the rest together, and tells nothing new.
const MAX_SPLIT: usize = 500;
const SETTLE: Duration = Duration::from_secs(15);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the members stand.
    pub topology: Topology,
    /// Foca's parameters.
    pub settings: Settings,
    /// How long the run with loss and pauses lasts, simulated.
    pub trouble: Duration,
    /// What all chance comes from.
    pub seed: u64,
}

/// Measures foca. The rows have no goals: they stand beside those of the overlay.
#[must_use]
pub fn measure(plan: &Plan) -> Vec<Row> {
    let mut rows = quiet(plan);
    rows.extend(trouble(plan));
    if plan.topology.proxies() <= MAX_SPLIT {
        rows.extend(split(plan));
    }
    rows
}

impl Plan {
    fn world(&self) -> World {
        let mut world = World::new(&self.topology, self.settings, self.seed);
        world.run_for(SETTLE);
        world
    }

    fn draws(&self) -> Draws {
        Draws::new(self.seed, 0x7377_696D)
    }

    fn row(&self, what: &str, value: f64, unit: &str) -> Row {
        let (members, settings) = (self.topology.proxies(), self.settings.title());
        Row::plain(format!("{what} (foca 2.0, {members} members, {settings})"), value, unit)
    }

    fn seconds(&self, what: &str, time: Duration) -> Row {
        self.row(what, time.as_secs_f64(), "s")
    }
}

/// A quiet network: idle traffic, crashes, and a cluster's loss.
fn quiet(plan: &Plan) -> Vec<Row> {
    let (mut world, mut draws) = (plan.world(), plan.draws());
    let [all, far] = scenarios::idle(&mut world);
    let crash = scenarios::crashes(&mut world, &mut draws, all);
    let lost = draws.below(plan.topology.clusters.len());
    let (known, news) = scenarios::cluster(&mut world, lost);
    let kilobits = |octets: f64| octets * 8.0 / 1_000.0;
    let [half, most, nearly_all] = crash.known;
    vec![
        plan.seconds("crash known to 50 % of proxies", half),
        plan.seconds("crash known to 99 % of proxies", most),
        plan.seconds("crash known to 99.9 % of proxies", nearly_all),
        plan.row("copies of an update received per proxy", crash.copies, ""),
        plan.row("octets sent per proxy because of a crash", crash.octets, "B"),
        plan.seconds("a POP's loss known to all proxies", known),
        plan.row("a POP's loss, events per proxy", news, ""),
        plan.row("idle traffic per proxy", kilobits(all), "kbit/s"),
        plan.row("idle traffic per proxy beyond its cluster", kilobits(far), "kbit/s"),
        plan.row("memory for membership per proxy, computed", memory(&world), "MiB"),
    ]
}

/// What a member's table takes: a vector of records, which grows by doubling. What is sent about
/// them, and foca itself, are small beside it.
fn memory(world: &World) -> f64 {
    let octets = size_of::<foca::Member<Id>>() * world.count().next_power_of_two();
    octets as f64 / f64::from(1 << 20)
}

fn trouble(plan: &Plan) -> Vec<Row> {
    let (mut world, mut draws) = (plan.world(), plan.draws());
    let trouble = scenarios::trouble(&mut world, &mut draws, plan.trouble);
    let hours = plan.trouble.as_secs_f64() / 3_600.0;
    let during = format!("{hours:.2} h, 5 % loss");
    let row = |what: &str, value: usize| plan.row(&format!("{what}, {during}"), value as f64, "");
    vec![
        row("running proxies declared down", trouble.wrong),
        row("pauses of up to 2 s", trouble.pauses),
        row("of them taken for dead", trouble.doubted),
        plan.seconds(&format!("paused proxies back for all, worst, {during}"), trouble.back),
    ]
}

fn split(plan: &Plan) -> Vec<Row> {
    let mut world = plan.world();
    let clusters = plan.topology.clusters.len();
    let healed = scenarios::split(&mut world, clusters);
    let name = "all agree again after a split healed";
    vec![match healed {
        Some(time) => plan.seconds(name, time),
        None => plan.row(name, scenarios::PATIENCE.as_secs_f64(), "s, given up"),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        let topology = Topology::synthetic(13, 1).populated(50, 4, 1);
        Plan { topology, settings: Settings::Lan, trouble: Duration::from_secs(30), seed }
    }

    #[test]
    fn a_crash_is_known_to_all_and_nobody_else_is_taken_for_dead() {
        let mut world = plan(1).world();
        world.crash(7);
        let patience = Duration::from_secs(30);
        let step = Duration::from_millis(10);
        assert!(
            world.until(step, patience, |world| world.ledger().disbelievers(7) == 49).is_some()
        );
        assert!(world.agree());
        assert_eq!((world.ledger().wrong(), world.ledger().refused), (0, 0));
    }

    #[test]
    fn a_paused_member_that_was_given_up_comes_back() {
        let mut world = plan(1).world();
        world.pause(7, Duration::from_secs(30));
        let (step, patience) = (Duration::from_millis(10), Duration::from_secs(120));
        assert!(world.until(step, patience, |world| world.ledger().disbelievers(7) > 0).is_some());
        assert!(world.until(step, patience, World::agree).is_some());
        assert_eq!(world.ledger().wrong(), 0);
    }

    #[test]
    fn a_seed_gives_the_same_run() {
        let run = |seed| {
            let plan = plan(seed);
            let (mut world, mut draws) = (plan.world(), plan.draws());
            let trouble = scenarios::trouble(&mut world, &mut draws, plan.trouble);
            (trouble, world.events, world.ledger().octets)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
