//! Flows that are translated here.
//!
//! ```text
//! forward   AC:x → AA:g           becomes   JAP:s → AT:r      found by (protocol, AC:x, AA:g)
//! reverse   AT:r → JAP:s          becomes   AA:g → AC:x       found by (protocol, AT:r, s)
//! ```
//! A NAT port is taken per target address and port, so one port serves as many flows as there are
//! targets. Flows that another proxy began keep that proxy's NAT address, from which no port is
//! ever taken for a new one.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hashbrown::HashTable;
use pias_protocol::{
    flow::{FlowPhase, FlowRecord},
    group::Protocol,
    hash::{self, FlowKey},
    ids::{ProxyId, TargetId},
    time::Time,
};

use super::{
    Dice, Phase, Sweep, expired,
    replica::{Batch, Replica, Told},
    reverse_hash, table_hash,
};
use crate::{
    drop_reason::DropReason,
    limits::{
        BATCHES_PER_TICK, EVICTION_SAMPLE, FLOW_PORTS, Limits, PORT_PROBES, PORT_REST, PORT_SAMPLE,
        REPLICATED_AFTER,
    },
    slots::{Handle, Slots},
    wire::tcp,
};

/// A translated flow.
#[derive(Clone, Copy, Debug)]
pub struct NatFlow {
    /// The client's side.
    pub key: FlowKey,
    /// Its target.
    pub target: Handle,
    /// The target's lease.
    pub lease: TargetId,
    /// Where the target is.
    pub address: SocketAddr,
    /// What the target sees as the source.
    pub nat: SocketAddr,
    /// The ingress, where it is another proxy.
    pub ingress: Option<Handle>,
    /// How far it has come.
    pub phase: Phase,
    /// Whether the target has ever sent anything.
    pub answered: bool,
    /// Whether its silence has been held against the target.
    pub judged: bool,
    /// When it began.
    pub created: Time,
    /// When its last packet came, of either side.
    pub last: Time,
    /// When the ingress was last told to pin it.
    pub pinned: Option<Time>,
    /// Whether another proxy, or a former life of this one, began it. Its target need not be
    /// registered here.
    pub adopted: bool,
    /// What the mate that would go on with it has heard of it.
    pub(super) told: Told,
    client: Side,
    server: Side,
    /// Its place among the embryonic flows, while it is one.
    embryonic: Option<u32>,
}

/// What one side of a TCP flow has said about its end.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    fin: bool,
    /// Its last segment was a reset. Anyone can forge one; who goes on sending has sent none.
    reset: bool,
}

impl Side {
    const fn hear(&mut self, flags: u8) {
        self.fin |= flags & tcp::FIN != 0;
        self.reset = flags & tcp::RST != 0;
    }
}

/// What of a flow the mate that would go on with it must know when it changes.
type Stage = (Phase, bool, bool);

impl NatFlow {
    const fn stage(&self) -> Stage {
        (self.phase, self.client.fin, self.server.fin)
    }

    /// Whether both sides have shown that they mean it.
    pub(super) const fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Datagrams => self.answered,
            Phase::Opening | Phase::Closing => false,
        }
    }

    /// Whether it began longer ago than most flows last.
    pub(super) fn is_old(&self, now: Time) -> bool {
        self.adopted || now.since(self.created) >= REPLICATED_AFTER
    }

    /// Whether it is worth telling a mate of: established, and longer than a question and its
    /// answer.
    pub(super) fn outlasts(&self, now: Time) -> bool {
        // A UDP flow does not say that it is over.
        let until = if self.phase == Phase::Datagrams { self.last } else { now };
        self.is_settled() && self.is_old(until)
    }

    /// As another proxy is told of it.
    #[must_use]
    pub const fn record(&self, ingress: Option<ProxyId>) -> FlowRecord {
        FlowRecord {
            key: self.key,
            target: self.address,
            nat: self.nat,
            ingress,
            phase: match self.phase {
                Phase::Datagrams if self.answered => FlowPhase::Answered,
                Phase::Datagrams => FlowPhase::Asked,
                Phase::Opening => FlowPhase::Opening,
                Phase::Open => FlowPhase::Open,
                Phase::Closing => FlowPhase::Closing,
            },
            client_finished: self.client.fin,
            target_finished: self.server.fin,
        }
    }

    /// A segment of the client with these flags came.
    pub fn client_sent(&mut self, flags: u8, now: Time) {
        self.refresh(flags, now);
        self.client.hear(flags);
        // Only the third segment opens a flow: a forged SYN is answered with a SYN-ACK, too.
        if self.phase == Phase::Opening && self.answered && flags & tcp::SYN == 0 {
            self.phase = Phase::Open;
        }
        self.advance();
    }

    /// A segment of the target with these flags came.
    pub fn target_sent(&mut self, flags: u8, now: Time) {
        self.refresh(flags, now);
        self.server.hear(flags);
        self.advance();
    }

    /// RFC 7857 section 7.1: a reset that only answers the other side keeps nothing alive.
    fn refresh(&mut self, flags: u8, now: Time) {
        if self.phase != Phase::Closing || flags & tcp::RST == 0 {
            self.last = now;
        }
    }

    /// RFC 7857 section 2: a reset leads to the transitory timer, and a segment behind it, of the
    /// side that seemed to send it, back again.
    fn advance(&mut self) {
        let over = self.client.reset || self.server.reset || (self.client.fin && self.server.fin);
        self.phase = match self.phase {
            Phase::Datagrams => Phase::Datagrams,
            _ if over => Phase::Closing,
            Phase::Closing if self.answered => Phase::Open,
            Phase::Closing => Phase::Opening,
            same => same,
        };
    }

    /// How little it would be missed: the kind first, then how long it has been idle. `None` for
    /// an established TCP flow, which is never given up for another.
    fn expendable(&self, now: Time) -> Option<(u8, Duration)> {
        let rank = match self.phase {
            Phase::Open => return None,
            Phase::Closing => 2,
            _ if self.embryonic.is_some() => 1,
            _ => 0,
        };
        Some((rank, now.since(self.last)))
    }
}

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
    flows: Slots<NatFlow>,
    forward: HashTable<Handle>,
    reverse: HashTable<Handle>,
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
            flows: Slots::default(),
            forward: HashTable::new(),
            reverse: HashTable::new(),
            embryonic: Vec::new(),
            limits,
            seed,
            dice: Dice::new(!seed),
            sweep: Sweep::default(),
            evicted: 0,
            replica: Replica::new(limits.nat_flows),
        }
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
        let hash = table_hash(key, self.seed);
        self.forward
            .find(hash, |&handle| self.flows.get(handle).is_some_and(|flow| flow.key == *key))
            .copied()
    }

    /// The flow of a target's packet to a NAT address and port.
    #[must_use]
    pub fn reverse(
        &self,
        protocol: Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        // Flows that differ in the NAT address alone are few.
        let hash = reverse_hash(protocol, target, nat.port(), self.seed);
        self.reverse
            .find(hash, |&handle| {
                self.flows.get(handle).is_some_and(|flow| {
                    flow.nat == nat && flow.address == target && flow.key.group.protocol == protocol
                })
            })
            .copied()
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
        let handle = self.insert(NatFlow {
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
        let handle = self.insert(NatFlow {
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

    fn insert(&mut self, flow: NatFlow) -> Handle {
        let handle = self.flows.insert(flow);
        let (flows, seed) = (&self.flows, self.seed);
        self.forward.insert_unique(table_hash(&flow.key, seed), handle, |&other| {
            flows.get(other).map_or(0, |flow| table_hash(&flow.key, seed))
        });
        self.reverse.insert_unique(reverse_hash_of(&flow, seed), handle, |&other| {
            flows.get(other).map_or(0, |flow| reverse_hash_of(flow, seed))
        });
        handle
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
            .sample(&self.flows)
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
            && self.replica.wanted()
            && flow.outlasts(now);
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

    /// Whether a mate is to be told of flows; if so, it is told of all anew.
    pub fn replicate(&mut self, wanted: bool) {
        self.replica.want(wanted, self.flows.slots());
    }

    /// What a mate is to be told in this tick, in bounded batches; `id` names a flow's ingress.
    pub fn replicas(
        &mut self,
        now: Time,
        id: impl Fn(Handle) -> Option<ProxyId> + Copy,
    ) -> Vec<Batch> {
        self.replica.tick(self.flows.slots());
        (0..BATCHES_PER_TICK)
            .map(|_| self.replica.next(&mut self.flows, now, id))
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
        let end = from.saturating_add(slots);
        let flows = (from..end.min(self.flows.slots())).filter_map(|slot| self.flows.at(slot));
        let records = flows
            .filter(|(_, flow)| wanted(flow))
            .map(|(_, flow)| flow.record(flow.ingress.and_then(id)))
            .collect();
        (records, (end < self.flows.slots()).then_some(end))
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
        if let Ok(entry) =
            self.forward.find_entry(table_hash(&flow.key, self.seed), |&other| other == handle)
        {
            entry.remove();
        }
        let hash = reverse_hash_of(&flow, self.seed);
        if let Ok(entry) = self.reverse.find_entry(hash, |&other| other == handle) {
            entry.remove();
        }
        self.flows.remove(handle);
    }

    /// Ends flows that have outlived their phase, a bounded number of slots at a time.
    pub fn age(&mut self, now: Time) {
        for old in self.sweep.next(&self.flows, |flow| expired(flow.phase, flow.last, now)) {
            self.remove(old);
        }
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = &NatFlow> {
        self.flows.iter().map(|(_, flow)| flow)
    }
}

fn reverse_hash_of(flow: &NatFlow, seed: u64) -> u64 {
    reverse_hash(flow.key.group.protocol, flow.address, flow.nat.port(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(client_port: u16, protocol: &str) -> NewFlow {
        NewFlow {
            key: FlowKey {
                client: SocketAddr::new("192.0.2.1".parse().unwrap(), client_port),
                group: format!("203.0.113.1:80/{protocol}").parse().unwrap(),
            },
            target: Slots::default().insert(()),
            lease: TargetId(1),
            address: "10.0.0.1:80".parse().unwrap(),
            nat: "192.0.2.200".parse().unwrap(),
            ingress: None,
        }
    }

    fn table(nat_flows: usize, nat_embryonic: usize) -> NatTable {
        NatTable::new(Limits { nat_flows, nat_embryonic, ..Limits::default() }, 42)
    }

    const START: Time = Time::from_micros(1_000_000);

    fn establish(table: &mut NatTable, handle: Handle) {
        table.answered(handle);
        table.target_sent(handle, tcp::SYN | tcp::ACK, START);
        table.client_sent(handle, tcp::ACK, START).unwrap();
        assert_eq!(table.get(handle).unwrap().phase, Phase::Open);
    }

    #[test]
    fn a_forged_reset_ends_nothing_while_its_seeming_sender_goes_on() {
        let mut table = table(4, 4);
        let handle = table.open(new(1, "tcp"), START).unwrap();
        establish(&mut table, handle);
        let flow = table.get_mut(handle).unwrap();
        flow.client_sent(tcp::RST, START);
        assert_eq!(flow.phase, Phase::Closing);
        flow.target_sent(tcp::ACK, START);
        assert_eq!(flow.phase, Phase::Closing, "what was under way proves nothing");
        flow.client_sent(tcp::ACK, START);
        assert_eq!(flow.phase, Phase::Open);
    }

    #[test]
    fn a_busy_target_takes_new_questions_on_ports_that_rest() {
        let mut table = table(1 << 17, 1 << 17);
        let question = |n: usize| {
            let mut flow = new(1 + (n % 60_000) as u16, "udp");
            flow.key
                .client
                .set_ip(std::net::Ipv4Addr::from(0x0A00_0000 + (n / 60_000) as u32).into());
            flow
        };
        for n in 0..200_000 {
            let now = START + Duration::from_micros(50 * n as u64);
            let handle = table.open(question(n), now);
            assert!(handle.is_ok(), "question {n}: {handle:?}");
            table.answered(handle.unwrap());
        }
    }

    #[test]
    fn a_flow_is_found_from_both_sides() {
        let mut table = table(100, 100);
        let handle = table.open(new(5, "udp"), START).unwrap();
        let flow = *table.get(handle).unwrap();
        assert!(FLOW_PORTS.contains(&flow.nat.port()));
        assert_eq!(table.forward(&flow.key), Some(handle));
        assert_eq!(table.reverse(Protocol::Udp, flow.address, flow.nat), Some(handle));
        assert_eq!(table.reverse(Protocol::Tcp, flow.address, flow.nat), None);
        table.remove(handle);
        assert_eq!((table.forward(&flow.key), table.count(), table.embryonic()), (None, 0, 0));
    }

    #[test]
    fn a_flood_of_syns_evicts_its_own_kind() {
        let mut table = table(64, 8);
        let good: Vec<Handle> = (1..=20)
            .map(|port| {
                let handle = table.open(new(port, "tcp"), START).unwrap();
                establish(&mut table, handle);
                handle
            })
            .collect();
        for port in 1000..3000 {
            let forged = table.open(new(port, "tcp"), START + Duration::from_secs(1)).unwrap();
            // The target answers every other one.
            if port % 2 == 0 {
                table.target_sent(forged, tcp::SYN | tcp::ACK, START);
                table.answered(forged);
            }
        }
        assert_eq!((table.count(), table.embryonic()), (28, 8));
        assert!(good.iter().all(|&handle| table.get(handle).is_some()));
        assert_eq!(table.take_evicted(), 2000 - 8);
    }

    #[test]
    fn a_table_full_of_established_flows_takes_no_more() {
        let mut table = table(4, 4);
        for port in 1..=4 {
            let handle = table.open(new(port, "tcp"), START).unwrap();
            establish(&mut table, handle);
        }
        assert_eq!(table.open(new(9, "tcp"), START), Err(DropReason::NatTableFull));
    }

    #[test]
    fn both_ends_must_finish_before_a_flow_closes() {
        let mut table = table(4, 4);
        let handle = table.open(new(1, "tcp"), START).unwrap();
        establish(&mut table, handle);
        let flow = table.get_mut(handle).unwrap();
        flow.client_sent(tcp::FIN | tcp::ACK, START);
        assert_eq!(flow.phase, Phase::Open);
        flow.target_sent(tcp::FIN | tcp::ACK, START);
        assert_eq!(flow.phase, Phase::Closing);
        table.age(START + Duration::from_secs(239));
        assert_eq!(table.count(), 1);
        table.age(START + Duration::from_secs(240));
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn every_port_towards_one_target_is_used_before_none_is_left() {
        let mut table = table(1 << 17, 1 << 17);
        let opened = (0..FLOW_PORTS.len())
            .filter(|&n| {
                let mut flow = new(1 + (n % 60_000) as u16, "udp");
                if n >= 60_000 {
                    flow.key.client.set_ip("192.0.2.2".parse().unwrap());
                }
                table.open(flow, START).is_ok()
            })
            .count();
        assert!(opened > 55_000, "only {opened} ports found");
        let mut other = new(1, "udp");
        other.address = "10.0.0.2:80".parse().unwrap();
        other.key.client.set_ip("192.0.2.3".parse().unwrap());
        assert!(table.open(other, START).is_ok(), "another target has all ports of its own");
    }
}
