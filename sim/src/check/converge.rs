//! Every live proxy converges to the same live set, which is the true one.

use std::collections::BTreeSet;

use super::world::World;

pub(super) fn check(world: &World) -> Result<(), String> {
    let sim = &world.sim;
    let truth: BTreeSet<&str> = world.running().map(|host| sim.name(host)).collect();
    for host in world.running() {
        let Some(node) = sim.node_at(host) else { continue };
        let views = node.proxies(sim.now());
        let alive = views.iter().filter(|view| matches!(view.state, "up" | "draining"));
        let believed: BTreeSet<&str> = alive.map(|view| view.name.as_str()).collect();
        if believed != truth {
            let missing: Vec<_> = truth.difference(&believed).collect();
            let ghosts: Vec<_> = believed.difference(&truth).collect();
            let name = sim.name(host);
            return Err(format!("{name} does not know {missing:?}, and believes in {ghosts:?}"));
        }
    }
    Ok(())
}
