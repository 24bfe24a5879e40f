//! One target: what is known of its service, and what the datapath may do with it.

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{
    forwarding::{ProbeOutcome, Target, TargetState},
    group::{GroupKey, Protocol},
    ids::TargetId,
    overlay::{AgentLink, LeaseState},
    time::Time,
};

use crate::{
    effect::AgentId,
    timing::{FLAPPING, PROBE_BACKOFF_MAX, PROBE_BACKOFF_MIN, REFUSAL_COUNTS},
};

/// Silent probes in a row that speak for a UDP service that is down, and how many at most if it was
/// taken for well again in vain: its number doubles.
const SILENCES: u8 = 3;
const MAX_SILENCES: u8 = 12;

/// What this proxy found out about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Nothing speaks against it.
    Answers,
    /// It refused a probe: the machine is there, the service is not.
    Refuses,
    /// It did not answer a probe at all.
    Silent,
}

/// What follows from the outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing changes.
    Keep,
    /// It is up again.
    Rise,
    /// It is down.
    Fall,
}

/// A target registered here.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    pub(crate) id: TargetId,
    pub(crate) group: GroupKey,
    pub(crate) address: SocketAddr,
    pub(crate) weight: u32,
    /// The connection that holds it; `None` while it is inherited and its agent is not back.
    pub(crate) agent: Option<AgentId>,
    pub(crate) link: AgentLink,
    /// When it was registered here, or its agent came (back) here.
    pub(crate) since: Time,
    /// Whether it left, and only keeps its flows.
    pub(crate) leaving: bool,
    /// Whether a mate says that it joined there: with its agent's connection it leaves.
    pub(crate) taken: bool,
    /// The agent's own word.
    pub(crate) healthy: bool,
    /// What this proxy found out.
    pub(crate) service: Service,
    /// When a probe was asked for whose outcome is not known yet.
    pub(crate) probing: Option<Time>,
    /// How long until the next probe while it is down.
    backoff: Duration,
    /// When it refused a flow last, if it answered none since.
    pub(crate) refused: Option<Time>,
    /// Silent probes in a row while it is down: of a UDP service they speak for it.
    silences: u8,
    /// How many of them it takes, and when they last were enough.
    enough: u8,
    risen: Option<Time>,
}

impl Registered {
    pub(crate) fn new(
        id: TargetId,
        group: GroupKey,
        address: SocketAddr,
        agent: Option<AgentId>,
        link: AgentLink,
        now: Time,
    ) -> Self {
        Self {
            id,
            group,
            address,
            weight: 1,
            agent,
            link,
            since: now,
            leaving: false,
            taken: false,
            healthy: true,
            service: Service::Answers,
            probing: None,
            backoff: PROBE_BACKOFF_MIN,
            refused: None,
            silences: 0,
            enough: SILENCES,
            risen: None,
        }
    }

    /// One that was another proxy's, in the state that it was in there.
    pub(crate) fn inherited(mut self, weight: u32, state: LeaseState) -> Self {
        self.weight = weight;
        match state {
            LeaseState::Up => {}
            LeaseState::Unwell => self.healthy = false,
            LeaseState::Refuses => self.service = Service::Refuses,
            LeaseState::Silent => self.service = Service::Silent,
            LeaseState::Left => self.leaving = true,
        }
        self
    }

    /// What an heir must know of its service.
    pub(crate) const fn lease_state(&self) -> LeaseState {
        match (self.leaving, self.healthy, self.service) {
            (true, ..) => LeaseState::Left,
            (_, false, _) => LeaseState::Unwell,
            (.., Service::Refuses) => LeaseState::Refuses,
            (.., Service::Silent) => LeaseState::Silent,
            (.., Service::Answers) => LeaseState::Up,
        }
    }

    /// Whether it gets new flows.
    pub(crate) fn takes_flows(&self) -> bool {
        !self.leaving && self.healthy && self.service == Service::Answers
    }

    /// Its part in its group's count.
    pub(crate) fn share(&self) -> u32 {
        if self.takes_flows() { self.weight } else { 0 }
    }

    /// What the datapath may do with it.
    ///
    /// A TCP service that refuses connections, or says itself that it is not well, may still serve
    /// the ones it has (a server that restarts gracefully does), and if it does not, its own machine
    /// resets them: its flows stay. A UDP flow would stay with a dead service for ever, and nobody
    /// answers for a silent machine: their flows move.
    pub(crate) fn state(&self) -> TargetState {
        match (self.service, self.group.protocol) {
            (Service::Silent, _) | (Service::Refuses, Protocol::Udp) => TargetState::Down,
            (Service::Refuses, Protocol::Tcp) => TargetState::Draining,
            (Service::Answers, _) if self.takes_flows() => TargetState::Up,
            (Service::Answers, Protocol::Udp) if !self.leaving => TargetState::Down,
            (Service::Answers, _) => TargetState::Draining,
        }
    }

    /// As the datapath is told.
    pub(crate) fn forwarding(&self) -> Target {
        Target {
            id: self.id,
            group: self.group,
            address: self.address,
            weight: self.weight,
            state: self.state(),
        }
    }

    /// The word for its state, and why.
    pub(crate) const fn words(&self) -> (&'static str, &'static str) {
        match (self.leaving, self.healthy, self.service) {
            (true, ..) => ("draining", "it left; its flows may end"),
            (_, false, _) => ("down", "its agent's own check fails"),
            (.., Service::Refuses) => ("down", "it refuses a probe, or flows"),
            (.., Service::Silent) => ("down", "it does not answer a probe"),
            (.., Service::Answers) if self.agent.is_none() => {
                ("up", "inherited; its agent is not back yet")
            }
            (.., Service::Answers) => ("up", "nothing speaks against it"),
        }
    }

    /// A probe's outcome.
    pub(crate) fn probed(&mut self, outcome: ProbeOutcome, now: Time) -> Verdict {
        self.probing = None;
        match (outcome, self.group.protocol) {
            (ProbeOutcome::Answered, _) => self.believe(Service::Answers, now),
            (ProbeOutcome::Refused, _) => self.believe(Service::Refuses, now),
            (ProbeOutcome::Silent, Protocol::Tcp) => self.believe(Service::Silent, now),
            (ProbeOutcome::Silent, Protocol::Udp) => self.silent_udp(now),
        }
    }

    /// Whether a UDP service that is taken for well has just refused a flow, and answered none since:
    /// more than a refusal, which anyone can forge, but no proof.
    pub(crate) fn refuses_flows(&self, now: Time) -> bool {
        let refused = self.refused.is_some_and(|at| now - at < REFUSAL_COUNTS);
        let well = self.service == Service::Answers && !self.leaving;
        refused && well && self.group.protocol == Protocol::Udp
    }

    /// A UDP service need not answer an empty datagram: silence changes nothing while it is up. While
    /// it is down, some silences in a row say that nobody refuses any more. Fewer may only mean that
    /// its machine limits the rate of its refusals, and so may more, where many of its services are
    /// down.
    fn silent_udp(&mut self, now: Time) -> Verdict {
        if self.service == Service::Answers {
            return Verdict::Keep;
        }
        self.silences += 1;
        if self.silences < self.enough {
            self.backoff = PROBE_BACKOFF_MIN;
            return Verdict::Keep;
        }
        self.risen = Some(now);
        self.believe(Service::Answers, now)
    }

    /// What this proxy believes from now on.
    pub(crate) fn believe(&mut self, service: Service, now: Time) -> Verdict {
        let was = std::mem::replace(&mut self.service, service);
        self.silences = 0;
        self.refused = None;
        match (was, service) {
            (Service::Answers, Service::Answers) => Verdict::Keep,
            (_, Service::Answers) => {
                self.backoff = PROBE_BACKOFF_MIN;
                Verdict::Rise
            }
            (Service::Answers, _) => {
                let in_vain = self.risen.is_some_and(|risen| now - risen < FLAPPING);
                self.enough = if in_vain { (self.enough * 2).min(MAX_SILENCES) } else { SILENCES };
                Verdict::Fall
            }
            _ => Verdict::Keep,
        }
    }

    /// How long to wait before the next probe; doubles each time.
    pub(crate) fn next_backoff(&mut self) -> Duration {
        let wait = self.backoff;
        self.backoff = (wait * 2).min(PROBE_BACKOFF_MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(group: &str) -> Registered {
        let link = AgentLink {
            remote: "10.0.0.1:2".parse().unwrap(),
            anycast: "203.0.113.1".parse().unwrap(),
            connection: [1; 8],
        };
        Registered::new(
            TargetId(1),
            group.parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
            Some(AgentId(1)),
            link,
            Time::ZERO,
        )
    }

    #[test]
    fn a_refusing_tcp_service_keeps_its_flows_until_a_probe_is_answered() {
        let mut target = target("203.0.113.1:80/tcp");
        assert_eq!(target.probed(ProbeOutcome::Refused, Time::ZERO), Verdict::Fall);
        assert_eq!(target.state(), TargetState::Draining);
        assert_eq!(target.probed(ProbeOutcome::Refused, Time::ZERO), Verdict::Keep);
        assert_eq!(target.probed(ProbeOutcome::Answered, Time::ZERO), Verdict::Rise);
        assert_eq!(target.state(), TargetState::Up);
    }

    #[test]
    fn a_silent_tcp_service_is_down() {
        let mut target = target("203.0.113.1:80/tcp");
        assert_eq!(target.probed(ProbeOutcome::Silent, Time::ZERO), Verdict::Fall);
        assert_eq!(target.state(), TargetState::Down);
    }

    /// Outcomes of probes, a second and a quarter after another, and what followed from each.
    fn verdicts(target: &mut Registered, from: Time, outcomes: &[ProbeOutcome]) -> Vec<Verdict> {
        let wait = Duration::from_millis(1_250);
        let times = (0..).map(|n| from + wait * n);
        times.zip(outcomes).map(|(at, &outcome)| target.probed(outcome, at)).collect()
    }

    #[test]
    fn a_udp_service_rises_when_nobody_refuses_for_a_while() {
        use ProbeOutcome::{Refused, Silent};
        use Verdict::{Fall, Keep, Rise};
        let mut target = target("203.0.113.1:53/udp");
        assert_eq!(target.probed(Silent, Time::ZERO), Keep);
        assert_eq!(target.state(), TargetState::Up);
        assert_eq!(target.probed(Refused, Time::ZERO), Fall);
        assert_eq!(target.state(), TargetState::Down);
        let outcomes = [Silent, Silent, Refused, Silent, Silent, Silent];
        let all = verdicts(&mut target, Time::ZERO, &outcomes);
        assert_eq!(all, [Keep, Keep, Keep, Keep, Keep, Rise]);
    }

    /// Many dead services of one machine: most probes are not refused, for the machine refuses one a
    /// second in all.
    #[test]
    fn a_udp_service_that_rose_in_vain_has_to_be_silent_for_longer() {
        use ProbeOutcome::{Refused, Silent};
        let mut target = target("203.0.113.1:53/udp");
        let mut now = Time::ZERO;
        let mut needed = Vec::new();
        for _ in 0..4 {
            target.probed(Refused, now);
            let mut silences = 0;
            while target.service != Service::Answers {
                now = now + Duration::from_millis(1_250);
                target.probed(Silent, now);
                silences += 1;
            }
            needed.push(silences);
        }
        assert_eq!(needed, [3, 6, 12, 12]);
        now = now + FLAPPING;
        target.probed(Refused, now);
        assert_eq!(verdicts(&mut target, now, &[Silent; 3]).last(), Some(&Verdict::Rise));
    }

    #[test]
    fn probes_of_a_dead_service_grow_rare() {
        let mut target = target("203.0.113.1:53/udp");
        target.probed(ProbeOutcome::Refused, Time::ZERO);
        let waits: Vec<_> = (0..6).map(|_| target.next_backoff().as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 2_000, 2_000]);
    }
}
