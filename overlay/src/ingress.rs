//! The ingress's role: a cache of the RAPs' lists, which the datapath follows.
//!
//! ```text
//!            first packet                list
//!   nothing ─────────────► Resolving ──────────────► Candidates ◄─┐ used and no longer fresh:
//!      ▲                    │  ▲ next RAP if silent     │   │     │ asks, and goes on using it
//!      │ idle, or over      │  └───────────────────────-┘   └─────┘
//!      └──── Refused ◄──────┘ empty      used up: dead, or without target
//! ```
//! An entry lives as long as it is used; it is invalidated actively, by a JAP without targets and
//! by the death of a JAP that has no heir; else the heir stands in for it until a new list comes.

use std::collections::{BTreeMap, BTreeSet};

use pias_protocol::{
    forwarding::{ForwardingUpdate, IngressEntry, RelayHow},
    group::GroupKey,
    hash::FlowHash,
    ids::{ParkedId, ProxyId},
    overlay::{CandidateList, Resolve},
    placement::{self, Candidate},
    time::Time,
};

use crate::{
    limits::{MAX_INGRESS_GROUPS, MAX_RESOLVE_ATTEMPTS},
    outbox::Outbox,
    timers::Timers,
    timing::{DISTRUST, INGRESS_IDLE, NEGATIVE_LIFETIME, RESOLVE_RETRY},
    world::World,
};

#[derive(Clone, Debug)]
enum State {
    /// The list is on its way.
    Resolving { rap: ProxyId, attempt: u8 },
    /// The list, and when to ask again.
    Candidates { list: Vec<Candidate>, fresh_until: Time },
    /// Nobody serves the group.
    Refused,
}

#[derive(Clone, Debug)]
struct Entry {
    state: State,
    used: Time,
    /// JAPs that had no target, and until when they are left out.
    distrusted: BTreeMap<ProxyId, Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The RAP did not answer.
    Retry(GroupKey),
    /// The refusal is over.
    Over(GroupKey),
    /// Nobody may have used it for long.
    Idle(GroupKey),
}

/// The groups that clients' packets enter for here.
#[derive(Debug, Default)]
pub(crate) struct Ingress {
    entries: BTreeMap<GroupKey, Entry>,
    by_use: BTreeSet<(Time, GroupKey)>,
    timers: Timers<Due>,
}

impl Ingress {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupKey> {
        self.entries.keys()
    }

    /// A packet missed, though there may be an entry by now. Whether that settles it.
    pub(crate) fn settles(
        &self,
        group: GroupKey,
        flow: FlowHash,
        parked: ParkedId,
        world: &World,
        out: &mut Outbox,
    ) -> bool {
        let Some(entry) = self.entries.get(&group) else { return false };
        let verdict = match &entry.state {
            State::Resolving { rap, .. } if *rap == world.own => return false,
            State::Resolving { rap, .. } => {
                let how = RelayHow::Resolve { tried: None };
                ForwardingUpdate::Relay { parked, to: *rap, how }
            }
            State::Refused => ForwardingUpdate::Refuse { parked },
            State::Candidates { list, .. } => {
                let chosen = placement::choose(list, flow, |c| world.stand_in(c.proxy).is_some());
                match chosen.and_then(|chosen| world.stand_in(chosen.proxy)) {
                    Some(jap) if jap == world.own => ForwardingUpdate::Deliver { parked },
                    Some(to) => ForwardingUpdate::Relay { parked, to, how: RelayHow::Join },
                    None => return false,
                }
            }
        };
        install(group, &entry.state, out);
        out.forward(verdict);
        true
    }

    /// A packet went to this RAP, so the list will come from there.
    pub(crate) fn asked(
        &mut self,
        group: GroupKey,
        rap: ProxyId,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        self.make_room(&group, out);
        self.touch(group, now);
        self.resolving(group, rap, 0, world, now, out);
    }

    /// A list came: the answer to a packet or a wish, or unasked because the JAPs changed.
    pub(crate) fn list(
        &mut self,
        from: ProxyId,
        message: CandidateList,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        out.counters.lists_received += 1;
        let group = message.group;
        if !self.entries.contains_key(&group) {
            // Only this proxy's own answer comes before the entry: its packet was placed already.
            if from != world.own {
                return;
            }
            self.make_room(&group, out);
            self.touch(group, now);
        }
        let Some(entry) = self.entries.get_mut(&group) else { return };
        entry.distrusted.retain(|_, until| *until > now);
        let live = |c: &&Candidate| world.members.is_alive(c.proxy);
        let (told, living) =
            (message.candidates.len(), message.candidates.iter().filter(live).count());
        let mut list = message.candidates;
        list.retain(|c| world.stand_in(c.proxy).is_some());
        let trusted = |c: &Candidate| {
            world.stand_in(c.proxy).is_some_and(|jap| !entry.distrusted.contains_key(&jap))
        };
        let doubted = !list.iter().all(trusted);
        // Where there are no others, a RAP's later word counts: a target may have just joined.
        if list.iter().any(trusted) {
            list.retain(trusted);
        }
        if list.is_empty() {
            self.refuse(group, now, out);
            return;
        }
        // A list that names the dead or the distrusted is about to change.
        let fresh = std::time::Duration::from_millis(message.fresh_ms.into());
        let changes = doubted || living < told;
        let fresh = if changes { fresh.min(DISTRUST) } else { fresh };
        entry.state = State::Candidates { list, fresh_until: now + fresh };
        install(group, &entry.state, out);
        self.timers.cancel(Due::Retry(group));
        self.timers.cancel(Due::Over(group));
        self.timers.set_by(Due::Idle(group), now + INGRESS_IDLE);
    }

    /// Packets used an entry.
    pub(crate) fn used(&mut self, group: GroupKey, world: &World, now: Time, out: &mut Outbox) {
        if !self.entries.contains_key(&group) {
            // The datapath has an entry that the overlay forgot.
            out.forward(ForwardingUpdate::IngressForget(group));
            return;
        }
        self.touch(group, now);
        let Some(entry) = self.entries.get_mut(&group) else { return };
        if let State::Candidates { fresh_until, .. } = &mut entry.state
            && now >= *fresh_until
            && let Some(&rap) = world.raps_by_distance(&group).first()
        {
            // Not again with every use while the answer is on its way.
            *fresh_until = now + world.patience(rap, DISTRUST);
            out.send(rap, Resolve { group });
        }
    }

    /// A JAP has no target of a group.
    pub(crate) fn no_target(
        &mut self,
        jap: ProxyId,
        group: GroupKey,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        if world.is_new_heir(jap, now) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&group) else { return };
        let before = entry.distrusted.insert(jap, now + DISTRUST);
        if before.is_some_and(|until| until > now) {
            // A RAP named it since, and nobody else. That one is asked again when the list is stale.
            return;
        }
        self.without(group, |proxy| world.stand_in(proxy) == Some(jap), world, now, out);
    }

    /// A proxy is gone: no entry may point at it, unless its heir stands in for it.
    pub(crate) fn gone(&mut self, proxy: ProxyId, world: &World, now: Time, out: &mut Outbox) {
        let affected: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| match &entry.state {
                State::Resolving { rap, .. } => *rap == proxy,
                State::Candidates { list, .. } => {
                    list.iter().any(|c| world.stand_in(c.proxy).is_none())
                }
                State::Refused => false,
            })
            .map(|(&group, _)| group)
            .collect();
        for group in affected {
            self.without(group, |proxy| world.stand_in(proxy).is_none(), world, now, out);
        }
    }

    /// A proxy drains: where others serve the group too, new flows go to them.
    pub(crate) fn draining(&mut self, proxy: ProxyId, out: &mut Outbox) {
        for (&group, entry) in &mut self.entries {
            if let State::Candidates { list, .. } = &mut entry.state
                && list.len() > 1
                && list.iter().any(|c| c.proxy == proxy)
            {
                list.retain(|c| c.proxy != proxy);
                install(group, &entry.state, out);
            }
        }
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.timers.next()
    }

    pub(crate) fn tick(&mut self, world: &World, now: Time, out: &mut Outbox) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Retry(group) => self.retry(group, world, now, out),
                Due::Over(group) => self.forget(group, out),
                Due::Idle(group) => {
                    let used = self.entries.get(&group).map(|entry| entry.used);
                    match used {
                        Some(used) if now - used < INGRESS_IDLE => {
                            self.timers.set(Due::Idle(group), used + INGRESS_IDLE);
                        }
                        _ => self.forget(group, out),
                    }
                }
            }
        }
    }

    /// Takes proxies out of an entry; one that is used up goes back to a RAP. So does one that waits
    /// for the answer of a dead RAP.
    fn without(
        &mut self,
        group: GroupKey,
        unusable: impl Fn(ProxyId) -> bool,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(entry) = self.entries.get_mut(&group) else { return };
        match &mut entry.state {
            State::Candidates { list, .. } => {
                let before = list.len();
                list.retain(|c| !unusable(c.proxy));
                if list.is_empty() {
                    self.ask(group, 0, world, now, out);
                } else if list.len() < before {
                    install(group, &entry.state, out);
                }
            }
            State::Resolving { rap, attempt } if !world.members.is_alive(*rap) => {
                let attempt = *attempt;
                self.ask(group, attempt, world, now, out);
            }
            State::Resolving { .. } | State::Refused => {}
        }
    }

    /// Asks a RAP by message: the nearest first, with each attempt the next one.
    fn ask(&mut self, group: GroupKey, attempt: u8, world: &World, now: Time, out: &mut Outbox) {
        let raps = world.raps_by_distance(&group);
        if raps.is_empty() || attempt >= MAX_RESOLVE_ATTEMPTS {
            self.forget(group, out);
            return;
        }
        let rap = raps[usize::from(attempt) % raps.len()];
        self.resolving(group, rap, attempt, world, now, out);
        out.send(rap, Resolve { group });
    }

    fn resolving(
        &mut self,
        group: GroupKey,
        rap: ProxyId,
        attempt: u8,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(entry) = self.entries.get_mut(&group) else { return };
        entry.state = State::Resolving { rap, attempt };
        install(group, &entry.state, out);
        self.timers.cancel(Due::Over(group));
        self.timers.set(Due::Retry(group), now + world.patience(rap, RESOLVE_RETRY));
    }

    fn retry(&mut self, group: GroupKey, world: &World, now: Time, out: &mut Outbox) {
        if let Some(Entry { state: State::Resolving { attempt, .. }, .. }) =
            self.entries.get(&group)
        {
            let attempt = attempt + 1;
            self.ask(group, attempt, world, now, out);
        }
    }

    fn refuse(&mut self, group: GroupKey, now: Time, out: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(&group) else { return };
        entry.state = State::Refused;
        install(group, &entry.state, out);
        self.timers.cancel(Due::Retry(group));
        self.timers.set(Due::Over(group), now + NEGATIVE_LIFETIME);
    }

    fn touch(&mut self, group: GroupKey, now: Time) {
        let entry = self.entries.entry(group).or_insert_with(|| Entry {
            state: State::Refused,
            used: now,
            distrusted: BTreeMap::new(),
        });
        self.by_use.remove(&(entry.used, group));
        entry.used = now;
        self.by_use.insert((now, group));
    }

    /// The entry that was used least recently makes room for a new one.
    fn make_room(&mut self, group: &GroupKey, out: &mut Outbox) {
        if self.entries.len() >= MAX_INGRESS_GROUPS
            && !self.entries.contains_key(group)
            && let Some(&(_, oldest)) = self.by_use.first()
        {
            out.counters.table_full += 1;
            self.forget(oldest, out);
        }
    }

    fn forget(&mut self, group: GroupKey, out: &mut Outbox) {
        if let Some(entry) = self.entries.remove(&group) {
            self.by_use.remove(&(entry.used, group));
            out.forward(ForwardingUpdate::IngressForget(group));
        }
        for due in [Due::Retry(group), Due::Over(group), Due::Idle(group)] {
            self.timers.cancel(due);
        }
    }

    /// The lists of all groups that have one.
    pub(crate) fn lists(&self) -> Vec<(GroupKey, Vec<Candidate>)> {
        let list = |(&group, entry): (&GroupKey, &Entry)| match &entry.state {
            State::Candidates { list, .. } => Some((group, list.clone())),
            State::Resolving { .. } | State::Refused => None,
        };
        self.entries.iter().filter_map(list).collect()
    }

    /// Takes in lists of the process before; they are asked for again when they are used.
    pub(crate) fn restore(
        &mut self,
        lists: Vec<(GroupKey, Vec<Candidate>)>,
        now: Time,
        out: &mut Outbox,
    ) {
        for (group, list) in lists {
            self.make_room(&group, out);
            self.touch(group, now);
            if let Some(entry) = self.entries.get_mut(&group) {
                entry.state = State::Candidates { list, fresh_until: now };
                install(group, &entry.state, out);
                self.timers.set_by(Due::Idle(group), now + INGRESS_IDLE);
            }
        }
    }

    // For people.

    /// The word for the state of an entry.
    pub(crate) fn state(&self, group: &GroupKey) -> Option<&'static str> {
        self.entries.get(group).map(|entry| match entry.state {
            State::Resolving { .. } => "resolving",
            State::Candidates { .. } => "candidates",
            State::Refused => "refused",
        })
    }

    /// The list of an entry; empty without one.
    pub(crate) fn candidates(&self, group: &GroupKey) -> &[Candidate] {
        match self.entries.get(group).map(|entry| &entry.state) {
            Some(State::Candidates { list, .. }) => list,
            _ => &[],
        }
    }
}

/// Tells the datapath an entry.
fn install(group: GroupKey, state: &State, out: &mut Outbox) {
    let entry = match state {
        State::Resolving { rap, .. } => IngressEntry::Rendezvous(*rap),
        State::Candidates { list, .. } => IngressEntry::Candidates(list.clone()),
        State::Refused => IngressEntry::Refuse,
    };
    out.forward(ForwardingUpdate::Ingress { group, entry });
}
