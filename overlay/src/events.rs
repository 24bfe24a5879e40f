//! What the datapath sees, and what a node says to a packet that nobody knows a way for.

use pias_protocol::{
    forwarding::{ForwardingEvent, ForwardingUpdate, RelayHow, SecondChanceCause},
    group::GroupKey,
    hash::FlowHash,
    ids::ParkedId,
    limits::MAX_HOPS,
    overlay::NoTarget,
    time::Time,
};

use crate::{
    node::Node,
    rendezvous::{Answered, Asking},
};

impl Node {
    /// Something that the datapath saw.
    pub fn handle_event(&mut self, event: ForwardingEvent, now: Time) {
        let (world, out) = (&self.world, &mut self.out);
        match event {
            ForwardingEvent::Missed { group, flow, parked } => {
                self.missed(group, flow, parked, now);
            }
            ForwardingEvent::Resolve { group, flow, ingress, tried, opens, hops, parked } => {
                let asking = Asking { group, flow, ingress, tried, opens, hops, parked };
                self.rendezvous.place(asking, world, now, out);
            }
            ForwardingEvent::SecondChance { group, flow, ingress, opens, hops, cause, parked } => {
                let tried = Some(world.own);
                let asking = Asking { group, flow, ingress, tried, opens, hops, parked };
                self.second_chance(asking, cause, now);
            }
            ForwardingEvent::IngressUsed(group) => self.ingress.used(group, world, now, out),
            ForwardingEvent::TargetAnswers(id) => self.join.target_answers(id),
            ForwardingEvent::TargetRefuses(id) => self.join.target_refuses(id, now, out),
            ForwardingEvent::TargetSilent { target, .. } => {
                self.join.target_silent(target, world, now, out);
            }
            ForwardingEvent::TargetUsed(id) => self.join.target_used(id, now, out),
            ForwardingEvent::ProbeDone { target, outcome } => {
                self.join.probe_done(target, outcome, world, now, out);
            }
            ForwardingEvent::AgentUnreachable(remote) => {
                self.join.agent_unreachable(remote, now, out);
            }
            ForwardingEvent::Flows { records, ended } => self.flows.told(records, ended, out),
            ForwardingEvent::HandedBack { to, records, last } => {
                self.flows.handed_back(to, records, last, out);
            }
        }
        self.settle(now);
    }

    /// A packet for a group without an ingress entry: to the JAP if this proxy is a RAP of the group
    /// itself, else to the nearest RAP, which resolves it in passing.
    fn missed(&mut self, group: GroupKey, flow: FlowHash, parked: ParkedId, now: Time) {
        let (world, out) = (&self.world, &mut self.out);
        out.counters.missed += 1;
        if self.ingress.settles(group, flow, parked, world, out) {
            return;
        }
        let rap = world.raps_by_distance(&group).first().copied();
        match rap.filter(|&rap| rap != world.own) {
            Some(rap) => {
                self.ingress.asked(group, rap, world, now, out);
                let how = RelayHow::Resolve { tried: None };
                out.forward(ForwardingUpdate::Relay { parked, to: rap, how });
            }
            // Without any RAP (the only proxy, and draining) this one does what it can.
            None => {
                let (ingress, tried, opens, hops) = (world.own, None, true, 1);
                let asking = Asking { group, flow, ingress, tried, opens, hops, parked };
                if let Answered::PassedOn(rap) = self.rendezvous.place(asking, world, now, out) {
                    self.ingress.asked(group, rap, world, now, out);
                }
            }
        }
    }

    /// This proxy, as a JAP, cannot take a packet: a RAP shall name the next one. If it is for want
    /// of a target, the ingress is told not to send more.
    fn second_chance(&mut self, asking: Asking, cause: SecondChanceCause, now: Time) {
        self.out.counters.second_chances += 1;
        let (group, parked, starting) = (asking.group, asking.parked, self.is_starting());
        let (world, out) = (&self.world, &mut self.out);
        let bare = cause == SecondChanceCause::NoTarget && !self.join.serves(group);
        if bare
            && self.leases.wanted(group, &mut self.join, world, now, out)
            && self.join.serves(group)
        {
            return out.forward(ForwardingUpdate::Deliver { parked });
        }
        let of_flow = cause == SecondChanceCause::UnknownFlow;
        // Proxies that have not heard of its restart send it what its former life would take.
        if starting && (self.flows.wait(parked) || of_flow) {
            return;
        }
        if bare {
            out.send(asking.ingress, NoTarget { group });
        }
        if asking.hops >= MAX_HOPS {
            out.counters.refused_packets += 1;
            out.forward(ForwardingUpdate::Refuse { parked });
            return;
        }
        match world.raps_by_distance(&group).first() {
            Some(&rap) if rap != world.own => {
                let how = RelayHow::Resolve { tried: asking.tried };
                out.forward(ForwardingUpdate::Relay { parked, to: rap, how });
            }
            _ => {
                self.rendezvous.place(asking, world, now, out);
            }
        }
    }
}
