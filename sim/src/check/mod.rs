//! Random faults against invariants: a seed gives a world, its agents, a schedule of faults, and
//! clients' packets; checkers of their own look whether what must hold does.
//!
//! ```text
//!  start │ round: faults, then calm │ round │ round │ all is mended │ settled: all invariants
//!        └──────── clients ask all the time ────────┴───────────────┘
//! ```
//! The checkers know the truth from the simulation and the schedule, and ask the nodes what they
//! believe; they share no code with what they check.

mod bounds;
mod converge;
mod counts;
mod leases;
mod reach;
mod schedule;
mod verdicts;
mod world;

use std::{fmt, time::Duration};

use pias_protocol::time::Time;

use self::{reach::Reach, schedule::Schedule, world::World};
use crate::{random::Draws, trace::Keep};

/// How long after all faults are mended every invariant must hold: the issue's bound for a network
/// that was split.
const SETTLED: Duration = Duration::from_secs(30);
/// How often the schedule, the clients and the checkers get their turn.
const TICK: Duration = Duration::from_millis(250);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What everything comes from.
    pub seed: u64,
    /// At most so many proxies.
    pub proxies: usize,
    /// How much of the trace is kept.
    pub keep: Keep,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash of the run.
    pub digest: u64,
    /// Events that happened.
    pub events: u64,
    /// Clients' questions that had to be answered, and were.
    pub answered: u64,
    /// What did not hold.
    pub broken: Option<Broken>,
    /// The trace, as far as it was kept.
    pub trace: String,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub invariant: &'static str,
    /// When.
    pub at: Time,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.invariant, self.at, self.what)
    }
}

/// Runs one seed, up to the first invariant that does not hold.
#[must_use]
pub fn run(plan: &Plan) -> Report {
    let mut draws = Draws::new(plan.seed, 0x0063_6865_636B);
    let mut world = World::new(plan, &mut draws);
    let schedule = Schedule::draw(&world, &mut draws);
    let mut reach = Reach::new(draws);
    let broken = go_through(&mut world, &schedule, &mut reach).err();
    let sim = &world.sim;
    let trace = match plan.keep {
        Keep::All => sim.trace().to_owned(),
        _ => sim.tail().collect::<Vec<_>>().join("\n"),
    };
    Report {
        seed: plan.seed,
        digest: sim.digest(),
        events: sim.tally().events,
        answered: reach.answered(),
        broken: broken.map(|(invariant, what)| Broken { invariant, at: sim.now(), what }),
        trace,
    }
}

/// The name of an invariant that does not hold, and what was seen.
type Failure = (&'static str, String);

fn go_through(world: &mut World, schedule: &Schedule, reach: &mut Reach) -> Result<(), Failure> {
    let mut steps = schedule.steps.iter().peekable();
    let end = schedule.mended + SETTLED;
    while world.sim.now() < end {
        while let Some(step) = steps.next_if(|step| step.at <= world.sim.now()) {
            world.apply(&step.change);
        }
        reach.ask(world);
        world.sim.run_for(TICK);
        reach.judge(world).map_err(|what| ("a group with live targets is reachable", what))?;
        verdicts::check(world).map_err(|what| ("no running proxy is declared down", what))?;
        bounds::check(world).map_err(|what| ("bounds hold", what))?;
    }
    converge::check(world).map_err(|what| ("all proxies know the same live set", what))?;
    counts::check(world).map_err(|what| ("counts of RAPs lie within the band", what))?;
    leases::check(world).map_err(|what| ("a lease has one owner", what))
}
