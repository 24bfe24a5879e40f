//! Flows of mates: held while their proxy lives, gone on with when it is gone, handed back when it
//! has returned.
//!
//! ```text
//!   packet of a flow that is not here ──► held? ──┬─ its proxy lives ──► to it, in the tunnel
//!   (a client's, or a target's to the mate's      ├─ another is its heir ► to that, in the tunnel
//!    NAT address)                                 └─ this one is ───────► promoted: translated here,
//!                                                                         with the mate's NAT address
//! ```
//! Orphans are promoted without a packet, too, in bounded steps, so that the ingress learns soon where
//! its flow is, and the next mate of it.

use std::{collections::VecDeque, net::IpAddr};

use pias_protocol::{
    flow::FlowRecord,
    forwarding::ForwardingEvent,
    geneve::{Flags, PiasOption},
    group::Protocol,
    hash::{FlowHash, FlowKey},
    ids::{ProxyId, TargetId},
    limits::{MAX_FLOWS_PER_MESSAGE, MAX_HOPS},
    time::Time,
};

use super::{Pipeline, Side, Verdict, ingress::Client};
use crate::{
    classify::{Kind, Transport, View},
    counters::Path,
    drop_reason::DropReason,
    flow::{
        nat::NatFlow,
        standby::{Held, Standby},
    },
    limits::{HANDED_PER_TICK, MAX_HANDED, MAX_SIDE},
    packet::Packet,
    parking::Ingress,
    rewrite,
    slots::Handle,
    wire::{build, set_word, tcp, udp},
};

/// Where a flow is that a mate told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Nobody told of it.
    Unknown,
    /// Here, from now on.
    Here(Handle),
    /// At this live peer.
    At(Handle),
}

/// Flows being handed back to a proxy that has returned.
#[derive(Debug)]
pub(super) struct Return {
    pub(super) to: ProxyId,
    pub(super) nat: Vec<IpAddr>,
    /// The next slot of the flows that are translated here; `None` when all were looked at.
    live: Option<usize>,
    /// The next slot of those held.
    held: Option<usize>,
}

/// All returns under way.
pub(super) type Returns = VecDeque<Return>;

impl Pipeline {
    /// The flow of a client's packet that is not translated here.
    pub(super) fn whereabouts(
        &mut self,
        client: &Client,
        now: Time,
        side: &mut Side,
    ) -> Whereabouts {
        let tcp = client.transport.protocol == Protocol::Tcp;
        let new = client.transport.opens() && (tcp || client.arrival.sent_back);
        match self.standby.forward(&client.key) {
            // The port is used again; or who had the flow has no target for it any more, and sent it
            // back before its mates heard of that.
            Some(_) if new => Whereabouts::Unknown,
            Some(held) => self.locate(held, now, side),
            None => Whereabouts::Unknown,
        }
    }

    fn locate(&mut self, handle: Handle, now: Time, side: &mut Side) -> Whereabouts {
        let Some(held) = self.standby.get(handle) else { return Whereabouts::Unknown };
        match self.standby.holder(held, |id| self.table.stand_in(id)) {
            Some(id) if id != self.config.self_id => {
                self.table.peer_of(id).map_or(Whereabouts::Unknown, Whereabouts::At)
            }
            _ => self.promote(handle, now, side).map_or(Whereabouts::Unknown, Whereabouts::Here),
        }
    }

    /// A client's packet of a flow that a live peer has: sent there on behalf of its ingress, which that
    /// peer tells. `None` where it has been to too many proxies.
    pub(super) fn pass_on(
        &mut self,
        packet: &mut Packet,
        client: &Client,
        to: Handle,
        now: Time,
        side: &mut Side,
    ) -> Option<Verdict> {
        let tunnel = self.table.peer(to)?.tunnel;
        let Client { view, key, arrival, .. } = client;
        if arrival.visited >= MAX_HOPS {
            return None;
        }
        let ingress = match arrival.ingress {
            Ingress::Peer { tunnel, .. } => tunnel,
            Ingress::Here => self.own_tunnel(tunnel)?,
        };
        if arrival.tunnelled && !rewrite::decrement_ttl(packet.bytes_mut(), &view.ip) {
            return Some(self.time_exceeded(packet, &view.ip, now, side));
        }
        self.count(Path::StandbyRelay);
        let option = PiasOption { flags: Flags::default(), hops: arrival.visited, ingress };
        Some(Self::to_peer(tunnel, key.hash(), &view.ip, Some(option)))
    }

    /// The flow of a target's packet to a mate's NAT address that is not translated here.
    pub(super) fn orphan_of(
        &mut self,
        transport: &Transport,
        now: Time,
        side: &mut Side,
    ) -> Option<Handle> {
        let (target, nat) = (transport.source, transport.destination);
        let held = self.standby.reverse(transport.protocol, target, nat)?;
        match self.locate(held, now, side) {
            Whereabouts::Here(flow) => Some(flow),
            Whereabouts::At(_) | Whereabouts::Unknown => None,
        }
    }

    /// A packet to a NAT address that nothing is known of here: to the proxy that has its flow, or
    /// whose address it is. Packets that came from there are not sent back.
    pub(super) fn for_owner(&mut self, view: &View, tunnelled: bool) -> Option<Verdict> {
        if tunnelled || self.config.nat.contains(&view.ip.destination) {
            return None;
        }
        let of = self.standby_nat.iter().find(|(_, nat)| *nat == view.ip.destination)?.0;
        let holder = match view.kind {
            Kind::Transport(transport) => {
                let (target, nat) = (transport.source, transport.destination);
                let held = self.standby.reverse(transport.protocol, target, nat);
                let held = held.and_then(|held| self.standby.get(held));
                held.map_or(Some(of), |held| {
                    self.standby.holder(held, |id| self.table.stand_in(id))
                })?
            }
            _ => of,
        };
        let peer = self.table.peer(self.table.peer_of(holder)?)?;
        let (tunnel, hash) = (peer.tunnel, FlowHash(holder.0));
        self.count(Path::StandbyRelay);
        Some(Self::to_peer(tunnel, hash, &view.ip, None))
    }

    /// Goes on with an orphan, unless another flow has its place by now, or there is no room yet.
    fn promote(&mut self, handle: Handle, now: Time, side: &mut Side) -> Option<Handle> {
        let record = self.standby.get(handle)?.record;
        let flow = self.adopt(&record, now).ok()?;
        self.standby.remove(handle);
        let flow = flow?;
        self.count(Path::FlowPromoted);
        self.tell_ingress(&record, side, now);
        Some(flow)
    }

    /// `None` where another flow has its place.
    pub(super) fn adopt(
        &mut self,
        record: &FlowRecord,
        now: Time,
    ) -> Result<Option<Handle>, DropReason> {
        let target = self.table.target_at(&record.key.group, record.target);
        let target = target.unwrap_or((Handle::NONE, TargetId(0)));
        let ingress = record.ingress.and_then(|id| self.table.peer_of(id));
        let adopted = self.nat.adopt(record, target, ingress, now);
        for _ in 0..self.nat.take_evicted() {
            self.count(Path::FlowEvicted);
        }
        adopted
    }

    /// Tells the ingress of a promoted flow where it is now, before it learns of the death.
    fn tell_ingress(&mut self, record: &FlowRecord, side: &mut Side, now: Time) {
        let peer = record.ingress.and_then(|id| self.table.peer(self.table.peer_of(id)?));
        let Some(tunnel) = peer.map(|peer| peer.tunnel) else { return };
        let Some(own) = self.own_tunnel(tunnel) else { return };
        if !self.rates.pin.allow(now) {
            return;
        }
        let packet = headers_of(&record.key);
        let Ok(view) = View::parse(packet.bytes()) else { return };
        let option = PiasOption { flags: Flags::PIN, hops: 1, ingress: own };
        let verdict = Self::to_peer(tunnel, record.key.hash(), &view.ip, Some(option));
        if side.push_packet(verdict, packet) {
            self.count(Path::PinSent);
        } else {
            self.counters.count_drop(DropReason::SideFull);
        }
    }

    /// A mate tells of its flows.
    pub(super) fn stand_by(&mut self, of: ProxyId, records: Vec<FlowRecord>, now: Time) {
        for record in records {
            if let Some(live) = self.nat.forward(&record.key) {
                self.yield_flow(live, of, &record);
            }
            if !self.standby.hold(of, record, now) {
                self.counters.count_drop(DropReason::StandbyFull);
            }
        }
    }

    /// A flow that is gone on with here lives elsewhere, too: at its own proxy, which is back, or at
    /// another that thought it was the heir. One of both keeps it. Or its client has used the port
    /// again since, for a flow of the mate's.
    fn yield_flow(&mut self, live: Handle, of: ProxyId, record: &FlowRecord) {
        let Some(flow) = self.nat.get(live) else { return };
        let (nat, own) = (flow.nat, self.config.nat.contains(&flow.nat.ip()));
        let its_own = self.standby_nat.contains(&(of, nat.ip()));
        let twice = !own && nat == record.nat && (its_own || of > self.config.self_id);
        if twice || nat != record.nat && flow.is_over() {
            self.nat.forget(live);
        }
    }

    /// Flows that are this proxy's own.
    pub(super) fn adopt_all(&mut self, records: &[FlowRecord], now: Time) {
        let own = records.iter().filter(|record| self.config.nat.contains(&record.nat.ip()));
        for record in own.copied().collect::<Vec<_>>() {
            match self.adopt(&record, now) {
                Ok(Some(_)) => self.count(Path::FlowAdopted),
                Ok(None) => {}
                Err(reason) => self.counters.count_drop(reason),
            }
        }
    }

    /// A proxy is back, and wants its flows.
    pub(super) fn hand_back(&mut self, to: ProxyId, nat: Vec<IpAddr>) {
        self.returns.retain(|other| other.to != to);
        if self.returns.len() < MAX_HANDED {
            self.returns.push_back(Return { to, nat, live: Some(0), held: Some(0) });
        }
    }

    /// Goes on with orphans and with returns, and tells the mate of this proxy's own flows.
    pub(super) fn tick_standby(&mut self, now: Time, side: &mut Side) {
        self.promote_orphans(now, side);
        self.tick_returns(side);
        let batches = self.nat.replicas(now, |peer| self.table.peer(peer).map(|peer| peer.id));
        for batch in batches {
            for _ in &batch.records {
                self.count(Path::FlowReplicated);
            }
            let (records, ended) = (batch.records, batch.ended);
            self.event(ForwardingEvent::Flows { records, ended }, side);
        }
    }

    /// Promotes some of the orphans.
    pub(super) fn promote_orphans(&mut self, now: Time, side: &mut Side) {
        let ours = |standby: &Standby, held: &Held| {
            let holder = standby.holder(held, |id| self.table.stand_in(id));
            // Where no heir is known, better two than none.
            holder.is_none_or(|id| id == self.config.self_id)
        };
        for orphan in self.standby.age(now, ours) {
            // Each may have an ingress to tell; the rest has its turn later.
            if side.packets.len() >= MAX_SIDE {
                return;
            }
            let _ = self.promote(orphan, now, side);
        }
    }

    fn tick_returns(&mut self, side: &mut Side) {
        let Some(mut current) = self.returns.pop_front() else { return };
        let (to, nat) = (current.to, &current.nat);
        let mut records = Vec::new();
        // Those held first: a flow that is promoted meanwhile is found among the others later.
        if let Some(from) = current.held {
            let wanted = |held: &Held| nat.contains(&held.record.nat.ip());
            (records, current.held) = self.standby.records(from, HANDED_PER_TICK, wanted);
        } else if let Some(from) = current.live {
            let id = |peer| self.table.peer(peer).map(|peer| peer.id);
            let wanted = |flow: &NatFlow| nat.contains(&flow.nat.ip());
            (records, current.live) = self.nat.records(from, HANDED_PER_TICK, wanted, id);
        }
        let done = current.live.is_none() && current.held.is_none();
        let mut chunks = records.chunks(MAX_FLOWS_PER_MESSAGE).peekable();
        while let Some(chunk) = chunks.next() {
            let last = done && chunks.peek().is_none();
            let handed = ForwardingEvent::HandedBack { to, records: chunk.to_vec(), last };
            self.event(handed, side);
        }
        if done && records.is_empty() {
            self.event(ForwardingEvent::HandedBack { to, records, last: true }, side);
        } else if !done {
            self.returns.push_front(current);
        }
    }
}

/// The headers of a client's packet of a flow.
fn headers_of(key: &FlowKey) -> Packet {
    let group = key.group.socket();
    let mut upper = match key.group.protocol {
        Protocol::Tcp => vec![0; tcp::HEADER],
        Protocol::Udp => vec![0; udp::HEADER],
    };
    set_word(&mut upper, 0, key.client.port());
    set_word(&mut upper, 2, group.port());
    match key.group.protocol {
        // The data begins behind five words.
        Protocol::Tcp => upper[tcp::DATA_OFFSET] = 5 << 4,
        Protocol::Udp => set_word(&mut upper, udp::LENGTH, udp::HEADER as u16),
    }
    build::ip_packet(key.client.ip(), group.ip(), key.group.protocol.number(), &upper)
}
