//! Flows that are translated here.
//!
//! ```text
//! forward   AC:x → AA:g           becomes   JAP:s → AT:r      found by (protocol, AC:x, AA:g)
//! reverse   AT:r → JAP:s          becomes   AA:g → AC:x       found by (protocol, AT:r, s)
//! ```
//! A NAT port is taken per target address and port, so one port serves as many flows as there are
//! targets. Flows that another proxy began keep that proxy's NAT address, from which no port is
//! ever taken for a new one.
//!
//! The table is memory that XDP may share: it finds flows, begins them, and notes their packets, as this
//! module does (`entry`, `cells`, `room`; [ADR 0022](../../../../docs/adr/0022-nat-shared-with-xdp.md)).
//! Flows end here alone, but for those that XDP gives up for new ones.

mod cells;
mod entry;
mod flow;
mod flows;
mod meta;
mod room;

use std::net::{IpAddr, SocketAddr};

use pias_protocol::{
    flow::FlowRecord,
    group::{GroupKey, Protocol},
    hash::{self, FlowKey},
    ids::{ProxyId, TargetId},
    time::Time,
};

pub(in crate::flow) use self::flows::Flows;
use self::{
    cells::Place,
    entry::{Ends, Notes, Written},
    flows::Sent,
    meta::Meta,
};
pub use self::{
    entry::ENTRY_WORDS,
    flow::NatFlow,
    room::{BESIDE_WORDS, NatMemory, Sizes},
};
use super::{
    Phase,
    replica::{Batch, Replica, Told},
};
use crate::{
    drop_reason::DropReason,
    limits::{
        AGED_PER_TICK, BATCHES_PER_TICK, FLOW_PORTS, Limits, PIN_EVERY, PORT_PROBES, PORT_REST,
        PORT_SAMPLE,
    },
    slots::Handle,
};

/// Cells in a bucket.
pub const CELLS: usize = cells::CELLS;

/// What a new flow is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// The client's side.
    pub key: FlowKey,
    /// Its target.
    pub target: Handle,
    /// The target's lease.
    pub lease: TargetId,
    /// Where the target is.
    pub address: SocketAddr,
    /// The NAT address of its family.
    pub nat: IpAddr,
    /// The ingress, where it is another proxy.
    pub ingress: Option<Handle>,
}

/// The translated flows of one JAP.
#[derive(Debug)]
pub struct NatTable {
    flows: Flows,
    limits: Limits,
    /// The slot that is looked at next for age.
    swept: usize,
    evicted: u64,
    replica: Replica,
}

impl NatTable {
    /// A table of these limits, in memory of its own.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self::on(NatMemory::own(&limits), limits, seed)
    }

    /// A table in memory that XDP shares, which knows the same secret `seed`. Flows may be there already.
    #[must_use]
    pub fn on(memory: NatMemory, limits: Limits, seed: u64) -> Self {
        let flows = Flows::on(memory, limits.nat_flows, seed);
        Self { flows, limits, swept: 0, evicted: 0, replica: Replica::new(limits.nat_flows) }
    }

    /// Goes on with flows that another process began: each gets the target that is `registered` at its
    /// address, or waits for it as one that another proxy began.
    pub fn go_on(
        &mut self,
        registered: impl Fn(&GroupKey, SocketAddr) -> Option<(Handle, TargetId)>,
    ) {
        self.flows.go_on(registered);
    }

    /// How many flows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flows.room.count()
    }

    /// How many of them are embryonic: UDP flows whose target has not answered, TCP flows that were
    /// never established.
    #[must_use]
    pub fn embryonic(&self) -> usize {
        self.flows.room.embryonic()
    }

    /// How many flows were evicted here since this was last asked.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// The first of `count` identifications that follow each other, for packets that may be fragmented.
    #[must_use]
    pub fn ids(&self, count: u32) -> u32 {
        self.flows.room.ids(count)
    }

    /// The flow of a client's packet.
    #[must_use]
    pub fn forward(&self, key: &FlowKey) -> Option<Handle> {
        self.flows.of_client(key, key.hash())
    }

    /// The flow of a target's packet to a NAT address and port.
    #[must_use]
    pub fn reverse(
        &self,
        protocol: Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        self.flows.of_target(protocol, target, nat)
    }

    /// A flow, while it lives.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<NatFlow> {
        self.flows.get(handle)
    }

    /// Begins a flow.
    ///
    /// # Errors
    /// [`DropReason::NatPortsExhausted`] or [`DropReason::NatTableFull`].
    pub fn open(&mut self, new: NewFlow, now: Time) -> Result<Handle, DropReason> {
        let hash = new.key.hash();
        let product = Place::of_client(hash, self.flows.seed).product();
        let (slot, claimed) = self.room(product, now)?;
        let written = Written {
            ends: Ends {
                key: new.key,
                hash,
                target: new.address,
                nat: SocketAddr::new(new.nat, 0),
            },
            target: new.target,
            lease: new.lease,
            ingress: new.ingress,
            notes: Notes::default(),
            now: now.into(),
        };
        let Some(port) = self.port(&written.ends, slot, now) else {
            self.flows.give_back(slot, claimed);
            return Err(DropReason::NatPortsExhausted);
        };
        let nat = SocketAddr::new(new.nat, port);
        let written = Written { ends: Ends { nat, ..written.ends }, ..written };
        self.begin(slot, claimed, claimed.begun(Meta::identity_of(&new.key)), &written)
    }

    /// Goes on with a flow that another proxy began. Its target is [`Handle::NONE`] where that is
    /// not registered here. `None` where the client or the target has another flow by now.
    ///
    /// # Errors
    /// [`DropReason::NatTableFull`].
    pub fn adopt(
        &mut self,
        record: &FlowRecord,
        (target, lease): (Handle, TargetId),
        ingress: Option<Handle>,
        now: Time,
    ) -> Result<Option<Handle>, DropReason> {
        let (key, hash) = (record.key, record.key.hash());
        let protocol = key.group.protocol;
        if self.flows.of_client(&key, hash).is_some()
            || self.reverse(protocol, record.target, record.nat).is_some()
        {
            return Ok(None);
        }
        let ends = Ends { key, hash, target: record.target, nat: record.nat };
        let [forward, reverse] = ends.places(self.flows.seed);
        let (slot, claimed) = self.room(forward.product(), now)?;
        let is_it = |other| self.flows.is_target(other, &ends);
        if self.flows.put_target(reverse, slot, is_it).is_err() {
            self.flows.give_back(slot, claimed);
            return Err(DropReason::NatTableFull);
        }
        // It is nobody's first impression of the target.
        let notes = [Notes::JUDGED, Notes::ADOPTED, Notes::UNTOUCHED];
        let notes = notes.into_iter().fold(Notes::default(), |notes, note| notes.with(note, true));
        let written = Written { ends, target, lease, ingress, notes, now: now.into() };
        let finished = (record.client_finished, record.target_finished);
        let next = claimed.resumed(Meta::identity_of(&key), record.phase, finished);
        let handle = self.begin(slot, claimed, next, &written)?;
        self.note(handle, now);
        Ok(Some(handle))
    }

    /// Begins a flow in a claimed entry whose target's side is in place.
    fn begin(
        &self,
        slot: usize,
        claimed: Meta,
        next: Meta,
        written: &Written,
    ) -> Result<Handle, DropReason> {
        let entry = self.flows.entry(slot).ok_or(DropReason::NatTableFull)?;
        entry.write(written);
        if self.flows.begin(slot, claimed, next, written) {
            return Ok(entry.handle(next));
        }
        // XDP may have begun this very flow meanwhile.
        let Ends { key, hash, .. } = &written.ends;
        self.flows.of_client(key, *hash).ok_or(DropReason::NatTableFull)
    }

    /// A slot for a flow, with its claimed entry; `product` is that of its client's side.
    fn room(&mut self, product: u64, now: Time) -> Result<(usize, Meta), DropReason> {
        let (slot, claimed, evicted) = self
            .flows
            .claim_room(product, self.limits.nat_embryonic, now.into())
            .ok_or(DropReason::NatTableFull)?;
        self.evicted += u64::from(evicted);
        Ok((slot, claimed))
    }

    /// Takes a port that no flow to this target has; at worst that of a flow that rests and will be missed
    /// least. The start is hashed (RFC 6056 section 3.3.3), so that nobody guesses it from another's.
    fn port(&mut self, ends: &Ends, slot: usize, now: Time) -> Option<u16> {
        let protocol = ends.key.group.protocol;
        let (first, count) = (*FLOW_PORTS.start(), FLOW_PORTS.len() as u64);
        let start = hash::mix(ends.hash.0, self.flows.seed) % count;
        let place = |port| Place::of_target(protocol, ends.target, port, self.flows.seed);
        let mut resting: Option<((u8, u32), u16, Handle)> = None;
        for step in 0..u64::from(PORT_PROBES) {
            if step >= u64::from(PORT_SAMPLE) && resting.is_some() {
                break;
            }
            let port = first + ((start + step) % count) as u16;
            if self.flows.put_target(place(port), slot, |_| true).is_ok() {
                return Some(port);
            }
            if let Some((handle, flow)) = self.flows.near(place(port))
                && (flow.address, flow.nat) == (ends.target, SocketAddr::new(ends.nat.ip(), port))
                && let Some(rest) = flow.expendable(now.into())
                && flow.last.lies_before(now.into(), PORT_REST)
                && resting.is_none_or(|(most, ..)| rest > most)
            {
                resting = Some((rest, port, handle));
            }
        }
        let (_, port, handle) = resting?;
        let place = place(port);
        self.remove(handle);
        self.evicted += 1;
        self.flows.put_target(place, slot, |_| true).ok().map(|()| port)
    }

    /// A packet of the client with these TCP flags came. Returns what the target shall see as source,
    /// and where the target is.
    pub fn client_sent(
        &mut self,
        handle: Handle,
        flags: u8,
        now: Time,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let (before, after) = self.heard(handle, Sent::Client(flags), now)?;
        let flow = self.get(handle)?;
        let lasts = flow.told == Told::Nothing
            && flow.phase == Phase::Datagrams
            && self.replica.tells(&flow, now);
        if before.told() != after.told() || lasts {
            self.note(handle, now);
        }
        Some((flow.nat, flow.address))
    }

    /// A packet of the target with these TCP flags came.
    pub fn target_sent(&mut self, handle: Handle, flags: u8, now: Time) {
        let Some((before, after)) = self.heard(handle, Sent::Target(flags), now) else { return };
        if before.told() != after.told() {
            self.note(handle, now);
        }
    }

    fn heard(&self, handle: Handle, sent: Sent, now: Time) -> Option<(Meta, Meta)> {
        let heard = self.flows.hear(handle, sent, now.into());
        self.flows.with(handle, |entry| entry.note(|notes| notes.with(Notes::UNTOUCHED, false)));
        heard
    }

    /// The silence of a flow's target is held against it, once: whether it was not yet.
    pub fn judge(&mut self, handle: Handle) -> bool {
        let judged = |flow: &NatFlow| flow.answered || flow.judged;
        let new = self.get(handle).is_some_and(|flow| !judged(&flow));
        if new {
            self.flows.with(handle, |entry| entry.note(|notes| notes.with(Notes::JUDGED, true)));
        }
        new
    }

    /// Whether the ingress of a flow may be told to pin it: not more often than every [`PIN_EVERY`].
    pub fn may_pin(&self, handle: Handle, now: Time) -> bool {
        let told = |entry: entry::Entry<'_>| entry.pinned();
        self.flows
            .with(handle, told)
            .is_some_and(|last| last.is_none_or(|last| last.lies_before(now.into(), PIN_EVERY)))
    }

    /// The ingress of a flow is told to pin it.
    pub fn pinned(&mut self, handle: Handle, now: Time) {
        self.flows.with(handle, |entry| entry.set_pinned(now.into()));
    }

    /// A flow that another proxy began has its target here from now on.
    pub fn found_target(&mut self, handle: Handle, (target, lease): (Handle, TargetId)) {
        self.flows.with(handle, |entry| entry.set_target(target, lease));
    }

    /// A flow that came back from a former life of this proxy is one of its own again.
    pub fn own(&mut self, handle: Handle) {
        self.flows.with(handle, |entry| entry.note(|notes| notes.with(Notes::ADOPTED, false)));
    }

    /// A flow has become another than it was.
    #[cold]
    pub fn note(&mut self, handle: Handle, now: Time) {
        if let Some(flow) = self.get(handle)
            && let Some(told) = self.replica.changed(handle, &flow, now)
        {
            self.flows.tell(handle, told);
        }
    }

    /// Whether a mate is to be told of flows; if so, it is told of all anew. Whether of `young` ones,
    /// too.
    pub fn replicate(&mut self, wanted: bool, young: bool) {
        self.flows.room.want(wanted);
        self.replica.want(wanted, young, self.flows.slots());
    }

    /// What a mate is to be told in this tick, in bounded batches; `id` names a flow's ingress.
    pub fn replicas(
        &mut self,
        now: Time,
        id: impl Fn(Handle) -> Option<ProxyId> + Copy,
    ) -> Vec<Batch> {
        self.replica.tick(self.flows.slots());
        (0..BATCHES_PER_TICK)
            .map(|_| self.replica.next(&self.flows, now, id))
            .take_while(|batch| *batch != Batch::default())
            .collect()
    }

    /// The records of the flows in up to `slots` slots from the slot `from` on that are `wanted`, and
    /// the slot to go on with; `id` names a flow's ingress.
    #[must_use]
    pub fn records(
        &self,
        from: usize,
        slots: usize,
        wanted: impl Fn(&NatFlow) -> bool,
        id: impl Fn(Handle) -> Option<ProxyId> + Copy,
    ) -> (Vec<FlowRecord>, Option<usize>) {
        let (end, all) = (from.saturating_add(slots), self.flows.slots());
        let flows = (from..end.min(all)).filter_map(|slot| self.flows.at(slot));
        let flows = flows.map(|(_, flow)| flow).filter(wanted);
        let records = flows.map(|flow| flow.record(flow.ingress.and_then(id))).collect();
        (records, (end < all).then_some(end))
    }

    /// Ends a flow that goes on elsewhere: no mate hears of it.
    pub fn forget(&mut self, handle: Handle) {
        self.flows.remove(handle);
    }

    /// Ends a flow.
    pub fn remove(&mut self, handle: Handle) {
        if let Some(flow) = self.flows.remove(handle) {
            self.replica.ended(&flow);
        }
    }

    /// Ends flows that have outlived their phase, and gives back slots that XDP left, a bounded number of
    /// slots at a time.
    pub fn age(&mut self, now: Time) {
        let slots = self.flows.slots();
        for _ in 0..AGED_PER_TICK.min(slots) {
            self.swept = (self.swept + 1) % slots;
            match self.flows.at(self.swept) {
                Some((handle, flow)) if flow.last.lies_before(now.into(), flow.phase.idle()) => {
                    self.remove(handle);
                }
                Some(_) => {}
                None => self.flows.take_back(self.swept),
            }
        }
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = NatFlow> {
        (0..self.flows.slots()).filter_map(|slot| self.flows.at(slot)).map(|(_, flow)| flow)
    }
}

#[cfg(test)]
mod tests;
