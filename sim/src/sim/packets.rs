//! Clients' packets, and what the model of the datapath wishes.

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{
    forwarding::{ForwardingEvent, ProbeOutcome},
    group::GroupKey,
    hash::FlowKey,
    ids::{ProxyId, TargetId},
};

use super::{Sim, event::Event, host::HostNo};
use crate::{
    agent::{Agent, Service},
    datapath::{Action, Arrival, Outcome, PARKED, Packet},
};

impl Sim {
    /// A client's packet enters at a proxy. Its number.
    ///
    /// # Panics
    /// If `group` is no group.
    pub fn send(&mut self, ingress: &str, client: u16, group: &str) -> usize {
        let host = self.host(ingress);
        let group = group.parse().expect("a group, as in 203.0.113.10:53/udp");
        self.enter(host, client, group, Duration::ZERO)
    }

    /// A packet of a client near `cluster`, which enters where routing leads it. Its number, and
    /// the ingress; `None` where routing leads nowhere.
    ///
    /// # Panics
    /// If `group` is no group.
    pub fn send_from(
        &mut self,
        cluster: usize,
        client: u16,
        group: &str,
    ) -> Option<(usize, HostNo)> {
        let host = self.catchment(cluster, usize::from(client))?;
        let delay = self.network.delay(cluster, self.hosts[host].cluster, self.now)?;
        let group = group.parse().expect("a group, as in 203.0.113.10:53/udp");
        Some((self.enter(host, client, group, delay), host))
    }

    fn enter(&mut self, host: HostNo, client: u16, group: GroupKey, after: Duration) -> usize {
        let no = self.outcomes.len();
        let client = SocketAddr::from(([198, 18, 0, 1], client));
        let flow = FlowKey { client, group }.hash();
        let packet = Packet { no, flow, group, ingress: self.hosts[host].id, path: Vec::new() };
        self.outcomes.push(Outcome::Travels);
        let (host, packet, arrival) = (host as u32, Box::new(packet), Arrival::Client);
        self.push(after, Event::Packet { host, packet, arrival });
        no
    }

    /// What became of a packet.
    #[must_use]
    pub fn outcome(&self, packet: usize) -> &Outcome {
        &self.outcomes[packet]
    }

    /// Sends a packet and waits for what becomes of it, for at most two seconds.
    pub fn ask(&mut self, ingress: &str, client: u16, group: &str) -> Outcome {
        let no = self.send(ingress, client, group);
        self.until(Duration::from_secs(2), |sim| *sim.outcome(no) != Outcome::Travels);
        self.outcomes[no].clone()
    }

    pub(super) fn packet(&mut self, host: HostNo, mut packet: Packet, arrival: Arrival) {
        let now = self.hosts[host].local(self.now);
        let name = self.hosts[host].name.clone();
        packet.path.push(name);
        let Some(running) = &mut self.hosts[host].running else {
            self.end(packet.no, Outcome::Lost { path: packet.path });
            return;
        };
        let actions = running.datapath.arrive(packet, arrival, &self.ids, now);
        self.act(host, actions);
    }

    /// Drops what was parked for too long.
    pub(super) fn unpark(&mut self, host: HostNo, life: u32) {
        let now = self.hosts[host].local(self.now);
        if self.hosts[host].life == life
            && let Some(running) = &mut self.hosts[host].running
        {
            let actions = running.datapath.expire(now);
            self.act(host, actions);
        }
    }

    pub(super) fn act(&mut self, host: HostNo, actions: Vec<Action>) {
        let life = self.hosts[host].life;
        for action in actions {
            match action {
                Action::Event(event) => {
                    self.push(PARKED, Event::Unpark { host: host as u32, life });
                    self.tell_overlay(host, Duration::ZERO, event);
                }
                Action::Tunnel { to, packet, arrival } => self.tunnel(host, to, packet, arrival),
                Action::Deliver { target, address, packet } => {
                    self.deliver(host, target, address, packet);
                }
                Action::Refuse(packet) => {
                    self.end(packet.no, Outcome::Refused { path: packet.path });
                }
                Action::Lose(packet) => self.end(packet.no, Outcome::Lost { path: packet.path }),
                Action::Probe(target) => self.probe(host, target),
            }
        }
    }

    fn tell_overlay(&mut self, host: HostNo, after: Duration, event: ForwardingEvent) {
        let (life, event) = (self.hosts[host].life, Box::new(event));
        self.push(after, Event::Forwarding { host: host as u32, life, event });
    }

    fn tunnel(&mut self, host: HostNo, to: ProxyId, packet: Packet, arrival: Arrival) {
        let arrives = self.ids.get(to).and_then(|peer| {
            let (here, there) = (self.hosts[host].cluster, self.hosts[peer].cluster);
            // A duplicate of a client's packet would tell nothing: the first copy decides.
            let [first, again] = self.network.datagram(here, there, self.now);
            Some((peer as u32, first.or(again)?))
        });
        match arrives {
            Some((host, at)) => {
                let packet = Box::new(packet);
                self.queue.push(at, Event::Packet { host, packet, arrival });
            }
            None => self.end(packet.no, Outcome::Lost { path: packet.path }),
        }
    }

    fn deliver(&mut self, host: HostNo, target: TargetId, address: SocketAddr, packet: Packet) {
        let path = packet.path;
        let event = match self.service(address) {
            Service::Serves => {
                self.end(packet.no, Outcome::Answered { target: address, path });
                None
            }
            Service::Refuses => {
                self.end(packet.no, Outcome::Refused { path });
                Some(ForwardingEvent::TargetRefuses(target))
            }
            Service::Silent => {
                self.end(packet.no, Outcome::Lost { path });
                let running = self.hosts[host].running.as_mut();
                running.and_then(|running| running.datapath.unanswered(target))
            }
        };
        if let Some(event) = event {
            self.tell_overlay(host, Duration::from_millis(1), event);
        }
    }

    fn probe(&mut self, host: HostNo, target: TargetId) {
        let running = self.hosts[host].running.as_ref();
        let address = running.and_then(|running| running.datapath.target(target));
        let Some(address) = address else { return };
        let (outcome, after) = match self.service(address) {
            Service::Serves => (ProbeOutcome::Answered, Duration::from_millis(1)),
            Service::Refuses => (ProbeOutcome::Refused, Duration::from_millis(1)),
            Service::Silent => (ProbeOutcome::Silent, Duration::from_secs(1)),
        };
        self.tell_overlay(host, after, ForwardingEvent::ProbeDone { target, outcome });
    }

    fn service(&self, target: SocketAddr) -> Service {
        let agent = Agent::at(target).and_then(|no| self.agents.get(no));
        agent.map_or(Service::Silent, |agent| agent.service)
    }

    fn end(&mut self, no: usize, outcome: Outcome) {
        self.note(format_args!("packet {no}: {outcome:?}"));
        self.outcomes[no] = outcome;
    }
}
