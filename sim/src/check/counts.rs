//! What the RAPs of a group count lies within the widest band around the truth, which is what the
//! JAPs hold.

use std::collections::BTreeMap;

use pias_protocol::group::GroupKey;

use super::world::World;

pub(super) fn check(world: &World) -> Result<(), String> {
    world.groups.iter().try_for_each(|group| of_group(world, group))
}

fn of_group(world: &World, name: &str) -> Result<(), String> {
    let sim = &world.sim;
    let group: GroupKey = name.parse().map_err(|_| format!("{name} is no group"))?;
    let truth = held(world, name);
    let mut asked = None;
    for host in world.running() {
        let Some(node) = sim.node_at(host) else { continue };
        let detail = node.group(&group, sim.now());
        let raps = asked.get_or_insert_with(|| detail.raps.clone());
        if *raps != detail.raps {
            let own = sim.name(host);
            return Err(format!(
                "{own} takes {:?} for the RAPs of {name}, others {raps:?}",
                detail.raps
            ));
        }
        if !detail.raps.iter().any(|rap| rap == sim.name(host)) {
            continue;
        }
        let counted: BTreeMap<String, u32> =
            detail.counts.into_iter().map(|count| (count.proxy, count.count)).collect();
        let japs = truth.keys().chain(counted.keys());
        for jap in japs {
            let (is, told) = (of(&truth, jap), of(&counted, jap));
            // Up to twice what was told, or down to nothing but one.
            if (is == 0) != (told == 0) || is.abs_diff(told) > told {
                let rap = sim.name(host);
                return Err(format!("RAP {rap} counts {told} of {is} targets of {name} at {jap}"));
            }
        }
    }
    Ok(())
}

fn of(counts: &BTreeMap<String, u32>, jap: &str) -> u32 {
    counts.get(jap).copied().unwrap_or(0)
}

/// The weight of the targets that take flows, by JAP.
fn held(world: &World, group: &str) -> BTreeMap<String, u32> {
    let sim = &world.sim;
    let mut held = BTreeMap::new();
    for host in world.running() {
        let Some(node) = sim.node_at(host) else { continue };
        let targets = node.targets(sim.now());
        let up = targets.iter().filter(|target| target.group == group && target.state == "up");
        let weight: u32 = up.map(|target| target.weight).sum();
        if weight > 0 {
            held.insert(sim.name(host).to_owned(), weight);
        }
    }
    held
}
