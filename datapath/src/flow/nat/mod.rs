//! Flows that are translated here.
//!
//! ```text
//! forward   AC:x → AA:g           becomes   JAP:s → AT:r      found by (protocol, AC:x, AA:g)
//! reverse   AT:r → JAP:s          becomes   AA:g → AC:x       found by (protocol, AT:r, s)
//! ```
//! A NAT port is taken per target address and port, so one port serves as many flows as there are
//! targets. Flows that another proxy began keep that proxy's NAT address, from which no port is
//! ever taken for a new one.

mod flow;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use pias_protocol::{
    flow::{FlowPhase, FlowRecord},
    group::Protocol,
    hash::{self, FlowKey},
    ids::{ProxyId, TargetId},
    time::Time,
};

pub use self::flow::NatFlow;
use self::flow::Side;
use super::{
    Dice, Phase, Sweep,
    elsewhere::Elsewhere,
    expired,
    replica::{Batch, Replica, Told},
    sides::Sides,
    table_hash,
};
use crate::{
    drop_reason::DropReason,
    limits::{
        BATCHES_PER_TICK, EVICTION_SAMPLE, FLOW_PORTS, Limits, PORT_PROBES, PORT_REST, PORT_SAMPLE,
    },
    slots::Handle,
};

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
    flows: Sides<NatFlow>,
    embryonic: Vec<Handle>,
    limits: Limits,
    seed: u64,
    dice: Dice,
    sweep: Sweep,
    evicted: u64,
    replica: Replica,
}

impl NatTable {
    /// A table of these limits.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            flows: Sides::new(seed),
            embryonic: Vec::new(),
            limits,
            seed,
            dice: Dice::new(!seed),
            sweep: Sweep::default(),
            evicted: 0,
            replica: Replica::new(limits.nat_flows),
        }
    }

    /// Tells XDP of all flows that begin or end from now on.
    pub fn tell(&mut self, told: Arc<Elsewhere>) {
        self.flows.tell(told);
    }

    /// How many flows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flows.count()
    }

    /// How many of them are embryonic: UDP flows whose target has not answered, TCP flows that were
    /// never established.
    #[must_use]
    pub fn embryonic(&self) -> usize {
        self.embryonic.len()
    }

    /// How many flows were evicted since this was last asked.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// The flow of a client's packet.
    #[must_use]
    pub fn forward(&self, key: &FlowKey) -> Option<Handle> {
        self.flows.forward(key)
    }

    /// The flow of a target's packet to a NAT address and port.
    #[must_use]
    pub fn reverse(
        &self,
        protocol: Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        self.flows.reverse(protocol, target, nat)
    }

    /// A flow, while it lives.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<&NatFlow> {
        self.flows.get(handle)
    }

    /// A flow, while it lives, to be changed.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut NatFlow> {
        self.flows.get_mut(handle)
    }

    /// Begins a flow.
    ///
    /// # Errors
    /// [`DropReason::NatPortsExhausted`] or [`DropReason::NatTableFull`].
    pub fn open(&mut self, new: NewFlow, now: Time) -> Result<Handle, DropReason> {
        let port = self.free_port(&new, now)?;
        self.make_room(now)?;
        let handle = self.flows.insert(NatFlow {
            key: new.key,
            target: new.target,
            lease: new.lease,
            address: new.address,
            nat: SocketAddr::new(new.nat, port),
            ingress: new.ingress,
            phase: Phase::first(new.key.group.protocol),
            answered: false,
            judged: false,
            created: now,
            last: now,
            pinned: None,
            adopted: false,
            untouched: false,
            told: Told::Nothing,
            client: Side::default(),
            server: Side::default(),
            embryonic: Some(self.embryonic.len() as u32),
        });
        self.embryonic.push(handle);
        Ok(handle)
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
        let protocol = record.key.group.protocol;
        if self.forward(&record.key).is_some()
            || self.reverse(protocol, record.target, record.nat).is_some()
        {
            return Ok(None);
        }
        self.make_room(now)?;
        let (phase, answered) = match record.phase {
            FlowPhase::Asked => (Phase::Datagrams, false),
            FlowPhase::Answered => (Phase::Datagrams, true),
            FlowPhase::Opening => (Phase::Opening, true),
            FlowPhase::Open => (Phase::Open, true),
            FlowPhase::Closing => (Phase::Closing, true),
        };
        let embryonic = !answered || phase == Phase::Opening;
        let side = |fin| Side { fin, reset: false };
        let handle = self.flows.insert(NatFlow {
            key: record.key,
            target,
            lease,
            address: record.target,
            nat: record.nat,
            ingress,
            phase,
            answered,
            // It is nobody's first impression of the target.
            judged: true,
            created: now,
            last: now,
            pinned: None,
            adopted: true,
            untouched: true,
            told: Told::Nothing,
            client: side(record.client_finished),
            server: side(record.target_finished),
            embryonic: embryonic.then_some(self.embryonic.len() as u32),
        });
        if embryonic {
            self.embryonic.push(handle);
        }
        self.note(handle, now);
        Ok(Some(handle))
    }

    /// A port that no flow to this target has; at worst that of a flow that rests and will be missed
    /// least. The start is hashed (RFC 6056 section 3.3.3), so that nobody guesses it from another's.
    fn free_port(&mut self, new: &NewFlow, now: Time) -> Result<u16, DropReason> {
        let protocol = new.key.group.protocol;
        let (first, count) = (*FLOW_PORTS.start(), FLOW_PORTS.len() as u64);
        let start = hash::mix(table_hash(&new.key, self.seed), self.seed) % count;
        let mut resting: Option<((u8, Duration), u16, Handle)> = None;
        for step in 0..u64::from(PORT_PROBES) {
            if step >= u64::from(PORT_SAMPLE) && resting.is_some() {
                break;
            }
            let port = first + ((start + step) % count) as u16;
            let Some(taken) = self.reverse(protocol, new.address, SocketAddr::new(new.nat, port))
            else {
                return Ok(port);
            };
            if let Some(rest) = self.flows.get(taken).and_then(|flow| flow.expendable(now))
                && rest.1 >= PORT_REST
                && resting.is_none_or(|(most, ..)| rest > most)
            {
                resting = Some((rest, port, taken));
            }
        }
        let (_, port, handle) = resting.ok_or(DropReason::NatPortsExhausted)?;
        self.evict(handle);
        Ok(port)
    }

    fn make_room(&mut self, now: Time) -> Result<(), DropReason> {
        if self.embryonic.len() >= self.limits.nat_embryonic {
            let start = self.dice.below(self.embryonic.len());
            let oldest = (0..EVICTION_SAMPLE)
                .filter_map(|step| self.embryonic.get((start + step) % self.embryonic.len()))
                .copied()
                .min_by_key(|&handle| self.flows.get(handle).map(|flow| flow.last));
            self.evict(oldest.ok_or(DropReason::NatTableFull)?);
        }
        if self.flows.count() >= self.limits.nat_flows {
            let victim = self.expendable(now).ok_or(DropReason::NatTableFull)?;
            self.evict(victim);
        }
        Ok(())
    }

    /// Of a few flows the one that will be missed least; never an established TCP flow.
    fn expendable(&mut self, now: Time) -> Option<Handle> {
        self.dice
            .sample(self.flows.as_slots())
            .filter_map(|(handle, flow)| Some((flow.expendable(now)?, handle)))
            .max_by_key(|&(missed, _)| missed)
            .map(|(_, handle)| handle)
    }

    fn evict(&mut self, handle: Handle) {
        self.remove(handle);
        self.evicted += 1;
    }

    /// The target sent its first packet.
    pub fn answered(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        flow.answered = true;
        if flow.phase == Phase::Datagrams {
            self.settle(handle);
        }
    }

    /// A segment of the client with these flags came. Returns what the target shall see as source,
    /// and where the target is.
    pub fn client_sent(
        &mut self,
        handle: Handle,
        flags: u8,
        now: Time,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let flow = self.flows.get_mut(handle)?;
        let before = flow.stage();
        flow.client_sent(flags, now);
        let ends = (flow.nat, flow.address);
        let lasts = flow.told == Told::Nothing
            && flow.phase == Phase::Datagrams
            && self.replica.tells(flow, now);
        if flow.stage() != before || lasts {
            self.note(handle, now);
        }
        Some(ends)
    }

    /// A segment of the target with these flags came.
    pub fn target_sent(&mut self, handle: Handle, flags: u8, now: Time) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let before = flow.stage();
        flow.target_sent(flags, now);
        if flow.stage() != before {
            self.note(handle, now);
        }
    }

    /// A flow has become another than it was.
    #[cold]
    fn note(&mut self, handle: Handle, now: Time) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let opened = flow.phase == Phase::Open && flow.embryonic.is_some();
        self.replica.changed(handle, flow, now);
        if opened {
            self.settle(handle);
        }
    }

    /// Whether a mate is to be told of flows; if so, it is told of all anew. Whether of `young` ones,
    /// too.
    pub fn replicate(&mut self, wanted: bool, young: bool) {
        self.replica.want(wanted, young, self.flows.as_slots().slots());
    }

    /// What a mate is to be told in this tick, in bounded batches; `id` names a flow's ingress.
    pub fn replicas(
        &mut self,
        now: Time,
        id: impl Fn(Handle) -> Option<ProxyId> + Copy,
    ) -> Vec<Batch> {
        self.replica.tick(self.flows.as_slots().slots());
        (0..BATCHES_PER_TICK)
            .map(|_| self.replica.next(self.flows.as_slots_mut(), now, id))
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
        let (flows, rest) = self.flows.some(from, slots);
        let flows = flows.filter(|flow| wanted(flow));
        (flows.map(|flow| flow.record(flow.ingress.and_then(id))).collect(), rest)
    }

    /// Ends a flow that goes on elsewhere: no mate hears of it.
    pub fn forget(&mut self, handle: Handle) {
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.told = Told::Nothing;
        }
        self.remove(handle);
    }

    /// A flow is embryonic no more.
    fn settle(&mut self, handle: Handle) {
        let Some(place) = self.flows.get_mut(handle).and_then(|flow| flow.embryonic.take()) else {
            return;
        };
        self.embryonic.swap_remove(place as usize);
        if let Some(&moved) = self.embryonic.get(place as usize)
            && let Some(flow) = self.flows.get_mut(moved)
        {
            flow.embryonic = Some(place);
        }
    }

    /// Ends a flow.
    pub fn remove(&mut self, handle: Handle) {
        let Some(&flow) = self.flows.get(handle) else { return };
        self.replica.ended(&flow);
        self.settle(handle);
        self.flows.remove(handle);
    }

    /// Ends flows that have outlived their phase, a bounded number of slots at a time.
    pub fn age(&mut self, now: Time) {
        for old in
            self.sweep.next(self.flows.as_slots(), |flow| expired(flow.phase, flow.last, now))
        {
            self.remove(old);
        }
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = &NatFlow> {
        self.flows.iter()
    }
}

#[cfg(test)]
mod tests;
