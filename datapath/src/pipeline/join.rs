//! A packet of another proxy, and every packet that this proxy delivers as a JAP.

use std::net::IpAddr;

use pias_protocol::{
    forwarding::{ForwardingEvent, SecondChanceCause, TargetState},
    geneve::{self, Flags, PiasOption},
    group::Protocol,
    hash::{FlowHash, FlowKey},
    ids::ProxyId,
    limits::MAX_HOPS,
    time::Time,
};

use super::{Pipeline, Side, Verdict, ingress::flow_key, is_registration};
use crate::{
    classify::{Kind, Transport, View},
    counters::Path,
    drop_reason::DropReason,
    flow::{Phase, nat::NewFlow},
    health,
    limits::PIN_EVERY,
    packet::Packet,
    parking::{Arrival, Ingress},
    rewrite,
    slots::Handle,
    table::Choice,
    wire::icmp::Message,
};

impl Pipeline {
    /// A packet that a peer sent to an anycast address.
    pub(super) fn from_peer(
        &mut self,
        peer: Handle,
        header: &geneve::Header,
        packet: &mut Packet,
        view: &View,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let arrival = match self.arrival(peer, header.option) {
            Ok(arrival) => arrival,
            Err(reason) => return self.drop_for(reason),
        };
        match view.kind {
            Kind::Transport(transport) => {
                let key = flow_key(&transport);
                if is_registration(&key.group) {
                    return self.drop_for(DropReason::NotOurs);
                }
                if arrival.visited > MAX_HOPS {
                    return self.gone_in_circles(packet, view, now, side);
                }
                match header.option {
                    Some(option) if option.flags.contains(Flags::RESOLVE) => {
                        self.resolve(peer, option, packet, &transport, arrival, now, side)
                    }
                    _ => {
                        let hash = key.hash();
                        self.join(packet, view, &transport, key, hash, arrival, now, side)
                    }
                }
            }
            Kind::Icmp { message: Message::Echo | Message::Ignored } => {
                self.drop_for(DropReason::IcmpIgnored)
            }
            Kind::Icmp { message } => {
                self.error_at_anycast(packet, view, message, arrival, now, side)
            }
            Kind::LaterFragment => self.drop_for(DropReason::FragmentOrphan),
            Kind::Other => self.drop_for(DropReason::ProtocolUnsupported),
        }
    }

    fn arrival(&self, peer: Handle, option: Option<PiasOption>) -> Result<Arrival, DropReason> {
        let named = |handle: Handle, tunnel: IpAddr| {
            let id = self.table.peer(handle).map(|peer| peer.id);
            id.map(|id| Ingress::Peer { handle, id, tunnel }).ok_or(DropReason::UnknownPeer)
        };
        let sender = |handle: Handle| {
            let tunnel = self.table.peer(handle).map(|peer| peer.tunnel);
            named(handle, tunnel.ok_or(DropReason::UnknownPeer)?)
        };
        let Some(option) = option else {
            let ingress = sender(peer)?;
            return Ok(Arrival { ingress, visited: 2, tunnelled: true, notify: false });
        };
        let (ingress, notify) = if self.config.unicast.contains(&option.ingress) {
            (Ingress::Here, false)
        } else {
            match self.table.peer_at(option.ingress) {
                Some(handle) => (named(handle, option.ingress)?, true),
                None if option.flags.contains(Flags::RESOLVE) => {
                    return Err(DropReason::UnknownPeer);
                }
                // An ingress that this proxy does not know cannot be told, but is served.
                None => (sender(peer)?, false),
            }
        };
        let visited = option.hops.saturating_add(1);
        Ok(Arrival { ingress, visited, tunnelled: true, notify })
    }

    fn gone_in_circles(
        &mut self,
        packet: &Packet,
        view: &View,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let _ = self.refuse(packet, view, now, side);
        self.drop_for(DropReason::HopLimit)
    }

    /// As a RAP: asks the overlay for the JAP of a packet.
    #[allow(clippy::too_many_arguments, reason = "one packet, taken apart")]
    fn resolve(
        &mut self,
        peer: Handle,
        option: PiasOption,
        packet: &Packet,
        transport: &Transport,
        arrival: Arrival,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let key = flow_key(transport);
        let hash = key.hash();
        let tried = if option.flags.contains(Flags::SECOND_CHANCE) {
            self.table.peer(peer).map(|peer| peer.id)
        } else {
            None
        };
        let ingress = self.ingress_id(arrival);
        let event = |parked| ForwardingEvent::Resolve {
            group: key.group,
            flow: hash,
            ingress,
            tried,
            opens: transport.opens(),
            hops: arrival.visited,
            parked,
        };
        self.park(packet, key, hash, arrival, Path::Parked, now, side, event)
    }

    pub(super) const fn ingress_id(&self, arrival: Arrival) -> ProxyId {
        match arrival.ingress {
            Ingress::Here => self.config.self_id,
            Ingress::Peer { id, .. } => id,
        }
    }

    /// Whether a target may get packets of flows that it has.
    pub(super) fn takes_packets(&self, target: Handle) -> bool {
        self.table.target(target).is_some_and(|entry| entry.target.state != TargetState::Down)
    }

    /// As a JAP: delivers a packet to its flow's target, or to a new one.
    #[allow(clippy::too_many_arguments, reason = "one packet, taken apart")]
    pub(super) fn join(
        &mut self,
        packet: &mut Packet,
        view: &View,
        transport: &Transport,
        key: FlowKey,
        hash: FlowHash,
        arrival: Arrival,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        if let Some(handle) = self.nat.forward(&key)
            && let Some(flow) = self.nat.get(handle)
        {
            let reopened = flow.phase == Phase::Closing && transport.opens();
            if self.takes_packets(flow.target) && !reopened {
                let silent = health::client_sent_again(&mut self.nat, &mut self.table, handle, now);
                self.event(silent, side);
                return self.deliver(packet, view, transport, handle, arrival, now, side);
            }
            self.nat.remove(handle);
            if transport.protocol == Protocol::Tcp && !transport.opens() {
                return self.refuse(packet, view, now, side);
            }
        }
        if !transport.opens() {
            let cause = SecondChanceCause::UnknownFlow;
            return self
                .second_chance(packet, view, transport, key, hash, arrival, cause, now, side);
        }
        let cause = match self.table.choose_target(&key.group, key.client, hash) {
            Choice::Target(target) => {
                return self.open(packet, view, transport, key, target, arrival, now, side);
            }
            Choice::NoTarget => SecondChanceCause::NoTarget,
            Choice::OnlySender => SecondChanceCause::OnlySender,
        };
        self.second_chance(packet, view, transport, key, hash, arrival, cause, now, side)
    }

    #[allow(clippy::too_many_arguments, reason = "one packet, taken apart")]
    fn open(
        &mut self,
        packet: &mut Packet,
        view: &View,
        transport: &Transport,
        key: FlowKey,
        target: Handle,
        arrival: Arrival,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let Some(nat) = self.nat_address(view.ip.is_v6()) else {
            return self.drop_for(DropReason::NoNatAddress);
        };
        let Some(entry) = self.table.target(target) else {
            return self.drop_for(DropReason::UnknownFlow);
        };
        let ingress = match arrival.ingress {
            Ingress::Here => None,
            Ingress::Peer { handle, .. } => Some(handle),
        };
        let (lease, address) = (entry.target.id, entry.target.address);
        let opened = self.nat.open(NewFlow { key, target, lease, address, nat, ingress }, now);
        for _ in 0..self.nat.take_evicted() {
            self.count(Path::FlowEvicted);
        }
        let handle = match opened {
            Ok(handle) => handle,
            Err(reason) => return self.drop_for(reason),
        };
        if arrival.ingress == Ingress::Here {
            // The flow was pinned to a JAP that gave it up.
            self.pins.remove(&key);
        }
        self.watch.watch(handle, now);
        let used = health::used(&mut self.table, target, now);
        self.event(used, side);
        self.deliver(packet, view, transport, handle, arrival, now, side)
    }

    #[allow(clippy::too_many_arguments, reason = "one packet, taken apart")]
    fn deliver(
        &mut self,
        packet: &mut Packet,
        view: &View,
        transport: &Transport,
        handle: Handle,
        arrival: Arrival,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        if arrival.notify {
            self.notify_ingress(packet, view, transport, handle, arrival, now, side);
        }
        if arrival.tunnelled && !rewrite::decrement_ttl(packet.bytes_mut(), &view.ip) {
            return self.time_exceeded(packet, &view.ip, now, side);
        }
        let Some(flow) = self.nat.get_mut(handle) else {
            return self.drop_for(DropReason::UnknownFlow);
        };
        flow.from_client(transport.flags, now);
        let (source, destination) = (flow.nat, flow.address);
        let checksum = packet.offload.checksum;
        rewrite::translate(packet.bytes_mut(), &view.ip, transport, checksum, source, destination);
        self.renew_id(packet, view);
        self.count(Path::JoinDeliver);
        Verdict::Tun
    }

    /// Flows of many clients leave with one source: what may be fragmented gets an identification
    /// that no other has (RFC 6864 section 5.3).
    pub(super) fn renew_id(&mut self, packet: &mut Packet, view: &View) {
        let divisible = !view.ip.is_v6() && !view.ip.dont_fragment;
        if divisible || view.ip.fragment.is_some() {
            let id = self.fresh_id();
            rewrite::set_id(packet.bytes_mut(), &view.ip, id);
        }
    }

    /// Tells the ingress that this proxy has the flow: the headers of the packet, in the tunnel.
    #[allow(clippy::too_many_arguments, reason = "one packet, taken apart")]
    fn notify_ingress(
        &mut self,
        packet: &Packet,
        view: &View,
        transport: &Transport,
        handle: Handle,
        arrival: Arrival,
        now: Time,
        side: &mut Side,
    ) {
        let Ingress::Peer { tunnel, .. } = arrival.ingress else { return };
        let Some(flow) = self.nat.get_mut(handle) else { return };
        if flow.pinned.is_some_and(|last| now.since(last) < PIN_EVERY) || !self.rates.pin.allow(now)
        {
            return;
        }
        flow.pinned = Some(now);
        let hash = flow.key.hash();
        let Some(own) = self.own_tunnel(tunnel) else { return };
        let option = PiasOption { flags: Flags::PIN, hops: arrival.visited, ingress: own };
        let headers = &packet.bytes()[..view.ip.payload + transport.header];
        let verdict = Self::to_peer(tunnel, hash, &view.ip, Some(option));
        if side.push_packet(verdict, Packet::from_bytes(headers)) {
            self.count(Path::PinSent);
        } else {
            self.counters.count_drop(DropReason::SideFull);
        }
    }

    /// Asks the overlay who else could take a packet that this proxy cannot.
    #[allow(clippy::too_many_arguments, reason = "one packet, taken apart")]
    fn second_chance(
        &mut self,
        packet: &Packet,
        view: &View,
        transport: &Transport,
        key: FlowKey,
        hash: FlowHash,
        arrival: Arrival,
        cause: SecondChanceCause,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        if arrival.visited > MAX_HOPS {
            return self.gone_in_circles(packet, view, now, side);
        }
        let ingress = self.ingress_id(arrival);
        let event = |parked| ForwardingEvent::SecondChance {
            group: key.group,
            flow: hash,
            ingress,
            opens: transport.opens(),
            hops: arrival.visited,
            cause,
            parked,
        };
        self.park(packet, key, hash, arrival, Path::SecondChance, now, side, event)
    }
}
