//! Flows that outlive their proxy: who holds whose, and who answers to whose NAT addresses.
//!
//! ```text
//!   datapath ── Flows ──► FlowRecords, FlowsGone ──► heir: its datapath holds them
//!
//!   a mate is gone     its heir's datapath goes on with them; its NAT addresses come to the heir
//!   it is back         FlowsWanted ──► every mate ──► FlowRecords, FlowsHanded ──► then it announces itself
//! ```
//! Until then packets that it does not know a way for wait: their flows may be among those.
//! The NAT addresses of a proxy are routed to its heir all the time, at a price that counts only when
//! the proxy itself is gone: routing needs no word from here when that happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use pias_protocol::{
    flow::FlowRecord,
    forwarding::ForwardingUpdate,
    hash::FlowKey,
    ids::{ParkedId, ProxyId},
    overlay::{FlowRecords, FlowsGone, FlowsHanded, FlowsWanted, MemberState},
    time::Time,
};

use crate::{
    effect::{Effect, StandbyAddress},
    limits::{MAX_HEIRLOOMS, MAX_WAITING},
    outbox::Outbox,
    paced::Paced,
    timing::{HAND_BACK_AGAIN, HEIRLOOM_LIFETIME},
    world::World,
};

/// What a dead mate left.
#[derive(Clone, Debug)]
struct Heirloom {
    nat: Vec<IpAddr>,
    /// Who goes on with its flows.
    holder: ProxyId,
    since: Time,
}

/// What a node knows of flows that outlive their proxy.
#[derive(Debug)]
pub(crate) struct Flows {
    /// This proxy's own NAT addresses.
    nat: Vec<IpAddr>,
    /// The mate that holds this proxy's flows.
    heir: Option<ProxyId>,
    /// Whether that one is to be told of all again: it died since, or this proxy drains.
    tell_anew: bool,
    /// What dead mates left.
    heirlooms: BTreeMap<ProxyId, Heirloom>,
    /// The addresses that were said last.
    standby: BTreeSet<StandbyAddress>,
    /// Mates that have been asked for the flows of this proxy's former life.
    awaited: BTreeSet<ProxyId>,
    /// Packets that came before those.
    waiting: Vec<ParkedId>,
    /// Mates that asked for theirs.
    handing: Paced,
}

impl Flows {
    pub(crate) fn new(nat: Vec<IpAddr>) -> Self {
        Self {
            nat,
            heir: None,
            tell_anew: false,
            heirlooms: BTreeMap::new(),
            standby: BTreeSet::new(),
            awaited: BTreeSet::new(),
            waiting: Vec::new(),
            handing: Paced::new(HAND_BACK_AGAIN),
        }
    }

    /// Whether mates have not handed back all flows yet.
    pub(crate) fn awaits(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// A packet waits for what mates hand back. Whether there is room for it: one without a verdict is
    /// dropped, and its client sends it again.
    pub(crate) fn wait(&mut self, parked: ParkedId) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push(parked);
        }
        room
    }

    /// What mates had is here: to the packets that waited for it.
    pub(crate) fn deliver_waiting(&mut self, out: &mut Outbox) {
        for parked in self.waiting.drain(..) {
            out.forward(ForwardingUpdate::Deliver { parked });
        }
    }

    /// A mate takes part. A proxy that is not announced yet asks its mates for its flows.
    pub(crate) fn up(&mut self, id: ProxyId, announced: bool, out: &mut Outbox) {
        self.heirlooms.remove(&id);
        self.handing.forget(id);
        if !announced {
            self.awaited.insert(id);
            out.send(id, FlowsWanted {});
        }
    }

    /// A mate is gone; `heir` goes on with what it had.
    pub(crate) fn gone(
        &mut self,
        id: ProxyId,
        heir: Option<ProxyId>,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        self.awaited.remove(&id);
        // Though it may be back by now, it has forgotten what it was told.
        self.tell_anew |= self.heir == Some(id);
        self.heirlooms.retain(|_, left| now - left.since < HEIRLOOM_LIFETIME);
        let Some(holder) = heir else { return };
        for left in self.heirlooms.values_mut().filter(|left| left.holder == id) {
            left.holder = holder;
        }
        if self.heirlooms.len() < MAX_HEIRLOOMS {
            let nat = world.members.nat(id);
            self.heirlooms.insert(id, Heirloom { nat, holder, since: now });
        } else {
            out.counters.table_full += 1;
        }
    }

    /// This proxy drains: its heir hears of young flows, too.
    pub(crate) fn drain(&mut self, world: &World, out: &mut Outbox) {
        self.tell_anew = true;
        self.settle(world, out);
    }

    /// Proxies came or went: who holds what is looked up anew.
    pub(crate) fn settle(&mut self, world: &World, out: &mut Outbox) {
        let heir = world.heir(world.own);
        if std::mem::take(&mut self.tell_anew) || heir != self.heir {
            self.heir = heir;
            let young = world.members.own().state != MemberState::Up;
            out.forward(ForwardingUpdate::Replicate { wanted: heir.is_some(), young });
        }
        let standby = self.addresses(world);
        if standby != self.standby {
            self.standby = standby;
            let owned = self.standby.iter().map(|held| (held.of, held.address)).collect();
            out.forward(ForwardingUpdate::StandbyNat(owned));
            out.push(Effect::StandBy(self.standby.iter().copied().collect()));
        }
    }

    /// The NAT addresses that were said last.
    pub(crate) fn standby(&self) -> Vec<StandbyAddress> {
        self.standby.iter().copied().collect()
    }

    /// What dead mates left: whose it was, which addresses, and who goes on with it.
    pub(crate) fn heirlooms(&self) -> Vec<(ProxyId, Vec<IpAddr>, ProxyId)> {
        let left = self.heirlooms.iter();
        left.map(|(&id, left)| (id, left.nat.clone(), left.holder)).collect()
    }

    /// Goes on with what the process before knew of the dead.
    pub(crate) fn restore(&mut self, heirlooms: Vec<(ProxyId, Vec<IpAddr>, ProxyId)>, now: Time) {
        let heirlooms = heirlooms.into_iter().take(MAX_HEIRLOOMS);
        let left = heirlooms.map(|(id, nat, holder)| (id, Heirloom { nat, holder, since: now }));
        self.heirlooms = left.collect();
    }

    /// The NAT addresses that this proxy answers to beside its own: of the dead whose flows it goes on
    /// with, and of the live ones, and what those go on with, whose heir it is.
    fn addresses(&self, world: &World) -> BTreeSet<StandbyAddress> {
        let wards: BTreeSet<_> =
            world.mates().filter(|&id| world.heir(id) == Some(world.own)).collect();
        let live = wards.iter().map(|&id| (id, world.members.nat(id), true));
        let dead = self.heirlooms.iter().filter_map(|(&id, left)| {
            let ward = wards.contains(&left.holder);
            (ward || left.holder == world.own).then(|| (id, left.nat.clone(), ward))
        });
        let all = live.chain(dead);
        all.flat_map(|(of, nat, ward)| {
            nat.into_iter().map(move |address| StandbyAddress { address, of, live: ward })
        })
        .filter(|held| !self.nat.contains(&held.address))
        .collect()
    }

    /// The datapath says what its flows are now: to the heir.
    pub(crate) fn told(&self, records: Vec<FlowRecord>, flows: Vec<FlowKey>, out: &mut Outbox) {
        let Some(heir) = self.heir else { return };
        if !flows.is_empty() {
            out.send(heir, FlowsGone { flows });
        }
        if !records.is_empty() {
            out.send(heir, FlowRecords { records });
        }
    }

    /// A mate tells of flows: its own are held, this proxy's own taken back.
    pub(crate) fn records(
        &self,
        from: ProxyId,
        records: Vec<FlowRecord>,
        world: &World,
        out: &mut Outbox,
    ) {
        if !world.is_mate(from) {
            out.counters.strangers += 1;
            return;
        }
        let own = |record: &FlowRecord| self.nat.contains(&record.nat.ip());
        let (back, records): (Vec<_>, Vec<_>) = records.into_iter().partition(own);
        if !back.is_empty() {
            out.forward(ForwardingUpdate::Adopt(back));
        }
        if !records.is_empty() {
            out.forward(ForwardingUpdate::Standby { of: from, records });
        }
    }

    /// Flows of a mate have ended.
    pub(crate) fn ended(
        &self,
        from: ProxyId,
        flows: Vec<FlowKey>,
        world: &World,
        out: &mut Outbox,
    ) {
        if world.is_mate(from) {
            out.forward(ForwardingUpdate::StandbyEnded { of: from, flows });
        } else {
            out.counters.strangers += 1;
        }
    }

    /// A mate has started, and wants the flows of its former life. That it says so again while they are
    /// looked for changes nothing.
    pub(crate) fn wanted(&mut self, from: ProxyId, world: &World, now: Time, out: &mut Outbox) {
        if !world.is_mate(from) {
            out.counters.strangers += 1;
        } else if self.handing.allow(from, HAND_BACK_AGAIN, now, out) {
            let nat = world.members.nat(from);
            out.forward(ForwardingUpdate::HandBack { to: from, nat });
        }
    }

    /// The datapath found flows that a mate wants.
    pub(crate) fn handed_back(
        &self,
        to: ProxyId,
        records: Vec<FlowRecord>,
        last: bool,
        out: &mut Outbox,
    ) {
        if !records.is_empty() {
            out.send(to, FlowRecords { records });
        }
        if last {
            out.send(to, FlowsHanded {});
        }
    }

    /// A mate has handed back all that it had.
    pub(crate) fn handed(&mut self, from: ProxyId) {
        self.awaited.remove(&from);
    }
}
