//! One agent's connection: how long it is believed, and the pings that try it.

use std::{collections::BTreeSet, time::Duration};

use pias_protocol::{ids::TargetId, overlay::AgentLink, time::Time};

use crate::timing::{
    FIRST_PING_DEADLINE, IDLE_AGENT, KEEP_ALIVE_MAX, KEEP_ALIVE_MIN, KEEP_ALIVES_PER_SECOND,
    LEASE_SLACK, PING_DEADLINE, PING_INTERVAL, UNANSWERED_PINGS,
};

/// How often an agent reports, and how long it is believed without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) keep_alive: Duration,
    pub(crate) lease: Duration,
}

impl Terms {
    /// The terms of a proxy with so many targets: a fixed rate of keep-alives is spread over them.
    pub(crate) fn with(targets: usize) -> Self {
        let targets = u32::try_from(targets).unwrap_or(u32::MAX);
        let keep_alive = (Duration::from_secs(1) / KEEP_ALIVES_PER_SECOND)
            .saturating_mul(targets)
            .clamp(KEEP_ALIVE_MIN, KEEP_ALIVE_MAX);
        Self { keep_alive, lease: keep_alive * 2 + LEASE_SLACK }
    }
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    deadline: Time,
    /// How many unanswered ones went before.
    unanswered: u8,
}

/// A connected agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) link: AgentLink,
    pub(crate) targets: BTreeSet<TargetId>,
    pub(crate) heard: Time,
    /// What it was told last.
    pub(crate) terms: Terms,
    rtt: Option<Duration>,
    /// The ping whose answer, or any other word, is awaited.
    ping: Option<Ping>,
    /// Flows were placed on its targets since it was pinged.
    used: bool,
    /// An ICMP error said that its port is closed, since it was heard last.
    refused: bool,
    /// The last ping: its answer tells the way's length even if another word came before it.
    last: (u64, Time),
}

impl Agent {
    pub(crate) fn new(link: AgentLink, terms: Terms, now: Time) -> Self {
        Self {
            link,
            targets: BTreeSet::new(),
            heard: now,
            terms,
            rtt: None,
            ping: None,
            used: false,
            refused: false,
            last: (0, now),
        }
    }

    /// When it is no longer believed.
    pub(crate) fn lapses(&self) -> Time {
        self.heard + if self.targets.is_empty() { IDLE_AGENT } else { self.terms.lease }
    }

    /// How long a ping may take; twice as long where the doubt is weak, and a third where an ICMP
    /// error speaks against it as well: a round trip.
    fn patience(&self) -> Duration {
        let most = self.rtt.map_or(FIRST_PING_DEADLINE, |rtt| rtt * 3);
        if self.refused { most / 3 } else { most }.max(PING_DEADLINE)
    }

    /// Flows are placed on its targets: that is a reason to ping it.
    pub(crate) const fn used(&mut self) {
        self.used = true;
    }

    /// When it is to be pinged, unless it is heard before: where there is reason to, and no ping is out.
    pub(crate) fn worth_a_ping(&self) -> Option<Time> {
        (self.used && self.ping.is_none()).then(|| self.heard + PING_INTERVAL)
    }

    /// Whether a ping is out.
    pub(crate) const fn is_pinged(&self) -> bool {
        self.ping.is_some()
    }

    /// A ping is sent: its sequence, and when it is unanswered.
    pub(crate) fn ping(&mut self, doubt: u32, now: Time) -> (u64, Time) {
        let sequence = self.last.0 + 1;
        self.last = (sequence, now);
        let unanswered = self.ping.map_or(0, |ping| ping.unanswered + 1);
        let deadline = now + self.patience() * doubt;
        self.ping = Some(Ping { deadline, unanswered });
        self.used = false;
        (sequence, deadline)
    }

    /// An ICMP error says that its port is closed: when the ping that is out is unanswered now.
    pub(crate) fn refuse(&mut self, now: Time) -> Option<Time> {
        self.refused = true;
        let soon = now + self.patience();
        let ping = self.ping.as_mut()?;
        ping.deadline = ping.deadline.min(soon);
        Some(ping.deadline)
    }

    /// A pong came. It also tells the round-trip time.
    pub(crate) fn pong(&mut self, sequence: u64, now: Time) {
        let (last, sent) = self.last;
        if last == sequence {
            let sample = now - sent;
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
    }

    /// Anything came from it: it lives.
    pub(crate) fn hear(&mut self, now: Time) {
        self.heard = now;
        self.ping = None;
        self.refused = false;
    }

    /// What an expired deadline means: `None` if nothing (it was heard), else whether it is dead.
    pub(crate) fn ping_expired(&self, now: Time) -> Option<bool> {
        let ping = self.ping?;
        (now >= ping.deadline).then_some(ping.unanswered + 1 >= UNANSWERED_PINGS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> AgentLink {
        AgentLink {
            remote: "192.0.2.1:1".parse().unwrap(),
            anycast: "203.0.113.1".parse().unwrap(),
            connection: [1; 8],
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn keep_alives_cost_little_with_many_targets() {
        assert_eq!(Terms::with(1), Terms { keep_alive: ms(1_000), lease: ms(3_000) });
        assert_eq!(Terms::with(1_000).keep_alive, ms(5_000));
        assert_eq!(Terms::with(60_000), Terms { keep_alive: ms(15_000), lease: ms(31_000) });
    }

    #[test]
    fn two_pings_in_a_row_unanswered_are_death_and_a_word_between_is_life() {
        let mut agent = Agent::new(link(), Terms::with(1), Time::ZERO);
        let (first, _) = agent.ping(1, Time::ZERO);
        let now = Time::ZERO + ms(10);
        agent.pong(first, now);
        agent.hear(now);
        let (_, deadline) = agent.ping(1, now);
        assert_eq!(deadline, now + PING_DEADLINE);
        assert_eq!(agent.ping_expired(now), None);
        assert_eq!(agent.ping_expired(deadline), Some(false));
        let (_, second) = agent.ping(1, deadline);
        assert_eq!(agent.ping_expired(second), Some(true));
        agent.hear(second);
        assert_eq!(agent.ping_expired(second), None);
    }

    #[test]
    fn a_word_before_the_pong_does_not_spoil_the_measurement() {
        let mut agent = Agent::new(link(), Terms::with(1), Time::ZERO);
        let (first, _) = agent.ping(1, Time::ZERO);
        agent.hear(Time::ZERO + ms(99));
        agent.pong(first, Time::ZERO + ms(100));
        let now = Time::ZERO + ms(500);
        assert_eq!(agent.ping(1, now).1, now + ms(300));
    }

    #[test]
    fn an_agent_that_an_icmp_error_speaks_against_has_a_round_trip_to_answer() {
        let mut agent = Agent::new(link(), Terms::with(1), Time::ZERO);
        assert_eq!(agent.refuse(Time::ZERO), None, "it is to be asked first");
        let (first, deadline) = agent.ping(1, Time::ZERO);
        assert_eq!(deadline, Time::ZERO + FIRST_PING_DEADLINE / 3);
        let now = Time::ZERO + ms(200);
        agent.pong(first, now);
        agent.hear(now);
        let (_, deadline) = agent.ping(1, now);
        assert_eq!(deadline, now + ms(600));
        assert_eq!(agent.refuse(now + ms(50)), Some(now + ms(250)));
        assert_eq!(agent.refuse(now + ms(90)), Some(now + ms(250)), "more errors change nothing");
    }
}
