//! One membership: what the application wants, how far it is, and what the application knows of it.

use std::{net::IpAddr, time::Duration};

use pias_protocol::{agent::RefusalCode, group::GroupKey, time::Time};

use super::ConnectionId;
use crate::{
    backoff::Backoff,
    event::{Event, EventKind, Observer},
    health::Health,
    session::Wish,
    target::Target,
};

/// A membership that the application wants.
#[derive(Clone, Debug)]
pub(crate) struct MemberSpec {
    pub(crate) group: GroupKey,
    pub(crate) target: Target,
    pub(crate) weight: u32,
}

/// A membership on its way.
#[derive(Debug)]
pub(super) struct Member {
    spec: MemberSpec,
    health: Health,
    /// The last verdict that the application was told.
    announced: Option<bool>,
    /// The address from which the route to the group last left.
    pub(super) route: Option<IpAddr>,
    /// On which connection it is joined.
    pub(super) joined: Option<ConnectionId>,
    pub(super) was_joined: bool,
    /// Refused for good.
    pub(super) given_up: bool,
    /// Refused, but asked for again then.
    pub(super) ask_again_at: Option<Time>,
    refusals: Backoff,
}

impl Member {
    /// A membership that nobody was asked for yet.
    pub(super) fn new(spec: MemberSpec, health: Health, refusals: Backoff) -> Self {
        Self {
            spec,
            announced: health.verdict(),
            health,
            route: None,
            joined: None,
            was_joined: false,
            given_up: false,
            ask_again_at: None,
            refusals,
        }
    }

    /// What a session is to ask for, as the `number`-th membership, from a host that is reached
    /// at `route`.
    pub(super) fn wish(&self, number: u32, route: IpAddr) -> Wish {
        let MemberSpec { group, target, weight } = self.spec;
        let target = target.complete(&group, route);
        Wish { member: number, group, target, weight, healthy: self.health.is_up() }
    }

    /// What happened to it, in the application's words.
    pub(super) fn event(&self, kind: EventKind) -> Event {
        let MemberSpec { group, target, .. } = self.spec;
        let route = self.route.or(target.address());
        Event { group, target: route.map(|route| target.complete(&group, route)), kind }
    }

    /// This host's view of the target. Returns what the application is to hear, if that is news.
    pub(super) fn set_health(&mut self, health: Health) -> Option<EventKind> {
        self.health = health;
        let verdict = self.health.verdict();
        if verdict.is_none() || self.announced == verdict {
            return None;
        }
        self.announced = verdict;
        Some(EventKind::target(self.health.is_up(), Observer::Agent, self.health.reason()))
    }

    /// A proxy took it in.
    pub(super) const fn set_joined(&mut self, id: ConnectionId) {
        self.joined = Some(id);
        self.was_joined = true;
        self.refusals.reset();
    }

    /// A proxy refused it. Returns after how long it is asked for again; `None` for never.
    ///
    /// All proxies know the same prefixes, so what one refuses to a newcomer, all refuse. But a
    /// full proxy empties, and a member that once was welcome is not lost to a proxy whose
    /// configuration is being changed.
    pub(super) fn set_refused(
        &mut self,
        code: RefusalCode,
        fail_fast: bool,
        now: Time,
    ) -> Option<Duration> {
        self.given_up = !self.was_joined && (fail_fast || code != RefusalCode::Full);
        let retry_in = if self.given_up { None } else { Some(self.refusals.next()) };
        self.ask_again_at = retry_in.map(|wait| now + wait);
        retry_in
    }
}
