//! One connection's talk with a proxy, without the connection: messages and the time go in,
//! messages and events come out.
//!
//! ```text
//!                Joined                      unanswered Join or keep-alive
//!   Asked ────────────────► Held ───┐        ─────────────────────────────► Broken
//!     │ Refused                     │ KeepAlive every interval, one at a time
//!     └────────► Refused ◄── ask ── ┘
//! ```
//! Only one keep-alive is under way at a time: behind a lost one, a second would not arrive any
//! sooner on an ordered stream.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use pias_protocol::{
    agent::{
        AgentMessage, Health, JapMessage, Join, Joined, KeepAlive, KeepAliveAck, Leave, Pong,
        RefusalCode, Refused, TargetChange, Welcome,
    },
    group::GroupKey,
    ids::TargetId,
    time::Time,
};

use crate::limits::{ANSWER_TIMEOUT, KEEP_ALIVE_MAX, KEEP_ALIVE_MIN, KEEP_ALIVE_PATIENCE};

/// A membership as the session asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// The agent's number of it.
    pub(crate) member: u32,
    pub(crate) group: GroupKey,
    pub(crate) target: SocketAddr,
    pub(crate) weight: u32,
    pub(crate) healthy: bool,
}

/// What comes out of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// A message for the proxy.
    Send(AgentMessage),
    /// The proxy said who it is.
    Welcomed,
    /// A membership began.
    Joined { member: u32, rtt: Duration, lease: Duration },
    /// A membership is not granted.
    Refused { member: u32, code: RefusalCode, reason: String },
    /// The proxy sees the target go down or come up.
    TargetChange { member: u32, up: bool, reason: String },
    /// The proxy stops soon.
    Draining { closes_in: Duration },
    /// The connection is of no further use.
    Broken(SessionError),
}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the proxy did not answer the join within {}", humantime::format_duration(*.0))]
    JoinUnanswered(Duration),
    #[error("the proxy did not answer a keep-alive within {}", humantime::format_duration(*.0))]
    KeepAliveUnanswered(Duration),
    #[error("the proxy spoke before it said who it is")]
    NoWelcome,
}

#[derive(Debug)]
struct Slot {
    wish: Wish,
    /// What the proxy was last told of `wish.healthy`.
    told: bool,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Asked(Time),
    Held(TargetId),
    Refused,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    slots: Vec<Slot>,
    /// When the stream was opened.
    opened: Time,
    proxy: Option<Welcome>,
    rtt: Option<Duration>,
    interval: Duration,
    /// When the next keep-alive is due; `None` before the first membership.
    keep_alive_at: Option<Time>,
    /// The keep-alive under way.
    unanswered: Option<(u64, Time)>,
    sequence: u64,
    broken: bool,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session on a new connection, which asks for all of `wishes` at once.
    pub(crate) fn new(wishes: impl IntoIterator<Item = Wish>, now: Time) -> Self {
        let mut session = Self {
            slots: Vec::new(),
            opened: now,
            proxy: None,
            rtt: None,
            interval: KEEP_ALIVE_MAX,
            keep_alive_at: None,
            unanswered: None,
            sequence: 0,
            broken: false,
            outputs: VecDeque::new(),
        };
        for wish in wishes {
            session.slots.push(Slot { told: wish.healthy, wish, state: SlotState::Refused });
            session.send_join(session.slots.len() - 1, now);
        }
        session
    }

    /// The proxy, once it said who it is.
    pub(crate) const fn proxy(&self) -> Option<&Welcome> {
        self.proxy.as_ref()
    }

    /// Whether no answer to a join is outstanding.
    pub(crate) fn is_settled(&self) -> bool {
        !self.slots.iter().any(|slot| matches!(slot.state, SlotState::Asked(_)))
    }

    /// Asks again for a membership that was refused.
    pub(crate) fn ask_again(&mut self, member: u32, now: Time) {
        let refused =
            |slot: &Slot| slot.wish.member == member && matches!(slot.state, SlotState::Refused);
        if let Some(index) = self.slots.iter().position(refused) {
            self.send_join(index, now);
        }
    }

    /// The agent's own view of a target's health.
    pub(crate) fn set_healthy(&mut self, member: u32, healthy: bool) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.wish.member == member) {
            slot.wish.healthy = healthy;
            self.outputs.extend(slot.tell_health());
        }
    }

    /// Ends all memberships.
    pub(crate) fn leave(&mut self) {
        for slot in &mut self.slots {
            if let SlotState::Held(lease) = slot.state {
                self.outputs.push_back(Output::Send(Leave { lease }.into()));
                slot.state = SlotState::Refused;
            }
        }
        self.keep_alive_at = None;
    }

    /// Takes in what the proxy says.
    pub(crate) fn handle_message(&mut self, message: JapMessage, now: Time) {
        match message {
            _ if self.broken => {}
            JapMessage::Welcome(welcome) => {
                // The answer to the opening of the stream. That to a join waits for the RAPs.
                self.measure(now - self.opened);
                self.proxy = Some(welcome);
                self.outputs.push_back(Output::Welcomed);
            }
            _ if self.proxy.is_none() => self.break_off(SessionError::NoWelcome),
            JapMessage::Joined(joined) => self.on_joined(&joined, now),
            JapMessage::Refused(refused) => self.on_refused(refused),
            JapMessage::KeepAliveAck(ack) => self.on_ack(&ack, now),
            JapMessage::Ping(ping) => {
                self.outputs.push_back(Output::Send(Pong { sequence: ping.sequence }.into()));
            }
            JapMessage::TargetChange(change) => self.on_target_change(change),
            JapMessage::Draining(draining) => {
                let closes_in = Duration::from_millis(draining.closes_in_ms.into());
                self.outputs.push_back(Output::Draining { closes_in });
            }
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.broken {
            return;
        }
        if let Some((_, sent)) = self.unanswered
            && sent + self.patience() <= now
        {
            return self.break_off(SessionError::KeepAliveUnanswered(now - sent));
        }
        if self.join_answer_due().is_some_and(|due| due <= now) {
            return self.break_off(SessionError::JoinUnanswered(ANSWER_TIMEOUT));
        }
        if self.unanswered.is_none() && self.keep_alive_at.is_some_and(|at| at <= now) {
            self.sequence += 1;
            self.unanswered = Some((self.sequence, now));
            self.keep_alive_at = Some(now + self.interval);
            self.outputs.push_back(Output::Send(KeepAlive { sequence: self.sequence }.into()));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        if self.broken {
            return None;
        }
        let keep_alive = match self.unanswered {
            Some((_, sent)) => Some(sent + self.patience()),
            None => self.keep_alive_at,
        };
        keep_alive.into_iter().chain(self.join_answer_due()).min()
    }

    /// What to do next, if anything.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn send_join(&mut self, index: usize, now: Time) {
        let slot = &mut self.slots[index];
        slot.state = SlotState::Asked(now);
        slot.told = slot.wish.healthy;
        let Wish { member, group, target, weight, healthy } = slot.wish.clone();
        let join = Join { request: member, group, target, weight, healthy };
        self.outputs.push_back(Output::Send(join.into()));
    }

    fn on_joined(&mut self, joined: &Joined, now: Time) {
        let Some(index) = self.asked(joined.request) else {
            tracing::debug!(request = joined.request, "joined without being asked");
            return;
        };
        self.set_interval(joined.keep_alive_ms);
        if self.keep_alive_at.is_none() {
            self.keep_alive_at = Some(now + self.interval);
        }
        let slot = &mut self.slots[index];
        slot.state = SlotState::Held(joined.lease);
        self.outputs.push_back(Output::Joined {
            member: joined.request,
            rtt: self.rtt.unwrap_or_default(),
            lease: Duration::from_millis(joined.lease_ms.into()),
        });
        self.outputs.extend(slot.tell_health());
    }

    fn on_refused(&mut self, refused: Refused) {
        let Some(index) = self.asked(refused.request) else {
            tracing::debug!(request = refused.request, "refused without being asked");
            return;
        };
        self.slots[index].state = SlotState::Refused;
        let Refused { request: member, code, reason } = refused;
        self.outputs.push_back(Output::Refused { member, code, reason });
    }

    fn on_ack(&mut self, ack: &KeepAliveAck, now: Time) {
        let Some((_, sent)) = self.unanswered.take_if(|(sequence, _)| *sequence == ack.sequence)
        else {
            tracing::debug!(sequence = ack.sequence, "a keep-alive answered that was not sent");
            return;
        };
        self.measure(now - sent);
        self.set_interval(ack.keep_alive_ms);
        self.keep_alive_at = Some(sent + self.interval);
    }

    fn on_target_change(&mut self, change: TargetChange) {
        let held = |slot: &&Slot| matches!(slot.state, SlotState::Held(id) if id == change.lease);
        if let Some(slot) = self.slots.iter().find(held) {
            let TargetChange { up, reason, .. } = change;
            self.outputs.push_back(Output::TargetChange { member: slot.wish.member, up, reason });
        }
    }

    fn asked(&self, member: u32) -> Option<usize> {
        let asked =
            |slot: &Slot| slot.wish.member == member && matches!(slot.state, SlotState::Asked(_));
        self.slots.iter().position(asked)
    }

    /// Smooths as RFC 6298 section 2 does; the first sample stands for itself.
    fn measure(&mut self, sample: Duration) {
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    fn set_interval(&mut self, milliseconds: u32) {
        let wanted = Duration::from_millis(milliseconds.into());
        self.interval = wanted.clamp(KEEP_ALIVE_MIN, KEEP_ALIVE_MAX);
    }

    /// How long a keep-alive may stay unanswered.
    fn patience(&self) -> Duration {
        KEEP_ALIVE_PATIENCE.max(3 * self.rtt.unwrap_or_default())
    }

    fn join_answer_due(&self) -> Option<Time> {
        let asked = self.slots.iter().filter_map(|slot| match slot.state {
            SlotState::Asked(at) => Some(at + ANSWER_TIMEOUT),
            _ => None,
        });
        asked.min()
    }

    fn break_off(&mut self, error: SessionError) {
        self.broken = true;
        self.outputs.push_back(Output::Broken(error));
    }
}

impl Slot {
    /// What to say when the proxy believes otherwise of the target's health.
    fn tell_health(&mut self) -> Option<Output> {
        let SlotState::Held(lease) = self.state else { return None };
        let up = self.wish.healthy;
        if self.told == up {
            return None;
        }
        self.told = up;
        Some(Output::Send(Health { lease, up }.into()))
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::agent::{Draining, Ping};

    use super::*;

    const START: Time = Time::ZERO;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn wish(member: u32) -> Wish {
        Wish {
            member,
            group: format!("203.0.113.10:{}/udp", 53 + member).parse().unwrap(),
            target: "10.0.0.2:53".parse().unwrap(),
            weight: 1,
            healthy: true,
        }
    }

    fn outputs(session: &mut Session) -> Vec<Output> {
        std::iter::from_fn(|| session.poll()).collect()
    }

    fn joined(request: u32) -> JapMessage {
        let lease = TargetId(100 + u64::from(request));
        Joined { request, lease, keep_alive_ms: 1_000, lease_ms: 5_000 }.into()
    }

    fn welcome() -> JapMessage {
        Welcome { proxy: "fra1".into(), cluster: "fra".into() }.into()
    }

    fn ack(sequence: u64, keep_alive_ms: u32) -> JapMessage {
        KeepAliveAck { sequence, keep_alive_ms, lease_ms: 5_000 }.into()
    }

    /// A session joined 10 ms after the start.
    fn held() -> Session {
        let mut session = Session::new([wish(0)], START);
        session.handle_message(welcome(), START + ms(10));
        session.handle_message(joined(0), START + ms(10));
        outputs(&mut session);
        session
    }

    fn send(message: impl Into<AgentMessage>) -> Output {
        Output::Send(message.into())
    }

    #[test]
    fn a_join_is_answered_with_its_round_trip_and_lease() {
        let mut session = Session::new([wish(7)], START);
        let Some(Output::Send(AgentMessage::Join(join))) = session.poll() else { panic!() };
        assert_eq!((join.request, join.healthy), (7, true));
        assert!(!session.is_settled());
        session.handle_message(welcome(), START + ms(10));
        session.handle_message(joined(7), START + ms(90));
        let joined = Output::Joined { member: 7, rtt: ms(10), lease: ms(5_000) };
        assert_eq!(outputs(&mut session), [Output::Welcomed, joined]);
        assert!(session.is_settled());
    }

    #[test]
    fn keep_alives_follow_the_interval_that_the_proxy_sets() {
        let mut session = held();
        assert_eq!(session.deadline(), Some(START + ms(1_010)));
        session.handle_timeout(START + ms(1_010));
        assert_eq!(outputs(&mut session), [send(KeepAlive { sequence: 1 })]);
        session.handle_message(ack(1, 15_000), START + ms(1_020));
        assert_eq!(session.deadline(), Some(START + ms(16_010)));
        session.handle_timeout(START + ms(16_009));
        assert_eq!(session.poll(), None);
    }

    #[test]
    fn an_interval_of_nothing_or_of_a_week_is_moved_into_bounds() {
        for (asked, kept) in [(0, KEEP_ALIVE_MIN), (u32::MAX, KEEP_ALIVE_MAX)] {
            let mut session = held();
            session.handle_timeout(START + ms(1_010));
            session.handle_message(ack(1, asked), START + ms(1_020));
            assert_eq!(session.deadline(), Some(START + ms(1_010) + kept));
        }
    }

    #[test]
    fn an_unanswered_keep_alive_breaks_the_session_after_a_second() {
        let mut session = held();
        session.handle_timeout(START + ms(1_010));
        outputs(&mut session);
        assert_eq!(session.deadline(), Some(START + ms(2_010)));
        session.handle_timeout(START + ms(2_010));
        let broken = Output::Broken(SessionError::KeepAliveUnanswered(ms(1_000)));
        assert_eq!(outputs(&mut session), [broken]);
        assert_eq!(session.deadline(), None);
    }

    #[test]
    fn over_a_long_path_three_round_trips_are_waited_for() {
        let mut session = Session::new([wish(0)], START);
        session.handle_message(welcome(), START + ms(500));
        session.handle_message(joined(0), START + ms(500));
        session.handle_timeout(START + ms(1_500));
        assert_eq!(session.deadline(), Some(START + ms(3_000)));
    }

    #[test]
    fn an_unanswered_join_breaks_the_session() {
        let mut session = Session::new([wish(0)], START);
        outputs(&mut session);
        let due = session.deadline().unwrap();
        assert_eq!(due, START + ANSWER_TIMEOUT);
        session.handle_timeout(due);
        let broken = Output::Broken(SessionError::JoinUnanswered(ANSWER_TIMEOUT));
        assert_eq!(outputs(&mut session), [broken]);
    }

    #[test]
    fn a_ping_is_answered_at_once() {
        let mut session = held();
        session.handle_message(Ping { sequence: 42 }.into(), START + ms(20));
        assert_eq!(outputs(&mut session), [send(Pong { sequence: 42 })]);
    }

    #[test]
    fn health_that_changes_while_the_join_is_under_way_is_told_after_it() {
        let mut session = Session::new([wish(0)], START);
        outputs(&mut session);
        session.set_healthy(0, false);
        assert_eq!(session.poll(), None);
        session.handle_message(welcome(), START + ms(10));
        session.handle_message(joined(0), START + ms(10));
        let told = send(Health { lease: TargetId(100), up: false });
        assert_eq!(outputs(&mut session).last(), Some(&told));
        session.set_healthy(0, false);
        assert_eq!(session.poll(), None, "told once");
    }

    #[test]
    fn a_refusal_of_one_leaves_the_other() {
        let mut session = Session::new([wish(0), wish(1)], START);
        session.handle_message(welcome(), START + ms(5));
        outputs(&mut session);
        let (code, reason) = (RefusalCode::Full, "enough".to_owned());
        let refusal = Refused { request: 0, code, reason: reason.clone() };
        session.handle_message(refusal.into(), START + ms(5));
        session.handle_message(joined(1), START + ms(5));
        let joined = Output::Joined { member: 1, rtt: ms(5), lease: ms(5_000) };
        let refused = Output::Refused { member: 0, code, reason };
        assert_eq!(outputs(&mut session), [refused, joined]);
        session.ask_again(0, START + ms(100));
        assert!(matches!(session.poll(), Some(Output::Send(AgentMessage::Join(_)))));
        session.ask_again(1, START + ms(100));
        assert_eq!(session.poll(), None, "only what was refused is asked for again");
    }

    #[test]
    fn leaving_names_every_lease_once() {
        let mut session = held();
        session.leave();
        session.leave();
        assert_eq!(outputs(&mut session), [send(Leave { lease: TargetId(100) })]);
    }

    #[test]
    fn what_the_proxy_sees_is_passed_on() {
        let mut session = held();
        let change = |lease| TargetChange { lease, up: false, reason: "refused".into() };
        session.handle_message(change(TargetId(999)).into(), START);
        assert_eq!(session.poll(), None, "not ours");
        session.handle_message(change(TargetId(100)).into(), START);
        let down = Output::TargetChange { member: 0, up: false, reason: "refused".into() };
        assert_eq!(session.poll(), Some(down));
        session.handle_message(Draining { closes_in_ms: 3_000 }.into(), START);
        assert_eq!(session.poll(), Some(Output::Draining { closes_in: ms(3_000) }));
    }

    #[test]
    fn a_proxy_that_does_not_introduce_itself_is_left() {
        let mut session = Session::new([wish(0)], START);
        outputs(&mut session);
        session.handle_message(joined(0), START);
        assert_eq!(outputs(&mut session), [Output::Broken(SessionError::NoWelcome)]);
    }
}
