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

mod link;
mod member;

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use pias_protocol::{
    agent::{AgentMessage, JapMessage, RefusalCode},
    time::Time,
};

pub(crate) use self::member::MemberSpec;
use self::{
    link::{Link, Links},
    member::Member,
};
use crate::{
    backoff::Backoff,
    event::{Event, EventKind, Observer},
    health::Health,
    limits::{
        BACKOFF_MAX, BACKOFF_MIN, CONNECT_TIMEOUT, HANDOVER_BACKOFF_MAX, REJOIN_TIMEOUT,
        RESET_SPREAD, STABLE_AFTER,
    },
    session::{Output, Session},
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

/// The state of all memberships at one address.
#[derive(Debug)]
pub(crate) struct Registration {
    members: Vec<Member>,
    fail_fast: bool,
    links: Links,
    connect_at: Option<Time>,
    backoff: Backoff,
    handover: Backoff,
    /// Whether the next loss is answered without a wait.
    free_rejoin: bool,
    /// Whether the next attempt is the one right after a loss.
    rejoins: bool,
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
        let members = members
            .into_iter()
            .zip(2..)
            .map(|((spec, health), salt)| Member::new(spec, health, backoff(salt)));
        let mut registration = Self {
            members: members.collect(),
            fail_fast,
            links: Links::default(),
            connect_at: None,
            backoff: backoff(0),
            handover: Backoff::new(BACKOFF_MIN, HANDOVER_BACKOFF_MAX, seed.wrapping_add(1)),
            free_rejoin: true,
            rejoins: false,
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
        let refused = self.members.iter().filter_map(|member| member.ask_again_at);
        refused.chain(self.links.deadline()).chain(self.connect_at).min()
    }

    /// A connection stands; the route to the address leaves from `route`.
    pub(crate) fn handle_connected(&mut self, id: ConnectionId, route: IpAddr, now: Time) {
        let Some(link) = self.links.current.as_mut().filter(|link| link.id == id) else { return };
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
        if let Some(session) = self.links.session(id) {
            session.handle_message(message, now);
            self.pump(id, now);
        }
    }

    /// A connection could not be made, or is gone.
    pub(crate) fn handle_lost(&mut self, id: ConnectionId, reason: &str, now: Time) {
        self.lose(id, reason, Duration::ZERO, now);
    }

    /// A connection was reset, as those of many other agents may have been at this moment.
    pub(crate) fn handle_reset(&mut self, id: ConnectionId, reason: &str, now: Time) {
        self.lose(id, reason, RESET_SPREAD, now);
    }

    /// A connection is lost; a re-join without further wait begins within `spread`.
    fn lose(&mut self, id: ConnectionId, reason: &str, spread: Duration, now: Time) {
        if self.end.is_some() {
            return;
        }
        if self.links.retiring.take_if(|link| link.id == id).is_some() {
            self.lose_members(id, reason);
            // Time is no longer on our side: do not wait out the handover's pause.
            if self.connect_at.is_some() {
                self.connect(REJOIN_TIMEOUT, now);
            }
        } else if let Some(link) = self.links.current.take_if(|link| link.id == id) {
            self.fall_back_from(id);
            self.lose_members(id, reason);
            self.reconnect(&link, reason, spread, now);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.end.is_some() {
            return;
        }
        if self.connect_at.is_some_and(|at| at <= now) {
            let within = if self.rejoins { REJOIN_TIMEOUT } else { CONNECT_TIMEOUT };
            self.connect(within, now);
        }
        if let Some(link) = &mut self.links.current
            && let Some(session) = &mut link.session
        {
            for (member, number) in self.members.iter_mut().zip(0..) {
                if member.ask_again_at.take_if(|at| *at <= now).is_some() {
                    session.ask_again(number, now);
                }
            }
        }
        for id in self.links.ids() {
            if let Some(session) = self.links.session(id) {
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
        let up = health.is_up();
        if let Some(kind) = member.set_health(health) {
            self.tell(number, kind);
        }
        for id in self.links.ids() {
            if let Some(session) = self.links.session(id) {
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

    fn connect(&mut self, within: Duration, now: Time) {
        self.connect_at = None;
        self.rejoins = false;
        for member in &mut self.members {
            // A new connection asks for everything anyway.
            member.ask_again_at = None;
        }
        let id = self.links.connect(now);
        self.commands.push_back(Command::Connect { id, within });
    }

    /// Carries out what a session wants, until it wants nothing more.
    fn pump(&mut self, id: ConnectionId, now: Time) {
        while let Some(output) = self.links.session(id).and_then(Session::poll) {
            match output {
                Output::Send(message) => self.commands.push_back(Command::Send(id, message)),
                Output::Welcomed => self.on_welcomed(id, now),
                Output::Joined { member, rtt, lease } => self.on_joined(id, member, rtt, lease),
                Output::Refused { member, code, reason } => {
                    self.on_refused(id, member, code, reason, now);
                }
                Output::TargetChange { member, up, reason } => {
                    self.tell(member, EventKind::target(up, Observer::Proxy, reason));
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
        if self.links.is_current(id) && self.links.lead_to_one_proxy() {
            // Routing still leads to the proxy that drains.
            self.try_handover_later(now);
        }
    }

    fn on_joined(&mut self, id: ConnectionId, number: u32, rtt: Duration, lease: Duration) {
        let proxy = self.links.session(id).and_then(|session| session.proxy().cloned());
        let (Some(member), Some(welcome)) = (self.members.get_mut(number as usize), proxy) else {
            return;
        };
        member.set_joined(id);
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
        if self.links.is_current(id) && self.links.retiring.is_some() {
            // The membership is still held by the draining proxy: keep it, and try again.
            return self.try_handover_later(now);
        }
        let Some(member) = self.members.get_mut(number as usize) else { return };
        let retry_in = member.set_refused(code, self.fail_fast, now);
        self.tell(number, EventKind::Refused { code, reason, retry_in });
        if self.members.iter().all(|member| member.given_up) {
            self.end = Some(End::Refused);
            self.close_all();
        }
    }

    fn on_draining(&mut self, id: ConnectionId, closes_in: Duration, now: Time) {
        if !self.links.is_current(id) {
            return;
        }
        if self.links.retiring.is_some() {
            return self.try_handover_later(now);
        }
        self.links.retiring = self.links.current.take();
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
        let Some(link) = self.links.current.take() else { return };
        self.commands.push_back(Command::Close(link.id));
        self.fall_back_from(link.id);
        self.connect_at = Some(now + self.handover.next());
    }

    /// What a failed handover joined goes back to the draining proxy, which still holds it.
    fn fall_back_from(&mut self, id: ConnectionId) {
        let Some(retiring) = &self.links.retiring else { return };
        for member in self.members.iter_mut().filter(|member| member.joined == Some(id)) {
            member.joined = Some(retiring.id);
        }
    }

    /// Leaves the draining proxy once another has taken everything over.
    fn finish_handover(&mut self, now: Time) {
        if self.links.is_settled()
            && let Some(mut old) = self.links.retiring.take()
        {
            old.leave(&mut self.commands);
            tracing::debug!(connection = old.id, after = ?(now - old.since), "handed over");
        }
    }

    fn reconnect(&mut self, lost: &Link, reason: &str, spread: Duration, now: Time) {
        if self.fail_fast && !self.ever_connected {
            for number in self.numbers() {
                self.tell(number, EventKind::Lost { reason: reason.to_owned() });
            }
            self.end = Some(End::Unreachable);
            return;
        }
        if self.links.retiring.is_some() {
            self.connect_at = Some(now + self.handover.next());
            return;
        }
        if lost.session.is_some() && now - lost.since >= STABLE_AFTER {
            self.backoff.reset();
            self.free_rejoin = true;
        }
        let was_joined = self.members.iter().any(|member| member.was_joined);
        self.rejoins = was_joined && std::mem::take(&mut self.free_rejoin);
        let after = if self.rejoins { self.backoff.spread(spread) } else { self.backoff.next() };
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
        for mut link in self.links.take_all() {
            link.leave(&mut self.commands);
        }
    }

    fn tell(&mut self, number: u32, kind: EventKind) {
        let Some(member) = self.members.get(number as usize) else { return };
        self.events.push_back(member.event(kind));
    }
}

#[cfg(test)]
mod tests;
