//! The RAP's role: who serves which group, and which JAP a packet goes to that asks.
//!
//! ```text
//!   JAPs ──CountReport──►  counts ──select──► list ──CandidateList──► ingresses that asked
//!                            │
//!      packet with RESOLVE ──┴─► place ─► JAP, the next JAP, another RAP, or a refusal
//! ```
//!
//! **Ignorance is no answer at first.** For [`WARM_UP`] after its start, and as long after a proxy's
//! departure for the groups that this handed to it, a RAP that knows nobody for a group does not say
//! so. It passes the packet on to the next RAP of the ring, which may have known the group for long. Where
//! two RAPs did that already (the whole service has just started), the packet is held for up to
//! [`HOLD`], and goes to the first JAP that reports; only then is it refused. A wish for the list
//! that comes by message is left unanswered: the asker tries the next RAP, and is told as soon as a
//! JAP reports. So it is for a second (`VACANT`) after a group's last JAP has left.

mod group;
mod load;
mod restore;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pias_protocol::{
    forwarding::{ForwardingUpdate, RelayHow},
    group::GroupKey,
    hash::FlowHash,
    ids::{ParkedId, ProxyId},
    limits::MAX_HOPS,
    overlay::{CandidateList, CountAck, CountReport, CountsWanted},
    placement::{self, Candidate},
    time::Time,
};

use self::group::Group;
pub(crate) use self::load::Load;
use crate::{
    limits::{
        MAX_ASKED_GROUPS, MAX_DEPARTED, MAX_FORGOTTEN, MAX_FORMER, MAX_HELD, MAX_HOPS_TO_PASS_ON,
        MAX_RENDEZVOUS_GROUPS,
    },
    outbox::Outbox,
    ring::Entry,
    select::{Counted, select},
    timers::Timers,
    timing::{HOLD, LIST_FRESH, PUSH_INTERVAL, WARM_UP},
    view::CountView,
    world::World,
};

/// A packet that asks for a JAP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    pub(crate) group: GroupKey,
    pub(crate) flow: FlowHash,
    /// Where it entered.
    pub(crate) ingress: ProxyId,
    /// The JAP that could not take it.
    pub(crate) tried: Option<ProxyId>,
    /// Whether it may open a flow. One that does not is at home where its flow is.
    pub(crate) opens: bool,
    /// How many proxies it visited.
    pub(crate) hops: u8,
    pub(crate) parked: ParkedId,
}

/// What became of a packet that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It went to a JAP, or was refused; the ingress is told the list.
    Placed,
    /// It went on to this RAP.
    PassedOn(ProxyId),
    /// It waits for the first report.
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Push(GroupKey),
    Release,
    Expiry(GroupKey),
}

/// The groups that this proxy is a RAP of.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    groups: BTreeMap<GroupKey, Group>,
    /// Packets that wait for their group's first report, and until when.
    held: Vec<(Time, Asking)>,
    timers: Timers<Due>,
    /// When it is warm as a whole.
    warm: Time,
    /// Proxies that have just left the ring, and until when the groups that they left to this one
    /// may still be unreported.
    departed: VecDeque<(Time, Entry)>,
    /// JAPs that were gone, and whose counts were forgotten. At most [`MAX_FORGOTTEN`].
    forgotten: BTreeSet<ProxyId>,
    /// Reports since the start of the current second, and in the one before: the load.
    reports: Load,
}

impl Rendezvous {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            groups: BTreeMap::new(),
            held: Vec::new(),
            timers: Timers::default(),
            warm: now + WARM_UP,
            departed: VecDeque::new(),
            forgotten: BTreeSet::new(),
            reports: Load::new(now),
        }
    }

    /// This proxy was away, or was taken for dead: JAPs may have told others what it should know.
    pub(crate) fn was_away(&mut self, now: Time) {
        self.warm = now + WARM_UP;
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupKey> {
        self.groups.keys()
    }

    /// A JAP reports a count.
    pub(crate) fn report(
        &mut self,
        from: ProxyId,
        report: &CountReport,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        out.counters.reports_received += 1;
        let key = report.group;
        if report.count > 0
            && !self.groups.contains_key(&key)
            && self.groups.len() >= MAX_RENDEZVOUS_GROUPS
        {
            out.counters.table_full += 1;
            return;
        }
        out.send(
            from,
            CountAck { group: key, count: report.count, band_percent: self.reports.heard(now) },
        );
        let group = self.groups.entry(key).or_default();
        if group.report(from, report.count, now) {
            let earliest = group.pushed.map_or(now, |pushed| (pushed + PUSH_INTERVAL).max(now));
            let told = group.vacant_until().unwrap_or(earliest);
            self.timers.set_by(Due::Push(key), told);
        }
        self.settle(key);
        if report.count > 0 {
            self.release(key, world, now, out);
        }
    }

    /// An ingress wishes the list, by message.
    pub(crate) fn resolve(
        &mut self,
        from: ProxyId,
        key: GroupKey,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let known = self.groups.get(&key).is_some_and(Group::served);
        if known || self.is_warm(&key, world, now) {
            self.tell(from, key, true, world, now, out);
        } else if self.groups.contains_key(&key) || self.groups.len() < MAX_ASKED_GROUPS {
            self.groups.entry(key).or_default().ask(from, true, now);
            self.settle(key);
        } else {
            out.counters.table_full += 1;
        }
    }

    /// A packet asks for a JAP: the same choice as the ingress will make, or the next one.
    pub(crate) fn place(
        &mut self,
        asking: Asking,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) -> Answered {
        out.counters.resolved += 1;
        let ingress = world.members.cluster(asking.ingress).unwrap_or(world.cluster);
        let list = self.list(&asking.group, ingress, world);
        let elsewhere =
            if asking.opens { vec![] } else { self.elsewhere(&asking.group, &list, world) };
        let next = pick(&list, asking.flow, asking.tried, &elsewhere);
        let known = self.groups.get(&asking.group).is_some_and(Group::served);
        if known || self.is_warm(&asking.group, world, now) {
            self.tell(asking.ingress, asking.group, asking.ingress == world.own, world, now, out);
        } else if next.is_none() {
            return self.defer(asking, world, now, out);
        }
        let parked = asking.parked;
        let verdict = match next {
            Some(jap) if jap == world.own => ForwardingUpdate::Deliver { parked },
            Some(jap) if asking.hops < MAX_HOPS => {
                ForwardingUpdate::Relay { parked, to: jap, how: RelayHow::Join }
            }
            _ => {
                out.counters.refused_packets += 1;
                ForwardingUpdate::Refuse { parked }
            }
        };
        out.forward(verdict);
        Answered::Placed
    }

    /// Whether the JAPs of a group had time to report to this RAP: not if it has just started, or
    /// would not be one of the group's RAPs were it not for a proxy that has just gone, or if the last
    /// JAP has just left.
    fn is_warm(&self, group: &GroupKey, world: &World, now: Time) -> bool {
        let vacant_until = self.groups.get(group).and_then(Group::vacant_until);
        if now < self.warm || vacant_until.is_some_and(|until| now < until) {
            return false;
        }
        let fresh = self.departed.iter().filter(|(until, _)| now < *until);
        let departed: Vec<Entry> = fresh.map(|&(_, entry)| entry).collect();
        departed.is_empty() || world.ring.raps_with(group, &departed).contains(&world.own)
    }

    /// A proxy left the ring: for a while its groups are new here.
    fn departed(&mut self, entry: Entry, now: Time) {
        while self.departed.front().is_some_and(|&(until, _)| until <= now) {
            self.departed.pop_front();
        }
        if self.departed.len() >= MAX_DEPARTED {
            // Too many at once to tell what changed.
            self.warm = self.warm.max(now + WARM_UP);
            self.departed.clear();
        }
        self.departed.push_back((now + WARM_UP, entry));
    }

    /// In warm-up: to the next RAP of the ring, or wait.
    fn defer(&mut self, asking: Asking, world: &World, now: Time, out: &mut Outbox) -> Answered {
        let raps = world.ring.raps(&asking.group);
        let next = raps.iter().position(|&rap| rap == world.own).and_then(|own| {
            let following = raps.iter().cycle().skip(own + 1).take(raps.len() - 1);
            following.copied().find(|&rap| rap != asking.ingress)
        });
        let parked = asking.parked;
        if let Some(to) = next
            && asking.hops <= MAX_HOPS_TO_PASS_ON
        {
            let how = RelayHow::Resolve { tried: asking.tried };
            out.forward(ForwardingUpdate::Relay { parked, to, how });
            return Answered::PassedOn(to);
        }
        if self.held.len() >= MAX_HELD {
            out.counters.table_full += 1;
            out.counters.refused_packets += 1;
            out.forward(ForwardingUpdate::Refuse { parked });
            return Answered::Placed;
        }
        out.counters.held_packets += 1;
        // Who was tried before may be the one that it waits for.
        self.held.push((now + HOLD, Asking { tried: None, ..asking }));
        self.timers.set_by(Due::Release, now + HOLD);
        Answered::Held
    }

    /// Places the held packets of a group that a JAP reported.
    fn release(&mut self, key: GroupKey, world: &World, now: Time, out: &mut Outbox) {
        let (ready, wait): (Vec<_>, Vec<_>) =
            self.held.drain(..).partition(|(_, asking)| asking.group == key);
        self.held = wait;
        for (_, asking) in ready {
            self.place(asking, world, now, out);
        }
    }

    /// Sends the list to one ingress, and remembers that it has it.
    fn tell(
        &mut self,
        ingress: ProxyId,
        key: GroupKey,
        insists: bool,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        if !self.groups.contains_key(&key) && self.groups.len() >= MAX_ASKED_GROUPS {
            out.counters.table_full += 1;
            self.send_list(ingress, key, world, out);
            return;
        }
        let (tell, room) = self.groups.entry(key).or_default().ask(ingress, insists, now);
        out.counters.table_full += u64::from(!room);
        if tell {
            self.send_list(ingress, key, world, out);
        }
        self.settle(key);
    }

    fn send_list(&self, to: ProxyId, key: GroupKey, world: &World, out: &mut Outbox) {
        let Some(cluster) = world.members.cluster(to) else { return };
        let candidates = self.list(&key, cluster, world);
        let fresh_ms = LIST_FRESH.as_millis() as u32;
        out.counters.lists_sent += 1;
        out.send(to, CandidateList { group: key, candidates, fresh_ms });
    }

    /// The list for an ingress's cluster. Draining JAPs are left out, unless there are no others.
    pub(crate) fn list(
        &self,
        key: &GroupKey,
        ingress: pias_protocol::ids::ClusterId,
        world: &World,
    ) -> Vec<Candidate> {
        let Some(group) = self.groups.get(key) else { return Vec::new() };
        let counted = |wanted: &dyn Fn(ProxyId) -> bool| -> Vec<Counted> {
            let wanted = group.counts().filter(|&(jap, _)| wanted(jap));
            wanted
                .filter_map(|(proxy, count)| {
                    let cluster = world.members.cluster(proxy)?;
                    Some(Counted { proxy, cluster, count: count.total() })
                })
                .collect()
        };
        let mut japs = counted(&|jap| world.members.is_up(jap));
        if japs.is_empty() {
            japs = counted(&|jap| world.members.is_alive(jap));
        }
        select(world.policy(key), ingress, &japs, |to| world.distance(ingress, to))
    }

    /// JAPs outside of a group's list that may have flows of it: those that drain, and those that
    /// served it before, the latest first.
    fn elsewhere(&self, key: &GroupKey, list: &[Candidate], world: &World) -> Vec<ProxyId> {
        let Some(group) = self.groups.get(key) else { return Vec::new() };
        let draining = group.counts().map(|(jap, _)| jap).filter(|&jap| !world.members.is_up(jap));
        let live = draining.chain(group.former()).filter(|&jap| world.members.is_alive(jap));
        live.filter(|&jap| list.iter().all(|c| c.proxy != jap)).take(MAX_FORMER).collect()
    }

    /// A proxy is gone: its counts go to its heir, or away, at once. Ingresses know as well, and need
    /// no push.
    pub(crate) fn gone(&mut self, (proxy, cluster): Entry, heir: Option<ProxyId>, now: Time) {
        self.departed((proxy, cluster), now);
        let timers = &mut self.timers;
        let mut forgot = false;
        self.groups.retain(|&key, group| {
            forgot |= group.counts().any(|(jap, _)| jap == proxy);
            if group.inherit(proxy, heir, now)
                && let Some(at) = group.next_expiry()
            {
                timers.set_by(Due::Expiry(key), at);
            }
            !group.idle()
        });
        if forgot && self.forgotten.len() < MAX_FORGOTTEN {
            self.forgotten.insert(proxy);
        }
    }

    /// A proxy is back, or it has started anew. That may be known here later than what it reported
    /// since, which was forgotten as well: it is asked for.
    pub(crate) fn back(&mut self, proxy: ProxyId, out: &mut Outbox) {
        if self.forgotten.remove(&proxy) {
            out.send(proxy, CountsWanted {});
        }
    }

    /// A proxy drains: lists change where it serves.
    pub(crate) fn draining(&mut self, (proxy, cluster): Entry, now: Time) {
        self.departed((proxy, cluster), now);
        for (&key, group) in &self.groups {
            if group.counts().any(|(jap, _)| jap == proxy) {
                self.timers.set_by(Due::Push(key), now);
            }
        }
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.timers.next()
    }

    pub(crate) fn tick(&mut self, world: &World, now: Time, out: &mut Outbox) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Push(key) => self.push(key, world, now, out),
                Due::Release => self.give_up_held(now, out),
                Due::Expiry(key) => self.expire(key, now),
            }
        }
    }

    /// Pushes the list to those who asked. A former RAP keeps quiet: what it knows grows stale.
    fn push(&mut self, key: GroupKey, world: &World, now: Time, out: &mut Outbox) {
        if !world.responsible(&key) {
            return;
        }
        let Some(group) = self.groups.get_mut(&key) else { return };
        if let Some(until) = group.vacant_until().filter(|&until| now < until) {
            return self.timers.set(Due::Push(key), until);
        }
        for ingress in group.start_push(now) {
            self.send_list(ingress, key, world, out);
        }
        self.settle(key);
    }

    fn expire(&mut self, key: GroupKey, now: Time) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        if group.expire(now) {
            self.timers.set_by(Due::Push(key), now);
        }
        self.settle(key);
    }

    fn give_up_held(&mut self, now: Time, out: &mut Outbox) {
        let (over, wait): (Vec<_>, Vec<_>) =
            self.held.drain(..).partition(|&(until, _)| until <= now);
        self.held = wait;
        for (_, asking) in over {
            out.counters.refused_packets += 1;
            out.forward(ForwardingUpdate::Refuse { parked: asking.parked });
        }
        if let Some(&(until, _)) = self.held.first() {
            self.timers.set(Due::Release, until);
        }
    }

    /// Sets a group's expiry, or drops it where there is nothing to remember.
    fn settle(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get(&key) else { return };
        match group.next_expiry() {
            Some(at) => self.timers.set_by(Due::Expiry(key), at),
            None => {
                self.groups.remove(&key);
                self.timers.cancel(Due::Expiry(key));
                self.timers.cancel(Due::Push(key));
            }
        }
    }

    /// What the JAPs of a group reported, for people.
    pub(crate) fn counts(&self, key: &GroupKey, world: &World, now: Time) -> Vec<CountView> {
        let counts = self.groups.get(key).into_iter().flat_map(Group::counts);
        counts
            .map(|(jap, count)| CountView {
                proxy: world.name(jap),
                count: count.total(),
                expires_ms: (count.expires - now).as_millis() as u64,
            })
            .collect()
    }

    /// The ingresses that are told of changes.
    pub(crate) fn askers(&self, key: &GroupKey) -> Vec<ProxyId> {
        self.groups.get(key).into_iter().flat_map(Group::askers).collect()
    }
}

/// The JAP for a flow: the first of its order, or the one after `tried`. One that is not in the
/// list any more was tried in vain by all means: the order starts anew without it.
///
/// A packet that opens nothing visits those `elsewhere`, too, after two of the list, as it may not
/// visit many more: a JAP that came last took the flow's place from the second in its order, one that
/// left is not in the list.
pub(crate) fn pick(
    list: &[Candidate],
    flow: FlowHash,
    tried: Option<ProxyId>,
    elsewhere: &[ProxyId],
) -> Option<ProxyId> {
    let mut order: Vec<_> = placement::order(list, flow).iter().map(|c| c.proxy).collect();
    let second = order.len().min(2);
    order.splice(second..second, elsewhere.iter().copied());
    let start = match tried {
        Some(tried) => order.iter().position(|&jap| jap == tried).map_or(0, |at| at + 1),
        None => 0,
    };
    order.get(start).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The JAPs that a packet visits which none of them takes.
    fn visits(list: &[Candidate], flow: FlowHash, elsewhere: &[ProxyId]) -> Vec<ProxyId> {
        let mut tried = None;
        let next = std::iter::from_fn(|| {
            tried = pick(list, flow, tried, elsewhere);
            tried
        });
        next.take(99).collect()
    }

    fn three() -> Vec<Candidate> {
        (1..=3).map(|n| Candidate { proxy: ProxyId(n), tier: 0, weight: 1 }).collect()
    }

    #[test]
    fn a_packet_tries_each_candidate_once() {
        let (list, flow) = (three(), FlowHash(77));
        let order: Vec<_> = placement::order(&list, flow).iter().map(|c| c.proxy).collect();
        assert_eq!(visits(&list, flow, &[]), order);
        assert_eq!(pick(&list, flow, Some(ProxyId(99)), &[]), Some(order[0]));
        assert_eq!(pick(&[], flow, None, &[]), None);
    }

    #[test]
    fn a_packet_of_a_flow_looks_for_it_where_the_group_was_served_before() {
        let (list, flow, former) = (three(), FlowHash(77), [ProxyId(8), ProxyId(9)]);
        let order: Vec<_> = placement::order(&list, flow).iter().map(|c| c.proxy).collect();
        let (near, far) = order.split_at(2);
        assert_eq!(visits(&list, flow, &former), [near, &former, far].concat());
        assert_eq!(visits(&list[..1], flow, &former[..1]), [ProxyId(1), ProxyId(8)]);
    }
}
