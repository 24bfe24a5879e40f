//! Whether targets serve, and agents live: what the datapath sees, and how suspicion is settled.
//!
//! ```text
//!   TargetRefuses ──► Probe ──► Answered: nothing was wrong, or it is back
//!   TargetSilent ───► Probe     Refused, Silent: down; probed again after 250 ms, 500 ms, ... 2 s
//!   TargetRefuses, then TargetSilent, and no TargetAnswers between: a UDP service is down
//!              └────► Ping ───► Pong
//!   TargetUsed ─────► Ping      unanswered twice: the agent is dead, its memberships end
//!   AgentUnreachable► Ping
//! ```

use std::net::SocketAddr;

use pias_protocol::{
    agent::{Ping, TargetChange},
    forwarding::{ForwardingUpdate, ProbeOutcome},
    ids::TargetId,
    time::Time,
};

use super::{
    Due, Join,
    agent::Agent,
    target::{Service, Verdict},
};
use crate::{
    effect::{AgentId, CloseReason},
    notice::Notice,
    outbox::Outbox,
    timing::{PING_INTERVAL, PROBE_LOST, REJOINING},
    world::World,
};

impl Join {
    /// A target refused a flow.
    pub(crate) fn target_refuses(&mut self, id: TargetId, now: Time, out: &mut Outbox) {
        self.probe(id, now, out);
        if let Some(target) = self.targets.get_mut(&id) {
            target.refused = Some(now);
        }
    }

    /// A target answered a flow after it had refused one, or was silent.
    pub(crate) fn target_answers(&mut self, id: TargetId) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.refused = None;
        }
    }

    /// New flows to a target stay unanswered: is the service there, is the agent? A machine tells each
    /// of its peers only once a second or so that a port is closed (RFC 1812 section 4.3.2.8): where
    /// flows use that up, a probe hears nothing, and their own word must do.
    pub(crate) fn target_silent(
        &mut self,
        id: TargetId,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        self.probe(id, now, out);
        let Some(target) = self.targets.get_mut(&id) else { return };
        let agent = target.agent;
        if target.refuses_flows(now) {
            let verdict = target.believe(Service::Refuses, now);
            self.judged(id, verdict, "it refuses flows, and answers none", world, now, out);
        }
        if let Some(agent) = agent {
            // A service may be slow for many reasons: the doubt in its agent is weak.
            self.try_agent(agent, 2, now, out);
        }
    }

    /// Flows are placed on a target: that its agent is dead must not take long to notice.
    pub(crate) fn target_used(&mut self, id: TargetId, now: Time, out: &mut Outbox) {
        let Some(id) = self.targets.get(&id).and_then(|target| target.agent) else { return };
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.used();
        self.ping_by_use(id, now, out);
    }

    /// Pings an agent whose targets are used, now or when it has not been heard for long enough.
    /// Whether it is one.
    fn ping_by_use(&mut self, id: AgentId, now: Time, out: &mut Outbox) -> bool {
        let Some(at) = self.agents.get(&id).and_then(Agent::worth_a_ping) else { return false };
        if at <= now {
            self.ping(id, 1, now, out);
        } else {
            self.timers.set_by(Due::Ping(id), at);
        }
        true
    }

    /// An ICMP error says that an agent's port is closed. Anyone can send one, so it is asked; but
    /// it has less time to answer.
    pub(crate) fn agent_unreachable(&mut self, remote: SocketAddr, now: Time, out: &mut Outbox) {
        let Some(&id) = self.by_remote.get(&remote) else { return };
        match self.agents.get_mut(&id).and_then(|agent| agent.refuse(now)) {
            Some(deadline) => self.timers.set_by(Due::Ping(id), deadline),
            None => self.ping(id, 1, now, out),
        }
    }

    /// A probe's outcome.
    pub(crate) fn probe_done(
        &mut self,
        id: TargetId,
        outcome: ProbeOutcome,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        self.timers.cancel(Due::Probe(id));
        if target.leaving {
            target.probing = None;
            return;
        }
        let verdict = target.probed(outcome, now);
        let why = if target.service == Service::Silent {
            "it does not answer a probe"
        } else {
            "it refuses a probe"
        };
        self.judged(id, verdict, why, world, now, out);
    }

    /// What a probe, or flows, said of a service.
    fn judged(
        &mut self,
        id: TargetId,
        verdict: Verdict,
        against: &'static str,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.service != Service::Answers {
            let wait = target.next_backoff();
            self.timers.set(Due::Probe(id), now + wait);
        }
        match verdict {
            Verdict::Keep => {}
            Verdict::Rise => self.changed(id, true, "a probe is not refused", world, now, out),
            Verdict::Fall => self.changed(id, false, against, world, now, out),
        }
    }

    /// An agent's own check changed. A service that it vouches for is believed to be back.
    pub(super) fn agent_says(
        &mut self,
        id: TargetId,
        up: bool,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        let before = target.takes_flows();
        target.healthy = up;
        if up && target.service != Service::Answers {
            target.believe(Service::Answers, now);
            self.timers.cancel(Due::Probe(id));
        }
        let (after, group, address) = (target.takes_flows(), target.group, target.address);
        let why = "its agent's own check says so";
        match (before, after) {
            (false, true) => out.notice(Notice::TargetUp { target: id, group, address, why }),
            (true, false) => out.notice(Notice::TargetDown { target: id, group, address, why }),
            _ => return,
        }
        self.publish(id, world, now, out);
    }

    /// What this proxy sees of a service changed: the agent, the datapath and the RAPs are told.
    fn changed(
        &mut self,
        id: TargetId,
        up: bool,
        why: &'static str,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.get(&id) else { return };
        let (agent, group, address) = (target.agent, target.group, target.address);
        if let Some(agent) = agent {
            out.agent(agent, TargetChange { lease: id, up, reason: why.to_owned() });
        }
        out.notice(if up {
            Notice::TargetUp { target: id, group, address, why }
        } else {
            Notice::TargetDown { target: id, group, address, why }
        });
        self.publish(id, world, now, out);
    }

    /// Asks the datapath for a probe, unless one is under way.
    fn probe(&mut self, id: TargetId, now: Time, out: &mut Outbox) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.probing.is_some() || target.leaving {
            return;
        }
        target.probing = Some(now);
        out.counters.probes += 1;
        out.forward(ForwardingUpdate::Probe { target: id });
        self.timers.set(Due::Probe(id), now + PROBE_LOST);
    }

    /// The next probe of a service that is down is due, or the outcome of one is lost.
    pub(super) fn probe_due(&mut self, id: TargetId, now: Time, out: &mut Outbox) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.probing = None;
        if target.service != Service::Answers {
            self.probe(id, now, out);
        }
    }

    /// Pings an agent that is in doubt, unless a ping is out already: to ping it again is for the
    /// deadline of that one.
    pub(super) fn try_agent(&mut self, id: AgentId, doubt: u32, now: Time, out: &mut Outbox) {
        if self.agents.get(&id).is_some_and(|agent| !agent.is_pinged()) {
            self.ping(id, doubt, now, out);
        }
    }

    /// Pings an agent, if the budget allows it. `doubt` multiplies the time that it has.
    pub(super) fn ping(&mut self, id: AgentId, doubt: u32, now: Time, out: &mut Outbox) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if !self.budget.take(now) {
            out.counters.pings_skipped += 1;
            if agent.is_pinged() {
                self.timers.set(Due::Ping(id), now + PING_INTERVAL);
            }
            return;
        }
        let (sequence, deadline) = agent.ping(doubt, now);
        out.counters.pings += 1;
        out.agent(id, Ping { sequence });
        self.timers.set(Due::Ping(id), deadline);
    }

    /// A ping is due, or may be unanswered.
    pub(super) fn ping_due(&mut self, id: AgentId, world: &World, now: Time, out: &mut Outbox) {
        if self.ping_by_use(id, now, out) {
            return;
        }
        let Some(dead) = self.agents.get(&id).and_then(|agent| agent.ping_expired(now)) else {
            return;
        };
        if dead {
            out.close(id, CloseReason::Unresponsive);
            // It may have been reset, where routing has led its packets to another proxy.
            self.drop_agent(id, "its agent does not answer", now + REJOINING, world, now, out);
        } else {
            self.ping(id, 1, now, out);
        }
    }
}
