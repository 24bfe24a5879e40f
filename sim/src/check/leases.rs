//! No two JAPs own one lease, and an agent that runs owns one.

use std::collections::BTreeMap;

use super::world::World;

pub(super) fn check(world: &World) -> Result<(), String> {
    let sim = &world.sim;
    let mut owners = BTreeMap::new();
    for host in world.running() {
        let Some(node) = sim.node_at(host) else { continue };
        for target in node.targets(sim.now()).into_iter().filter(|target| target.state == "up") {
            let key = (target.group, target.address);
            if let Some(other) = owners.insert(key.clone(), host) {
                let (one, other) = (sim.name(host), sim.name(other));
                return Err(format!("{one} and {other} both hold {} for {}", key.1, key.0));
            }
        }
    }
    for agent in world.serving() {
        let key = (sim.agent_group(agent), sim.target(agent));
        if !owners.contains_key(&key) {
            return Err(format!("nobody holds {} for {}, whose agent runs", key.1, key.0));
        }
    }
    Ok(())
}
