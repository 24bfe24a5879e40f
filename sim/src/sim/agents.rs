//! Agents: how they connect, speak, and find another proxy.

use std::{net::SocketAddr, time::Duration};

use pias_overlay::AgentId;
use pias_protocol::agent::{AgentMessage, Leave};

use super::{Event, Sim};
use crate::agent::{Agent, AgentNo, ROUTING, Service};

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

    /// Where an agent's target is.
    #[must_use]
    pub fn target(&self, agent: AgentNo) -> SocketAddr {
        self.agents[agent.0].target
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

    /// To the first announced proxy, nearest cluster first, as routing would have it.
    pub(super) fn connect(&mut self, no: AgentNo, generation: u64) {
        let agent = &self.agents[no.0];
        if !agent.runs || agent.generation != generation {
            return;
        }
        let near = self.topology.by_distance(agent.cluster);
        let reachable = near.into_iter().filter(|&c| self.network.connected(agent.cluster, c));
        let host = reachable.flat_map(|cluster| {
            let own = self.hosts.iter().enumerate().filter(move |(_, h)| h.cluster == cluster);
            own.filter(|(_, h)| h.announced).map(|(n, _)| n).collect::<Vec<_>>()
        });
        let Some(host) = host.into_iter().next() else {
            self.reconnect(no, Duration::from_millis(100));
            return;
        };
        self.last_agent += 1;
        let id = AgentId(self.last_agent);
        self.hosts[host].agents.insert(id, no);
        let agent = &mut self.agents[no.0];
        agent.connection = Some((host, id));
        agent.generation += 1;
        let (remote, join, generation) = (agent.remote(), agent.join(), agent.generation);
        let keep_alive = agent.keep_alive;
        self.with_node(host, |node, now| node.agent_connected(id, remote, now));
        self.say(no, Some(join));
        self.push(keep_alive, Event::AgentTick { agent: no, generation });
    }

    pub(super) fn reconnect(&mut self, no: AgentNo, after: Duration) {
        let agent = &mut self.agents[no.0];
        agent.connection = None;
        agent.lease = None;
        agent.generation += 1;
        let generation = agent.generation;
        self.push(after, Event::Reconnect { agent: no, generation });
    }

    /// An agent says something to its JAP, or (`None`) closes.
    pub(super) fn say(&mut self, no: AgentNo, message: Option<AgentMessage>) {
        let agent = &self.agents[no.0];
        let Some((host, _)) = agent.connection else { return };
        let delay = self.network.delay(agent.cluster, self.hosts[host].cluster);
        let generation = agent.generation;
        self.push(delay, Event::FromAgent { agent: no, generation, message });
    }

    pub(super) fn agent_says(
        &mut self,
        no: AgentNo,
        generation: u64,
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

    /// A keep-alive; or, where the JAP died and routing moved the agent's packets to another proxy,
    /// that one's stateless reset, upon which the agent joins anew.
    pub(super) fn agent_tick(&mut self, no: AgentNo, generation: u64) {
        let agent = &mut self.agents[no.0];
        if !agent.runs || agent.generation != generation {
            return;
        }
        let Some((host, id)) = agent.connection else { return };
        let (mut wait, keep_alive) = (agent.keep_alive, agent.keep_alive());
        let host = &self.hosts[host];
        if host.agents.contains_key(&id) {
            self.say(no, Some(keep_alive));
        } else if host.announced || self.now - host.died >= ROUTING {
            self.reconnect(no, Duration::from_millis(1));
            return;
        } else {
            wait = ROUTING;
        }
        self.push(wait, Event::AgentTick { agent: no, generation });
    }
}
