//! Agents: how they connect, speak, and find another proxy.

use std::{net::SocketAddr, time::Duration};

use pias_overlay::AgentId;
use pias_protocol::{
    agent::{AgentMessage, JapMessage, Leave},
    hash,
    overlay::AgentLink,
};

use super::{Sim, event::Event, host::HostNo};
use crate::{
    agent::{Agent, AgentNo, FIRST_KEEP_ALIVE, RESET_SPREAD, Service, UNANSWERED},
    network::ROUTING,
};

impl Sim {
    /// An agent near a cluster joins its target to a group.
    ///
    /// # Panics
    /// If `group` is no group.
    pub fn join(&mut self, cluster: usize, group: &str) -> AgentNo {
        let group = group.parse().expect("a group, as in 203.0.113.10:53/udp");
        let no = AgentNo(self.agents.len());
        self.agents.push(Agent::new(no.0, cluster, group));
        self.push(Duration::ZERO, Event::Reconnect { agent: no, generation: 0 });
        no
    }

    /// How many agents there were.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// Where an agent's target is.
    #[must_use]
    pub fn target(&self, agent: AgentNo) -> SocketAddr {
        self.agents[agent.0].target
    }

    /// The agent of a target.
    #[must_use]
    pub fn agent_of(&self, target: SocketAddr) -> Option<AgentNo> {
        Agent::at(target).filter(|&no| no < self.agents.len()).map(AgentNo)
    }

    /// The cluster that an agent is near.
    #[must_use]
    pub fn agent_cluster(&self, agent: AgentNo) -> usize {
        self.agents[agent.0].cluster
    }

    /// The group of an agent's target, as `AA:port/protocol`.
    #[must_use]
    pub fn agent_group(&self, agent: AgentNo) -> String {
        self.agents[agent.0].group.to_string()
    }

    /// Whether an agent runs and its target serves.
    #[must_use]
    pub fn serves(&self, agent: AgentNo) -> bool {
        let agent = &self.agents[agent.0];
        agent.runs && agent.service == Service::Serves
    }

    /// Whether an agent's process runs.
    #[must_use]
    pub fn is_agent_running(&self, agent: AgentNo) -> bool {
        self.agents[agent.0].runs
    }

    /// The name of an agent's JAP, if it holds a membership there.
    #[must_use]
    pub fn jap(&self, agent: AgentNo) -> Option<&str> {
        let agent = &self.agents[agent.0];
        agent.lease?;
        agent.connection.map(|(host, _)| self.hosts[host].name.as_str())
    }

    /// An agent leaves in good order.
    pub fn leave(&mut self, agent: AgentNo) {
        if let Some(lease) = self.agents[agent.0].lease {
            self.say(agent, Some(Leave { lease }.into()));
        }
        self.say(agent, None);
        self.agents[agent.0].runs = false;
    }

    /// Kills an agent: nothing is said, nothing is answered.
    pub fn kill_agent(&mut self, agent: AgentNo) {
        self.agents[agent.0].runs = false;
    }

    /// What a target's service does from now on.
    pub fn serve(&mut self, agent: AgentNo, service: Service) {
        self.agents[agent.0].service = service;
    }

    /// The proxy that routing brings a packet from near `cluster` to: one of the nearest cluster
    /// with a proxy that announces. Which of them depends on the flow, and changes only while the
    /// flow's own one does not announce.
    #[must_use]
    pub fn catchment(&self, cluster: usize, flow: usize) -> Option<HostNo> {
        let routed = |c: usize| self.in_cluster(c).any(|n| self.hosts[n].routed);
        let reached = (0..self.topology.clusters.len())
            .filter(|&c| self.network.connected(cluster, c) && routed(c))
            .filter_map(|c| Some((self.network.distance(cluster, c)?, c != cluster, c)));
        let (.., nearest) = reached.min()?;
        let mates = self.in_cluster(nearest);
        let (start, count) = (mates.start, mates.len());
        let turn = (0..count).map(|k| start + (flow + k) % count);
        turn.into_iter().find(|&n| self.hosts[n].routed)
    }

    /// To the proxy that routing leads to: three ways of a handshake, then the stream is open.
    pub(super) fn connect(&mut self, no: AgentNo, generation: u32) {
        let agent = &self.agents[no.0];
        if !agent.runs || agent.generation != generation {
            return;
        }
        let host = self.catchment(agent.cluster, no.0);
        let answers = host.filter(|&n| self.runs(n) && !self.is_paused(n));
        let reached = answers.and_then(|n| {
            let delay = self.network.delay(agent.cluster, self.hosts[n].cluster, self.now)?;
            Some((n, delay))
        });
        let Some((host, delay)) = reached else {
            self.reconnect(no, ROUTING);
            return;
        };
        self.last_agent += 1;
        let agent = &mut self.agents[no.0];
        agent.connection = Some((host, AgentId(self.last_agent)));
        agent.generation += 1;
        agent.heard = self.now;
        let (generation, keep_alive) = (agent.generation, agent.keep_alive);
        self.push(delay * 3, Event::Opened { agent: no, generation });
        self.push(delay * 3 + keep_alive, Event::AgentTick { agent: no, generation });
    }

    /// An agent's stream is open, and its wish to join is on it.
    pub(super) fn opened(&mut self, no: AgentNo, generation: u32) {
        let agent = &self.agents[no.0];
        let Some((host, id)) = agent.connection.filter(|_| agent.generation == generation) else {
            return;
        };
        if !self.runs(host) {
            return;
        }
        let (link, join) = (agent.link(id), agent.join());
        self.hosts[host].agents.insert(id, no);
        self.with_node(host, |node, now| {
            node.agent_connected(id, link, now);
            node.agent_message(id, join, now);
        });
    }

    /// A proxy sends a stateless reset for what was a connection to another one.
    pub(super) fn send_reset(&mut self, n: HostNo, link: &AgentLink) {
        let Some(agent) = Agent::at(link.remote).filter(|&no| no < self.agents.len()) else {
            return;
        };
        let (here, there) = (self.hosts[n].cluster, self.agents[agent].cluster);
        if let Some(delay) = self.network.delay(here, there, self.now) {
            let connection = AgentId(u64::from_be_bytes(link.connection));
            self.push(delay, Event::Reset { agent: AgentNo(agent), connection });
        }
    }

    /// A stateless reset arrives. It counts if it is for the connection that the agent has.
    pub(super) fn reset(&mut self, no: AgentNo, connection: AgentId) {
        let agent = &self.agents[no.0];
        let Some((host, id)) = agent.connection.filter(|&(_, id)| id == connection) else { return };
        if agent.runs {
            self.hosts[host].agents.remove(&id);
            self.reconnect(no, self.spread(id));
        }
    }

    /// How long an agent waits after a reset.
    fn spread(&self, connection: AgentId) -> Duration {
        let chance = hash::mix(self.seed, connection.0);
        Duration::from_micros(chance % RESET_SPREAD.as_micros() as u64)
    }

    pub(super) fn reconnect(&mut self, no: AgentNo, after: Duration) {
        let agent = &mut self.agents[no.0];
        agent.connection = None;
        agent.lease = None;
        // What one proxy asked for does not bind the next one.
        agent.keep_alive = FIRST_KEEP_ALIVE;
        agent.generation += 1;
        let generation = agent.generation;
        self.push(after, Event::Reconnect { agent: no, generation });
    }

    /// An agent says something to its JAP, or (`None`) closes.
    pub(super) fn say(&mut self, no: AgentNo, message: Option<AgentMessage>) {
        let agent = &self.agents[no.0];
        let Some((host, _)) = agent.connection else { return };
        let way = self.network.delay(agent.cluster, self.hosts[host].cluster, self.now);
        let Some(delay) = way else { return };
        let (generation, message) = (agent.generation, message.map(Box::new));
        self.push(delay, Event::FromAgent { agent: no, generation, message });
    }

    pub(super) fn agent_says(
        &mut self,
        no: AgentNo,
        generation: u32,
        message: Option<AgentMessage>,
    ) {
        let agent = &self.agents[no.0];
        let Some((host, id)) = agent.connection.filter(|_| agent.generation == generation) else {
            return;
        };
        match message {
            Some(message) => self.with_node(host, |node, now| node.agent_message(id, message, now)),
            None => {
                self.hosts[host].agents.remove(&id);
                self.with_node(host, |node, now| node.agent_closed(id, now));
            }
        }
    }

    pub(super) fn tell_agent(&mut self, n: HostNo, id: AgentId, message: JapMessage) {
        let Some(&agent) = self.hosts[n].agents.get(&id) else { return };
        let who = &self.agents[agent.0];
        let way = self.network.delay(self.hosts[n].cluster, who.cluster, self.now);
        let Some(delay) = way else { return };
        let (generation, message) = (who.generation, Box::new(message));
        self.push(delay, Event::ToAgent { agent, generation, message });
    }

    pub(super) fn agent_hears(&mut self, no: AgentNo, generation: u32, message: &JapMessage) {
        let now = self.now;
        let who = &mut self.agents[no.0];
        if !who.runs || who.generation != generation {
            return;
        }
        who.heard = now;
        if let Some(answer) = who.hear(message) {
            self.say(no, Some(answer));
        }
    }

    /// A keep-alive goes where routing leads: to the JAP; or to another proxy, which knows the
    /// connection's reset token, and upon whose stateless reset the agent joins anew; or nowhere.
    pub(super) fn agent_tick(&mut self, no: AgentNo, generation: u32) {
        let now = self.now;
        let agent = &mut self.agents[no.0];
        if !agent.runs || agent.generation != generation {
            return;
        }
        let Some((host, id)) = agent.connection else { return };
        let keep_alive = agent.keep_alive;
        if now - agent.heard > keep_alive * UNANSWERED {
            self.reconnect(no, Duration::ZERO);
            return;
        }
        let cluster = agent.cluster;
        let reached = self.catchment(cluster, no.0).and_then(|n| {
            let delay = self.network.delay(cluster, self.hosts[n].cluster, now)?;
            self.runs(n).then_some((n, delay))
        });
        let wait = match reached {
            Some((n, _)) if n == host && self.hosts[host].agents.contains_key(&id) => {
                let beat = self.agents[no.0].keep_alive();
                self.say(no, Some(beat));
                keep_alive
            }
            Some((n, delay)) if !self.is_paused(n) => {
                self.reconnect(no, delay * 2 + self.spread(id));
                return;
            }
            _ => ROUTING.min(keep_alive),
        };
        self.push(wait, Event::AgentTick { agent: no, generation });
    }
}
