//! Tables and queues stay small: in a world of some dozens of proxies nothing may come near a bound.

use super::world::World;

/// Events that may wait per proxy, and per agent: messages on their way, timers, parked packets.
const EVENTS_EACH: usize = 1_000;

pub(super) fn check(world: &World) -> Result<(), String> {
    let sim = &world.sim;
    let most = EVENTS_EACH * (sim.hosts() + sim.agents());
    if sim.waiting() > most {
        return Err(format!("{} events wait, at most {most} should", sim.waiting()));
    }
    for host in world.running() {
        let Some(node) = sim.node_at(host) else { continue };
        let (status, name) = (node.status(), sim.name(host));
        if status.proxies_known > sim.hosts() {
            return Err(format!(
                "{name} knows {} proxies of {}",
                status.proxies_known,
                sim.hosts()
            ));
        }
        if status.counters.table_full > 0 {
            return Err(format!("a table of {name} was full"));
        }
    }
    Ok(())
}
