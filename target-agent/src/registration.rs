//! All memberships at one anycast address, without the connections: which connections there should
//! be, what is said on them, and what the application hears.
//!
//! Routing decides per address which proxy answers, so all groups of an address share a connection.
//! Usually there is one; while the proxy of one drains, there are two:
//!
//! ```text
//!  connect ──► current ── Draining ──► retiring       joined until the last moment
//!                 ▲                        │
//!                 └── connect anew ◄───────┘          again and again, until it is another
//!                     joined there: leave retiring    proxy and that one has answered
//! ```

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use pias_protocol::{
    agent::{AgentMessage, JapMessage, RefusalCode},
    group::GroupKey,
    time::Time,
};

use crate::{
    backoff::Backoff,
    event::{Event, EventKind, Observer},
    health::Health,
    limits::{
        BACKOFF_MAX, BACKOFF_MIN, CONNECT_TIMEOUT, HANDOVER_BACKOFF_MAX, REJOIN_TIMEOUT,
        STABLE_AFTER,
    },
    session::{Output, Session, Wish},
    target::Target,
};

/// A connection's number; never used again.
pub(crate) type ConnectionId = u64;

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Open a connection, and give up after `within`.
    Connect { id: ConnectionId, within: Duration },
    /// Send this on it.
    Send(ConnectionId, AgentMessage),
    /// Flush it and close it.
    Close(ConnectionId),
}

/// How a registration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The application wished so.
    Left,
    /// Every group was refused for good.
    Refused,
    /// No proxy answered the first attempt, and the agent was told to fail fast.
    Unreachable,
}

/// A membership that the application wants.
#[derive(Clone, Debug)]
pub(crate) struct MemberSpec {
    pub(crate) group: GroupKey,
    pub(crate) target: Target,
    pub(crate) weight: u32,
}

#[derive(Debug)]
struct Member {
    spec: MemberSpec,
    health: Health,
    /// The last verdict that the application was told.
    announced: Option<bool>,
    route: Option<IpAddr>,
    /// On which connection it is joined.
    joined: Option<ConnectionId>,
    was_joined: bool,
    /// Refused for good.
    given_up: bool,
    /// Refused, but asked for again then.
    ask_again_at: Option<Time>,
    refusals: Backoff,
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    /// `None` while connecting.
    session: Option<Session>,
    since: Time,
}

/// The state of all memberships at one address.
#[derive(Debug)]
pub(crate) struct Registration {
    members: Vec<Member>,
    fail_fast: bool,
    current: Option<Link>,
    retiring: Option<Link>,
    next_id: ConnectionId,
    connect_at: Option<Time>,
    backoff: Backoff,
    handover: Backoff,
    /// Whether the next loss is answered without a wait.
    free_rejoin: bool,
    ever_connected: bool,
    end: Option<End>,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
}

impl Registration {
    /// Memberships to be had, and their health as known so far. Connects at once.
    pub(crate) fn new(
        members: Vec<(MemberSpec, Health)>,
        fail_fast: bool,
        seed: u64,
        now: Time,
    ) -> Self {
        let backoff = |salt: u64| Backoff::new(BACKOFF_MIN, BACKOFF_MAX, seed.wrapping_add(salt));
        let members = members.into_iter().zip(2..).map(|((spec, health), salt)| Member {
            spec,
            announced: health.verdict(),
            health,
            route: None,
            joined: None,
            was_joined: false,
            given_up: false,
            ask_again_at: None,
            refusals: backoff(salt),
        });
        let mut registration = Self {
            members: members.collect(),
            fail_fast,
            current: None,
            retiring: None,
            next_id: 0,
            connect_at: None,
            backoff: backoff(0),
            handover: Backoff::new(BACKOFF_MIN, HANDOVER_BACKOFF_MAX, seed.wrapping_add(1)),
            free_rejoin: true,
            ever_connected: false,
            end: None,
            commands: VecDeque::new(),
            events: VecDeque::new(),
        };
        registration.connect(CONNECT_TIMEOUT, now);
        registration
    }

    /// How it ended, if it has.
    pub(crate) const fn end(&self) -> Option<End> {
        self.end
    }

    /// What to do next.
    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// What to tell the application next.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let links = self.current.iter().chain(&self.retiring);
        let sessions = links.filter_map(|link| link.session.as_ref()?.deadline());
        let refused = self.members.iter().filter_map(|member| member.ask_again_at);
        sessions.chain(refused).chain(self.connect_at).min()
    }

    /// A connection stands; the route to the address leaves from `route`.
    pub(crate) fn handle_connected(&mut self, id: ConnectionId, route: IpAddr, now: Time) {
        let Some(link) = self.current.as_mut().filter(|link| link.id == id) else { return };
        self.ever_connected = true;
        let mut wishes = Vec::with_capacity(self.members.len());
        for (member, number) in self.members.iter_mut().zip(0..) {
            member.route = Some(route);
            if !member.given_up {
                wishes.push(member.wish(number, route));
            }
        }
        link.since = now;
        link.session = Some(Session::new(wishes, now));
        self.pump(id, now);
    }

    /// The proxy said something.
    pub(crate) fn handle_message(&mut self, id: ConnectionId, message: JapMessage, now: Time) {
        if let Some(session) = self.session(id) {
            session.handle_message(message, now);
            self.pump(id, now);
        }
    }

    /// A connection could not be made, or is gone.
    pub(crate) fn handle_lost(&mut self, id: ConnectionId, reason: &str, now: Time) {
        if self.end.is_some() {
            return;
        }
        if self.retiring.take_if(|link| link.id == id).is_some() {
            self.lose_members(id, reason);
            // Time is no longer on our side: do not wait out the handover's pause.
            if self.connect_at.is_some() {
                self.connect(REJOIN_TIMEOUT, now);
            }
        } else if let Some(link) = self.current.take_if(|link| link.id == id) {
            self.fall_back_from(id);
            self.lose_members(id, reason);
            self.reconnect(&link, reason, now);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.end.is_some() {
            return;
        }
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect(CONNECT_TIMEOUT, now);
        }
        if let Some(link) = &mut self.current
            && let Some(session) = &mut link.session
        {
            for (member, number) in self.members.iter_mut().zip(0..) {
                if member.ask_again_at.take_if(|at| *at <= now).is_some() {
                    session.ask_again(number, now);
                }
            }
        }
        for id in self.ids() {
            if let Some(session) = self.session(id) {
                session.handle_timeout(now);
                self.pump(id, now);
            }
        }
    }

    /// This host's view of one target changed.
    pub(crate) fn set_health(&mut self, number: u32, health: Health, now: Time) {
        let Some(member) = self.members.get_mut(number as usize) else { return };
        if self.end.is_some() {
            return;
        }
        let (up, reason) = (health.is_up(), health.reason());
        let verdict = health.verdict();
        member.health = health;
        if verdict.is_some() && member.announced != verdict {
            member.announced = verdict;
            let by = Observer::Agent;
            let kind =
                if up { EventKind::TargetUp { by } } else { EventKind::TargetDown { by, reason } };
            self.tell(number, kind);
        }
        for id in self.ids() {
            if let Some(session) = self.session(id) {
                session.set_healthy(number, up);
                self.pump(id, now);
            }
        }
    }

    /// Ends everything that the application wanted.
    pub(crate) fn leave(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(End::Left);
        for number in self.numbers() {
            let member = &mut self.members[number as usize];
            if member.joined.take().is_some() {
                self.tell(number, EventKind::Left);
            }
        }
        self.close_all();
    }

    fn numbers(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.members.len()).expect("at most MAX_GROUPS members")
    }

    fn ids(&self) -> Vec<ConnectionId> {
        self.current.iter().chain(&self.retiring).map(|link| link.id).collect()
    }

    fn session(&mut self, id: ConnectionId) -> Option<&mut Session> {
        let mut links = self.current.iter_mut().chain(&mut self.retiring);
        links.find(|link| link.id == id)?.session.as_mut()
    }

    fn is_current(&self, id: ConnectionId) -> bool {
        self.current.as_ref().is_some_and(|link| link.id == id)
    }

    fn connect(&mut self, within: Duration, now: Time) {
        self.connect_at = None;
        for member in &mut self.members {
            // A new connection asks for everything anyway.
            member.ask_again_at = None;
        }
        self.next_id += 1;
        let id = self.next_id;
        self.current = Some(Link { id, session: None, since: now });
        self.commands.push_back(Command::Connect { id, within });
    }

    /// Carries out what a session wants, until it wants nothing more.
    fn pump(&mut self, id: ConnectionId, now: Time) {
        while let Some(output) = self.session(id).and_then(Session::poll) {
            match output {
                Output::Send(message) => self.commands.push_back(Command::Send(id, message)),
                Output::Welcomed => self.on_welcomed(id, now),
                Output::Joined { member, rtt, lease } => self.on_joined(id, member, rtt, lease),
                Output::Refused { member, code, reason } => {
                    self.on_refused(id, member, code, reason, now);
                }
                Output::TargetChange { member, up, reason } => {
                    let by = Observer::Proxy;
                    self.tell(
                        member,
                        match up {
                            true => EventKind::TargetUp { by },
                            false => EventKind::TargetDown { by, reason },
                        },
                    );
                }
                Output::Draining { closes_in } => self.on_draining(id, closes_in, now),
                Output::Broken(error) => {
                    self.commands.push_back(Command::Close(id));
                    self.handle_lost(id, &error.to_string(), now);
                }
            }
        }
        self.finish_handover(now);
    }

    fn on_welcomed(&mut self, id: ConnectionId, now: Time) {
        let name =
            |link: &Option<Link>| Some(link.as_ref()?.session.as_ref()?.proxy()?.proxy.clone());
        // Routing still leads to the proxy that drains.
        if self.is_current(id)
            && self.retiring.is_some()
            && name(&self.retiring) == name(&self.current)
        {
            self.try_handover_later(now);
        }
    }

    fn on_joined(&mut self, id: ConnectionId, number: u32, rtt: Duration, lease: Duration) {
        let proxy = self.session(id).and_then(|session| session.proxy().cloned());
        let (Some(member), Some(welcome)) = (self.members.get_mut(number as usize), proxy) else {
            return;
        };
        member.joined = Some(id);
        member.was_joined = true;
        member.refusals.reset();
        let (proxy, cluster) = (welcome.proxy, welcome.cluster);
        self.tell(number, EventKind::Joined { proxy, cluster, rtt, lease });
    }

    fn on_refused(
        &mut self,
        id: ConnectionId,
        number: u32,
        code: RefusalCode,
        reason: String,
        now: Time,
    ) {
        if self.is_current(id) && self.retiring.is_some() {
            // The membership is still held by the draining proxy: keep it, and try again.
            return self.try_handover_later(now);
        }
        let Some(member) = self.members.get_mut(number as usize) else { return };
        // All proxies know the same prefixes, so what one refuses to a newcomer, all refuse. But
        // a full proxy empties, and a member that once was welcome is not lost to a proxy whose
        // configuration is being changed.
        let for_good = !member.was_joined && (self.fail_fast || code != RefusalCode::Full);
        let retry_in = if for_good { None } else { Some(member.refusals.next()) };
        member.given_up = for_good;
        member.ask_again_at = retry_in.map(|wait| now + wait);
        self.tell(number, EventKind::Refused { code, reason, retry_in });
        if self.members.iter().all(|member| member.given_up) {
            self.end = Some(End::Refused);
            self.close_all();
        }
    }

    fn on_draining(&mut self, id: ConnectionId, closes_in: Duration, now: Time) {
        if !self.is_current(id) {
            return;
        }
        if self.retiring.is_some() {
            return self.try_handover_later(now);
        }
        self.retiring = self.current.take();
        self.handover.reset();
        for number in self.numbers() {
            if self.members[number as usize].joined == Some(id) {
                self.tell(number, EventKind::Draining { closes_in });
            }
        }
        self.connect(REJOIN_TIMEOUT, now);
    }

    /// Gives up the current connection, which led nowhere, and tries another soon.
    fn try_handover_later(&mut self, now: Time) {
        let Some(link) = self.current.take() else { return };
        self.commands.push_back(Command::Close(link.id));
        self.fall_back_from(link.id);
        self.connect_at = Some(now + self.handover.next());
    }

    /// What a failed handover joined goes back to the draining proxy, which still holds it.
    fn fall_back_from(&mut self, id: ConnectionId) {
        let Some(retiring) = &self.retiring else { return };
        for member in self.members.iter_mut().filter(|member| member.joined == Some(id)) {
            member.joined = Some(retiring.id);
        }
    }

    /// Leaves the draining proxy once another has taken everything over.
    fn finish_handover(&mut self, now: Time) {
        let settled = |link: &Link| link.session.as_ref().is_some_and(Session::is_settled);
        if !self.current.as_ref().is_some_and(settled) {
            return;
        }
        if let Some(mut old) = self.retiring.take() {
            old.leave(&mut self.commands);
            tracing::debug!(connection = old.id, after = ?(now - old.since), "handed over");
        }
    }

    fn reconnect(&mut self, lost: &Link, reason: &str, now: Time) {
        if self.fail_fast && !self.ever_connected {
            for number in self.numbers() {
                self.tell(number, EventKind::Lost { reason: reason.to_owned() });
            }
            self.end = Some(End::Unreachable);
            return;
        }
        if self.retiring.is_some() {
            self.connect_at = Some(now + self.handover.next());
            return;
        }
        if lost.session.is_some() && now - lost.since >= STABLE_AFTER {
            self.backoff.reset();
            self.free_rejoin = true;
        }
        let was_joined = self.members.iter().any(|member| member.was_joined);
        let after = if was_joined && std::mem::take(&mut self.free_rejoin) {
            Duration::ZERO
        } else {
            self.backoff.next()
        };
        for number in self.numbers() {
            if !self.members[number as usize].given_up {
                self.tell(number, EventKind::Rejoining { after, reason: reason.to_owned() });
            }
        }
        if after.is_zero() {
            self.connect(REJOIN_TIMEOUT, now);
        } else {
            self.connect_at = Some(now + after);
        }
    }

    fn lose_members(&mut self, id: ConnectionId, reason: &str) {
        for number in self.numbers() {
            let member = &mut self.members[number as usize];
            member.ask_again_at = None;
            if member.joined.take_if(|joined| *joined == id).is_some() {
                self.tell(number, EventKind::Lost { reason: reason.to_owned() });
            }
        }
    }

    fn close_all(&mut self) {
        self.connect_at = None;
        for mut link in self.current.take().into_iter().chain(self.retiring.take()) {
            link.leave(&mut self.commands);
        }
    }

    fn tell(&mut self, number: u32, kind: EventKind) {
        let Some(member) = self.members.get(number as usize) else { return };
        let Member { spec: MemberSpec { group, target, .. }, route, .. } = member;
        let route = route.or(target.address());
        let target = route.map(|route| target.complete(group, route));
        self.events.push_back(Event { group: *group, target, kind });
    }
}

impl Member {
    fn wish(&self, number: u32, route: IpAddr) -> Wish {
        let MemberSpec { group, target, weight } = self.spec;
        let target = target.complete(&group, route);
        Wish { member: number, group, target, weight, healthy: self.health.is_up() }
    }
}

impl Link {
    fn leave(&mut self, commands: &mut VecDeque<Command>) {
        if let Some(session) = &mut self.session {
            session.leave();
            while let Some(output) = session.poll() {
                if let Output::Send(message) = output {
                    commands.push_back(Command::Send(self.id, message));
                }
            }
        }
        commands.push_back(Command::Close(self.id));
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::{
        agent::{Draining, Joined, Refused, Welcome},
        ids::TargetId,
    };

    use super::*;
    use crate::health::CheckState;

    const START: Time = Time::ZERO;

    fn ms(milliseconds: u64) -> Time {
        START + Duration::from_millis(milliseconds)
    }

    fn route() -> IpAddr {
        "10.0.0.2".parse().unwrap()
    }

    fn registration(groups: &[&str]) -> Registration {
        let member = |group: &&str| {
            let spec =
                MemberSpec { group: group.parse().unwrap(), target: Target::default(), weight: 1 };
            (spec, Health { application: true, check: CheckState::Absent })
        };
        Registration::new(groups.iter().map(member).collect(), false, 1, START)
    }

    fn one() -> Registration {
        registration(&["203.0.113.10:53/udp"])
    }

    fn commands(registration: &mut Registration) -> Vec<Command> {
        std::iter::from_fn(|| registration.poll_command()).collect()
    }

    fn kinds(registration: &mut Registration) -> Vec<EventKind> {
        std::iter::from_fn(|| registration.poll_event()).map(|event| event.kind).collect()
    }

    fn welcome(proxy: &str) -> JapMessage {
        Welcome { proxy: proxy.into(), cluster: "fra".into() }.into()
    }

    fn granted() -> JapMessage {
        Joined { request: 0, lease: TargetId(1), keep_alive_ms: 60_000, lease_ms: 5_000 }.into()
    }

    /// Brings connection `id` up to a membership through `proxy`.
    fn join(registration: &mut Registration, id: ConnectionId, proxy: &str, now: Time) {
        registration.handle_connected(id, route(), now);
        registration.handle_message(id, welcome(proxy), now);
        registration.handle_message(id, granted(), now);
    }

    fn rejoins(registration: &mut Registration) -> Vec<Duration> {
        let kinds = kinds(registration).into_iter();
        let after = kinds.filter_map(|kind| match kind {
            EventKind::Rejoining { after, .. } => Some(after),
            _ => None,
        });
        after.collect()
    }

    #[test]
    fn the_first_loss_is_answered_at_once_and_a_flapping_proxy_is_not() {
        let mut registration = one();
        join(&mut registration, 1, "fra1", ms(10));
        registration.handle_lost(1, "reset", ms(20));
        assert_eq!(rejoins(&mut registration), [Duration::ZERO]);
        let connect = Command::Connect { id: 2, within: REJOIN_TIMEOUT };
        assert_eq!(commands(&mut registration).last(), Some(&connect));
        join(&mut registration, 2, "fra2", ms(30));
        registration.handle_lost(2, "reset", ms(40));
        let wait = rejoins(&mut registration)[0];
        assert!(wait >= BACKOFF_MIN / 2, "{wait:?}");
        assert_eq!(registration.deadline(), Some(ms(40) + wait));
        registration.handle_timeout(ms(40) + wait);
        // After a while of peace, a loss is worth an immediate answer again.
        join(&mut registration, 3, "fra2", ms(1_000));
        registration.handle_lost(3, "reset", ms(1_000) + STABLE_AFTER);
        assert_eq!(rejoins(&mut registration), [Duration::ZERO]);
    }

    #[test]
    fn attempts_go_on_for_ever_with_longer_waits() {
        let mut registration = one();
        let mut now = START;
        for id in 1..100 {
            registration.handle_lost(id, "no answer", now);
            now = registration.deadline().expect("another attempt");
            registration.handle_timeout(now);
            assert_eq!(registration.end(), None);
        }
        let last = *rejoins(&mut registration).last().unwrap();
        assert!(last >= BACKOFF_MAX / 2 && last <= BACKOFF_MAX, "{last:?}");
    }

    #[test]
    fn nothing_is_due_while_a_connection_is_being_made() {
        let mut registration = one();
        assert_eq!(registration.deadline(), None);
        join(&mut registration, 1, "fra1", ms(10));
        let refused = |registration: &mut Registration, now| {
            let (code, reason) = (RefusalCode::Full, String::new());
            registration.handle_message(1, Refused { request: 0, code, reason }.into(), now);
        };
        registration.handle_lost(1, "reset", ms(20));
        refused(&mut registration, ms(21));
        assert_eq!(registration.deadline(), None, "a lost connection's words are not heard");
    }

    #[test]
    fn a_member_that_was_welcome_once_is_asked_for_again_whatever_the_refusal() {
        let mut registration = one();
        join(&mut registration, 1, "fra1", ms(10));
        registration.handle_lost(1, "reset", ms(20));
        registration.handle_connected(2, route(), ms(30));
        registration.handle_message(2, welcome("fra2"), ms(30));
        let (code, reason) = (RefusalCode::NotAnycast, "no".to_owned());
        registration.handle_message(2, Refused { request: 0, code, reason }.into(), ms(31));
        assert_eq!(registration.end(), None);
        commands(&mut registration);
        let due = registration.deadline().unwrap();
        registration.handle_timeout(due);
        let asked = commands(&mut registration);
        assert!(matches!(asked[..], [Command::Send(2, AgentMessage::Join(_))]), "{asked:?}");
    }

    #[test]
    fn a_handover_that_fails_leaves_the_membership_with_the_draining_proxy() {
        let mut registration = one();
        join(&mut registration, 1, "fra1", ms(10));
        registration.handle_message(1, Draining { closes_in_ms: 5_000 }.into(), ms(20));
        // The next proxy is lost before it has granted anything.
        registration.handle_connected(2, route(), ms(30));
        registration.handle_lost(2, "reset", ms(40));
        let seen = kinds(&mut registration);
        assert!(!seen.iter().any(|kind| matches!(kind, EventKind::Lost { .. })), "{seen:?}");
        registration.handle_timeout(registration.deadline().unwrap());
        join(&mut registration, 3, "fra2", ms(600));
        let done = commands(&mut registration);
        let left = Command::Send(1, pias_protocol::agent::Leave { lease: TargetId(1) }.into());
        assert!(done.ends_with(&[left, Command::Close(1)]), "{done:?}");
        registration.handle_lost(1, "closed", ms(700));
        let seen = kinds(&mut registration);
        assert!(!seen.iter().any(|kind| matches!(kind, EventKind::Lost { .. })), "{seen:?}");
    }

    #[test]
    fn a_check_without_a_result_joins_as_down_and_says_nothing() {
        let spec = MemberSpec {
            group: "203.0.113.10:53/udp".parse().unwrap(),
            target: Target::default(),
            weight: 1,
        };
        let health = |check| Health { application: true, check };
        let members = vec![(spec, health(CheckState::Unknown))];
        let mut registration = Registration::new(members, false, 1, START);
        registration.handle_connected(1, route(), ms(10));
        let asked = commands(&mut registration);
        let Some(Command::Send(1, AgentMessage::Join(join))) = asked.last() else { panic!() };
        assert!(!join.healthy);
        assert_eq!(kinds(&mut registration), []);
        registration.set_health(0, health(CheckState::Up), ms(20));
        let up = EventKind::TargetUp { by: Observer::Agent };
        assert_eq!(kinds(&mut registration), std::slice::from_ref(&up));
        registration.set_health(0, health(CheckState::Up), ms(30));
        assert_eq!(kinds(&mut registration), [], "told once");
    }

    #[test]
    fn leaving_ends_every_membership_and_connection() {
        let mut registration = one();
        join(&mut registration, 1, "fra1", ms(10));
        kinds(&mut registration);
        commands(&mut registration);
        registration.leave();
        assert_eq!(registration.end(), Some(End::Left));
        assert_eq!(kinds(&mut registration), [EventKind::Left]);
        let done = commands(&mut registration);
        assert!(matches!(done[..], [Command::Send(1, AgentMessage::Leave(_)), Command::Close(1)]));
    }
}
