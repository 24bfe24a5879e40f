//! The agent that applications embed: a builder, and a handle to what it started.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr};

use pias_protocol::{PIAS_PORT, group::GroupKey};
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
    task::JoinSet,
};

use crate::{
    check::Watch,
    driver::Driver,
    event::{Event, Events},
    group::{Group, GroupError},
    health::{CheckState, Health, HealthBoard},
    limits::{EVENT_QUEUE, MAX_GROUPS},
    registration::{End, MemberSpec},
    tls::{self, TlsError},
};

/// Why an agent did not start. All of them are mistakes of the caller; what the network does comes
/// as events.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No certificate authority, or one of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A group that no proxy would grant.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The same group twice.
    #[error("{0} is asked for twice: a process is one target of a group")]
    Duplicate(GroupKey),
    /// Nothing to join.
    #[error("no group to join")]
    NoGroup,
    /// More than [`MAX_GROUPS`].
    #[error("{0} groups, at most {MAX_GROUPS} are taken: start several agents")]
    TooManyGroups(usize),
    /// Called outside of a tokio runtime.
    #[error("the agent needs a tokio runtime around it")]
    NoRuntime,
}

/// Collects what an agent needs.
#[derive(Debug)]
#[must_use = "nothing is joined before `start`"]
pub struct AgentBuilder {
    authority: Vec<u8>,
    groups: Result<Vec<Group>, GroupError>,
    port: u16,
    fail_fast: bool,
}

impl AgentBuilder {
    /// The operator's certificate authority in PEM: only proxies that it vouches for are spoken to.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = pem.into();
        self
    }

    /// A group to join: a [`Group`], or its text such as `"203.0.113.10:53/udp"`.
    pub fn group<G>(mut self, group: G) -> Self
    where
        G: TryInto<Group>,
        GroupError: From<G::Error>,
    {
        self.groups = self.groups.and_then(|mut groups| {
            groups.push(group.try_into()?);
            Ok(groups)
        });
        self
    }

    /// The proxies' port of registration, 7427 by default.
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Ends with [`End::Unreachable`] when the first attempt finds no proxy, and takes a full
    /// proxy's refusal for final, instead of trying for ever.
    pub const fn fail_fast(mut self, yes: bool) -> Self {
        self.fail_fast = yes;
        self
    }

    /// Starts to join, in the background.
    ///
    /// # Errors
    /// As [`StartError`] tells.
    pub fn start(self) -> Result<Agent, StartError> {
        let groups = self.groups?;
        let addresses = by_address(&groups)?;
        let tls = tls::client(&self.authority)?;
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let (events, receiver) = broadcast::channel(EVENT_QUEUE);
        let (leave, leave_receiver) = watch::channel(false);
        let mut memberships = Vec::new();
        let (mut drivers, mut checks) = (JoinSet::new(), JoinSet::new());
        for (address, groups) in addresses {
            let plan = plan(&groups);
            let (board, health) = HealthBoard::new(plan.health);
            for (spec, number) in plan.members.iter().zip(0..) {
                memberships.push(Membership { group: spec.group, number, board: board.clone() });
            }
            for (group, members) in plan.checked {
                if let Some(watch) = watch_of(group, members, board.clone()) {
                    checks.spawn_on(watch.run(), &runtime);
                }
            }
            let driver = Driver {
                proxy: SocketAddr::new(address, self.port),
                tls: tls.clone(),
                members: plan.members,
                fail_fast: self.fail_fast,
                health,
                events: events.clone(),
                leave: leave_receiver.clone(),
            };
            drivers.spawn_on(driver.run(), &runtime);
        }
        let (ended, end) = watch::channel(None);
        runtime.spawn(supervise(drivers, checks, leave.clone(), ended));
        Ok(Agent { events: Events::new(receiver), memberships, leave, end })
    }
}

/// What one address is asked for.
struct Plan<'a> {
    members: Vec<MemberSpec>,
    health: Vec<Health>,
    /// The groups with a check, and the numbers of their members.
    checked: Vec<(&'a Group, Vec<u32>)>,
}

fn plan<'a>(groups: &[&'a Group]) -> Plan<'a> {
    let mut plan = Plan { members: Vec::new(), health: Vec::new(), checked: Vec::new() };
    for group in groups {
        let first = plan.members.len() as u32;
        let check = if group.check.is_some() { CheckState::Unknown } else { CheckState::Absent };
        for key in group.keys() {
            let spec = MemberSpec { group: key, target: group.target, weight: group.weight };
            plan.members.push(spec);
            plan.health.push(Health { application: true, check: check.clone() });
        }
        plan.checked.push((group, (first..plan.members.len() as u32).collect()));
    }
    plan
}

fn watch_of(group: &Group, members: Vec<u32>, board: HealthBoard) -> Option<Watch> {
    let (check, key) = (group.check.clone()?, group.keys().next()?);
    let (timing, target) = (group.timing, group.target);
    Some(Watch { check, timing, group: key, target, members, board })
}

fn by_address(groups: &[Group]) -> Result<BTreeMap<IpAddr, Vec<&Group>>, StartError> {
    let mut keys = std::collections::BTreeSet::new();
    let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for group in groups {
        group.validate()?;
        for key in group.keys() {
            if !keys.insert(key) {
                return Err(StartError::Duplicate(key));
            }
        }
        addresses.entry(group.socket.ip()).or_default().push(group);
    }
    match keys.len() {
        0 => Err(StartError::NoGroup),
        count if count > MAX_GROUPS => Err(StartError::TooManyGroups(count)),
        _ => Ok(addresses),
    }
}

/// Waits for all addresses to end. One that is unreachable with `fail_fast` ends the others.
async fn supervise(
    mut drivers: JoinSet<End>,
    mut checks: JoinSet<()>,
    leave: watch::Sender<bool>,
    ended: watch::Sender<Option<End>>,
) {
    let mut total = None;
    while let Some(end) = drivers.join_next().await {
        // A driver that panicked has said so on standard error; to the application it has left.
        let end = end.unwrap_or(End::Left);
        total = Some(match (total, end) {
            (_, End::Unreachable) | (Some(End::Unreachable), _) => End::Unreachable,
            (None | Some(End::Refused), End::Refused) => End::Refused,
            _ => End::Left,
        });
        if end == End::Unreachable {
            leave.send_replace(true);
        }
    }
    checks.shutdown().await;
    ended.send_replace(Some(total.unwrap_or(End::Left)));
}

/// A running agent. Dropping it leaves all groups too, but does not wait for it.
#[derive(Debug)]
pub struct Agent {
    events: Events,
    memberships: Vec<Membership>,
    leave: watch::Sender<bool>,
    end: watch::Receiver<Option<End>>,
}

impl Agent {
    /// Begins an agent.
    pub fn builder() -> AgentBuilder {
        AgentBuilder {
            authority: Vec::new(),
            groups: Ok(Vec::new()),
            port: PIAS_PORT,
            fail_fast: false,
        }
    }

    /// What happens to the memberships.
    pub const fn events(&mut self) -> &mut Events {
        &mut self.events
    }

    /// The next event, of this agent's [`Events`]; `None` when it has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// All memberships, in no particular order.
    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// The membership in one group.
    #[must_use]
    pub fn membership(&self, group: &GroupKey) -> Option<&Membership> {
        self.memberships.iter().find(|membership| membership.group == *group)
    }

    /// Waits until the agent has ended by itself: everything refused, or unreachable while it was
    /// to fail fast.
    pub async fn ended(&self) -> End {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(End::Left),
            // The runtime is being shut down.
            Err(_) => End::Left,
        }
    }

    /// Leaves all groups: takes at most two seconds, and the proxies know it when it returns.
    ///
    /// Events that were not read stay to be read.
    pub async fn leave(&self) -> End {
        self.leave.send_replace(true);
        self.ended().await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.leave.send_replace(true);
    }
}

/// One membership of an agent.
#[derive(Clone, Debug)]
pub struct Membership {
    group: GroupKey,
    number: u32,
    board: HealthBoard,
}

impl Membership {
    /// The group.
    #[must_use]
    pub const fn group(&self) -> &GroupKey {
        &self.group
    }

    /// Whether the application can take new flows. With a check, both must agree.
    pub fn set_healthy(&self, healthy: bool) {
        self.board.set_application(self.number, healthy);
    }
}
