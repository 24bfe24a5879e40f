//! Clients' packets, and what the model of the datapath wishes.

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{
    forwarding::{ForwardingEvent, ProbeOutcome},
    group::GroupKey,
    hash::FlowKey,
    ids::{ProxyId, TargetId},
};

use super::{Event, Sim};
use crate::{
    agent::Service,
    datapath::{Action, Arrival, Outcome, PARKED, Packet},
};

impl Sim {
    /// A client's packet enters at a proxy. Its number.
    ///
    /// # Panics
    /// If `group` is no group.
    pub fn send(&mut self, ingress: &str, client: u16, group: &str) -> usize {
        let group: GroupKey = group.parse().expect("a group, as in 203.0.113.10:53/udp");
        let no = self.outcomes.len();
        let client = SocketAddr::from(([198, 18, 0, 1], client));
        let flow = FlowKey { client, group }.hash();
        let packet = Packet { no, flow, group, ingress: ProxyId::of(ingress), path: Vec::new() };
        self.outcomes.push(Outcome::Travels);
        let host = self.host(ingress);
        self.push(Duration::ZERO, Event::Packet { host, packet, arrival: Arrival::Client });
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

    pub(super) fn packet(&mut self, host: usize, mut packet: Packet, arrival: Arrival) {
        let now = self.now;
        let name = self.hosts[host].name.clone();
        packet.path.push(name);
        let Some((_, datapath)) = &mut self.hosts[host].node else {
            self.end(packet.no, Outcome::Lost { path: packet.path });
            return;
        };
        let actions = datapath.arrive(packet, arrival, now);
        self.act(host, actions);
    }

    pub(super) fn act(&mut self, host: usize, actions: Vec<Action>) {
        let epoch = self.hosts[host].epoch;
        for action in actions {
            match action {
                Action::Event(event) => {
                    self.push(PARKED, Event::Unpark { host, epoch });
                    self.push(Duration::ZERO, Event::Forwarding { host, epoch, event });
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

    fn tunnel(&mut self, host: usize, to: ProxyId, packet: Packet, arrival: Arrival) {
        let arrives = self.ids.get(&to).copied().and_then(|peer| {
            let (here, there) = (self.hosts[host].cluster, self.hosts[peer].cluster);
            Some((peer, self.network.packet(here, there, self.now)?))
        });
        match arrives {
            Some((peer, at)) => self.push_at(at, Event::Packet { host: peer, packet, arrival }),
            None => self.end(packet.no, Outcome::Lost { path: packet.path }),
        }
    }

    fn deliver(&mut self, host: usize, target: TargetId, address: SocketAddr, packet: Packet) {
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
                let node = self.hosts[host].node.as_mut();
                node.and_then(|(_, datapath)| datapath.unanswered(target))
            }
        };
        if let Some(event) = event {
            let epoch = self.hosts[host].epoch;
            self.push(Duration::from_millis(1), Event::Forwarding { host, epoch, event });
        }
    }

    fn probe(&mut self, host: usize, target: TargetId) {
        let node = self.hosts[host].node.as_ref();
        let Some(address) = node.and_then(|(_, datapath)| datapath.target(target)) else { return };
        let (outcome, after) = match self.service(address) {
            Service::Serves => (ProbeOutcome::Answered, Duration::from_millis(1)),
            Service::Refuses => (ProbeOutcome::Refused, Duration::from_millis(1)),
            Service::Silent => (ProbeOutcome::Silent, Duration::from_secs(1)),
        };
        let epoch = self.hosts[host].epoch;
        let event = ForwardingEvent::ProbeDone { target, outcome };
        self.push(after, Event::Forwarding { host, epoch, event });
    }

    fn service(&self, target: SocketAddr) -> Service {
        let agent = self.agents.iter().find(|agent| agent.target == target);
        agent.map_or(Service::Silent, |agent| agent.service)
    }

    fn end(&mut self, no: usize, outcome: Outcome) {
        self.note(format_args!("packet {no}: {outcome:?}"));
        self.outcomes[no] = outcome;
    }
}
