//! The world of one seed: its proxies, agents and groups, and which faults are going on.

use std::time::Duration;

use pias_protocol::time::Time;

use super::{Plan, SETTLED, schedule::Change};
use crate::{
    agent::{AgentNo, Service},
    random::Draws,
    sim::{Setup, Sim},
    topology::{Cluster, Topology},
};

/// Loss, of 1,000, up to which no running proxy may be declared down.
const BEARABLE: u32 = 50;

/// A simulation, and what the checkers know of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) sim: Sim,
    pub(super) groups: Vec<String>,
    /// When anything changed last that packets or agents may feel.
    pub(super) changed: Time,
    /// Whether so much is lost that nothing is promised.
    pub(super) lossy: bool,
    /// Whether the network is in two parts.
    pub(super) split: bool,
}

impl World {
    pub(super) fn new(plan: &Plan, draws: &mut Draws) -> Self {
        let clusters = 2 + draws.below(6);
        let mut topology = Topology::synthetic(clusters + 3, plan.seed);
        let mut left = plan.proxies.max(clusters);
        for pop in 0..clusters {
            let most = (left - (clusters - pop - 1)).min(5);
            let proxies = 1 + draws.below(most);
            left -= proxies;
            let name = topology.pops[pop].name.clone();
            topology.clusters.push(Cluster { name, proxies, pop });
        }
        let mut sim = Setup { keep: plan.keep, ..Setup::new(topology, plan.seed) }.start();
        let groups: Vec<String> =
            (1..=4).map(|n| format!("203.0.113.{n}:{}", ["53/udp", "80/tcp"][n % 2])).collect();
        for _ in 0..4 + draws.below(12) {
            sim.join(draws.below(clusters), &groups[draws.below(groups.len())]);
        }
        Self { sim, groups, changed: Time::ZERO, lossy: false, split: false }
    }

    pub(super) fn clusters(&self) -> usize {
        self.sim.topology().clusters.len()
    }

    /// The running proxies.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.sim.hosts()).filter(|&host| self.sim.runs(host))
    }

    /// The agents that run, with targets that serve.
    pub(super) fn serving(&self) -> impl Iterator<Item = AgentNo> + '_ {
        (0..self.sim.agents()).map(AgentNo).filter(|&agent| self.sim.serves(agent))
    }

    /// Does what the schedule says.
    pub(super) fn apply(&mut self, change: &Change) {
        self.changed = self.sim.now();
        self.sim.note(format_args!("schedule: {change:?}"));
        match *change {
            Change::Crash(n) => self.crash(n),
            Change::Start(n) => self.start(n),
            Change::Drain(n) => self.sim.drain_at(n),
            Change::Stop(n) => {
                if self.sim.runs(n) {
                    self.sim.stop_at(n);
                }
            }
            Change::Pause(n, time) => {
                self.sim.pause_at(n, time);
                self.changed = self.sim.now() + time;
            }
            Change::Slow(n, each) => self.sim.slow_at(n, each),
            Change::Skew(n, parts) => self.sim.skew_at(n, parts),
            Change::LoseCluster(cluster) => self.sim.lose_cluster(cluster),
            Change::KillAgent(agent) => {
                self.sim.kill_agent(AgentNo(agent));
                self.sim.serve(AgentNo(agent), Service::Silent);
            }
            Change::Leave(agent) => self.sim.leave(AgentNo(agent)),
            Change::Refuse(agent, refuses) => {
                let service = if refuses { Service::Refuses } else { Service::Serves };
                if self.sim.is_agent_running(AgentNo(agent)) {
                    self.sim.serve(AgentNo(agent), service);
                }
            }
            Change::Join(cluster, group) => {
                self.sim.join(cluster, &self.groups[group]);
            }
            Change::Mend => self.mend(),
            Change::StartAll => (0..self.sim.hosts()).for_each(|n| self.start(n)),
            _ => self.damage(change),
        }
    }

    /// What befalls the network.
    fn damage(&mut self, change: &Change) {
        let (now, count) = (self.sim.now(), self.clusters());
        let network = &mut self.sim.network;
        match *change {
            Change::Loss(per_mille) => {
                network.lose(per_mille);
                self.lossy |= per_mille > BEARABLE;
            }
            Change::LossAt(cluster, per_mille) => {
                network.lose_at(cluster, per_mille);
                self.lossy |= per_mille > BEARABLE;
            }
            Change::Jitter(most) => network.jitter(most),
            Change::Shuffle(duplicates, late) => {
                network.duplicate(duplicates);
                network.reorder(late, Duration::from_millis(50));
            }
            Change::Split(clusters) => {
                let one_side: Vec<_> = (0..count).filter(|c| clusters & 1 << c != 0).collect();
                network.split(&one_side);
                self.split = true;
            }
            Change::CutLink(link) => {
                network.cut_link(link, now);
                // A POP may hang on this link alone.
                let parts = |a| (0..count).any(|b| self.sim.network.distance(a, b).is_none());
                self.split |= (0..count).any(parts);
            }
            _ => {}
        }
        if self.lossy || self.split {
            self.sim.disturb_all(Duration::MAX);
        }
    }

    fn mend(&mut self) {
        let now = self.sim.now();
        self.sim.network.calm();
        self.sim.network.heal_at(now);
        if self.lossy || self.split {
            // The sides have to learn of each other; until then each tells what it believed.
            self.sim.calm_all();
            self.sim.disturb_all(SETTLED);
        }
        (self.lossy, self.split) = (false, false);
        for n in 0..self.sim.hosts() {
            self.sim.slow_at(n, Duration::ZERO);
        }
    }

    fn crash(&mut self, n: usize) {
        if self.sim.runs(n) {
            self.sim.crash_at(n);
        }
    }

    fn start(&mut self, n: usize) {
        if !self.sim.runs(n) {
            self.sim.restart_at(n);
        }
    }
}
