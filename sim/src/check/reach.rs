//! No group with live targets stays unreachable for longer than a bound, and no packet loops.

use std::time::Duration;

use pias_protocol::{limits::MAX_HOPS, time::Time};

use super::world::World;
use crate::{datapath::Outcome, random::Draws};

/// How long after the last change a group may be unreachable: a whole cluster's death takes five
/// seconds to be known, and its agents some more to join elsewhere.
pub(super) const REACH: Duration = Duration::from_secs(10);
/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A client asks again so often before it gives up: packets may be lost.
const TRIES: u32 = 6;

/// A question that is not answered yet.
#[derive(Debug)]
struct Question {
    asked: Time,
    packet: usize,
    cluster: usize,
    group: usize,
    /// Whether it has to be answered.
    owed: bool,
    tries: u32,
}

/// Clients that ask, and what they were answered.
#[derive(Debug)]
pub(super) struct Reach {
    draws: Draws,
    open: Vec<Question>,
    client: u16,
    answered: u64,
}

impl Reach {
    pub(super) const fn new(draws: Draws) -> Self {
        Self { draws, open: Vec::new(), client: 0, answered: 0 }
    }

    pub(super) const fn answered(&self) -> u64 {
        self.answered
    }

    /// A client somewhere asks for some group.
    pub(super) fn ask(&mut self, world: &mut World) {
        let cluster = self.draws.below(world.clusters());
        let group = self.draws.below(world.groups.len());
        self.send(world, cluster, group, 1);
    }

    fn send(&mut self, world: &mut World, cluster: usize, group: usize, tries: u32) {
        self.client = self.client.wrapping_add(1);
        let owed = owed(world, cluster, group);
        let name = world.groups[group].clone();
        if let Some((packet, _)) = world.sim.send_from(cluster, self.client, &name) {
            let asked = world.sim.now();
            self.open.push(Question { asked, packet, cluster, group, owed, tries });
        }
    }

    /// Looks at what came of the questions.
    pub(super) fn judge(&mut self, world: &mut World) -> Result<(), String> {
        let now = world.sim.now();
        for question in std::mem::take(&mut self.open) {
            let outcome = world.sim.outcome(question.packet).clone();
            let path = outcome.path().join(" ");
            if outcome.path().len() > usize::from(MAX_HOPS) + 1 {
                return Err(format!("a packet went in a loop: {path}"));
            }
            match outcome {
                Outcome::Answered { .. } => self.answered += u64::from(question.owed),
                Outcome::Travels if now - question.asked < PATIENCE => self.open.push(question),
                _ if !question.owed => {}
                _ if question.tries < TRIES => {
                    self.send(world, question.cluster, question.group, question.tries + 1);
                }
                failed => {
                    let (group, cluster) = (&world.groups[question.group], question.cluster);
                    let near = &world.sim.topology().clusters[cluster].name;
                    return Err(format!("{group} from near {near}: {failed:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a client near `cluster` has to reach the group: nothing changed for a while, and a target
/// serves on the client's side of the network, which has a proxy that announces.
fn owed(world: &World, cluster: usize, group: usize) -> bool {
    let sim = &world.sim;
    let settled = sim.now() >= world.changed && sim.now() - world.changed >= REACH;
    if !settled || world.lossy || sim.now() < Time::ZERO + REACH {
        return false;
    }
    let served = |agent| {
        let there = sim.agent_cluster(agent);
        sim.agent_group(agent) == world.groups[group]
            && sim.network.connected(cluster, there)
            && sim.network.distance(cluster, there).is_some()
    };
    sim.catchment(cluster, 0).is_some() && world.serving().any(served)
}
