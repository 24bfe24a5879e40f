//! A running, reachable, unpaused proxy is not declared down.

use super::world::World;

pub(super) fn check(world: &World) -> Result<(), String> {
    let sim = &world.sim;
    let Some(wrong) = sim.beliefs().wrong().first() else { return Ok(()) };
    let (observer, subject) = (sim.name(wrong.observer), sim.name(wrong.subject));
    let how = if wrong.judged { "by its silence" } else { "by hearsay" };
    Err(format!("{observer} took {subject} for dead {how} at {}", wrong.at))
}
