//! A packet of another proxy, and every packet that this proxy delivers as a JAP.

use std::net::IpAddr;

use pias_protocol::{
    forwarding::{ForwardingEvent, SecondChanceCause, Target, TargetState},
    geneve::{self, Flags, PiasOption},
    group::Protocol,
    ids::{ProxyId, TargetId},
    limits::MAX_HOPS,
    time::Time,
};

use super::{
    Pipeline, Side, Verdict,
    ingress::{Client, ENTERED},
    is_registration,
    standby::Whereabouts,
};
use crate::{
    classify::{Kind, View},
    counters::Path,
    drop_reason::DropReason,
    flow::{
        Phase,
        nat::{NatFlow, NewFlow},
    },
    health,
    icmp_error::Problem,
    packet::Packet,
    parking::{Arrival, Ingress},
    rewrite,
    slots::Handle,
    table::Choice,
    wire::icmp::Message,
};

impl Pipeline {
    /// A packet that a peer sent to an anycast address.
    pub(super) fn peer_sent(
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
                let client = Client::new(*view, transport, arrival);
                if is_registration(&client.key.group) {
                    return self.drop_for(DropReason::NotOurs);
                }
                if arrival.visited > MAX_HOPS {
                    return self.gone_in_circles(packet, view, now, side);
                }
                match header.option {
                    Some(option) if option.flags.contains(Flags::RESOLVE) => {
                        let tried = option.flags.contains(Flags::SECOND_CHANCE).then_some(peer);
                        self.resolve(packet, &client, tried, now, side)
                    }
                    _ => self.join(packet, &client, now, side),
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
            return Ok(Arrival { ingress, visited: 2, tunnelled: true, ..ENTERED });
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
        let sent_back = option.flags.contains(Flags::SECOND_CHANCE);
        Ok(Arrival { ingress, visited, tunnelled: true, notify, sent_back })
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
    fn resolve(
        &mut self,
        packet: &Packet,
        client: &Client,
        tried: Option<Handle>,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let tried = tried.and_then(|peer| self.table.peer(peer)).map(|peer| peer.id);
        let ingress = self.ingress_id(client.arrival);
        let event = |parked| ForwardingEvent::Resolve {
            group: client.key.group,
            flow: client.key.hash(),
            ingress,
            tried,
            opens: client.transport.opens(),
            hops: client.arrival.visited,
            parked,
        };
        self.park(packet, client, Path::Parked, now, side, event)
    }

    pub(super) const fn ingress_id(&self, arrival: Arrival) -> ProxyId {
        match arrival.ingress {
            Ingress::Here => self.config.self_id,
            Ingress::Peer { id, .. } => id,
        }
    }

    /// Whether a flow's target may get its packets. That of a flow that another proxy began may be
    /// registered elsewhere, or not yet again: then nothing is known against it.
    pub(super) fn goes_on(&self, flow: &NatFlow) -> bool {
        let named = self.table.target(flow.target).filter(|entry| is_of(&entry.target, flow));
        let entry = named.or_else(|| {
            let (target, _) = self.target_again(flow)?;
            self.table.target(target)
        });
        entry.map_or(flow.adopted || self.succeeds, |entry| entry.target.state != TargetState::Down)
    }

    /// The target of a flow that another proxy or process began, where it has registered here since.
    fn target_again(&self, flow: &NatFlow) -> Option<(Handle, TargetId)> {
        let is_anothers = flow.adopted || self.succeeds;
        self.table.target_at(&flow.key.group, flow.address).filter(|_| is_anothers)
    }

    /// As a JAP: delivers a packet to its flow's target, or to a new one.
    pub(super) fn join(
        &mut self,
        packet: &mut Packet,
        client: &Client,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let transport = &client.transport;
        let mut kept = None;
        let live = match self.nat.forward(&client.key) {
            Some(live) => Some(live),
            None => match self.whereabouts(client, now, side) {
                Whereabouts::Here(promoted) => Some(promoted),
                Whereabouts::At(peer) => match self.pass_on(packet, client, peer, now, side) {
                    Some(verdict) => return verdict,
                    None => None,
                },
                Whereabouts::Unknown => None,
            },
        };
        if let Some(handle) = live
            && let Some(flow) = self.nat.get(handle)
        {
            let reopened = flow.phase == Phase::Closing && transport.opens();
            if !reopened && self.goes_on(&flow) {
                if !self.table.target(flow.target).is_some_and(|entry| is_of(&entry.target, &flow))
                    && let Some(target) = self.target_again(&flow)
                {
                    // XDP knows those targets alone that flows name.
                    self.nat.found_target(handle, target);
                }
                let silent = health::client_sent_again(&mut self.nat, &mut self.table, handle, now);
                self.event(silent, side);
                return self.deliver(packet, client, handle, now, side);
            }
            // A forged reset and a forged SYN must not move a flow that goes on.
            kept = Some(flow.target).filter(|&target| self.table.takes_flows(target));
            self.nat.remove(handle);
            if transport.protocol == Protocol::Tcp && !transport.opens() {
                return self.refuse(packet, &client.view, now, side);
            }
        }
        if !transport.opens() {
            let cause = SecondChanceCause::UnknownFlow;
            return self.second_chance(packet, client, cause, now, side);
        }
        let key = &client.key;
        let choice = kept.map_or_else(
            || self.table.choose_target(&key.group, key.client, key.hash()),
            Choice::Target,
        );
        let cause = match choice {
            Choice::Target(target) => return self.open(packet, client, target, now, side),
            Choice::NoTarget => SecondChanceCause::NoTarget,
            Choice::OnlySender => SecondChanceCause::OnlySender,
        };
        self.second_chance(packet, client, cause, now, side)
    }

    fn open(
        &mut self,
        packet: &mut Packet,
        client: &Client,
        target: Handle,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let Some(nat) = self.nat_address(client.view.ip.is_v6()) else {
            return self.turn_away(packet, &client.view, DropReason::NoNatAddress, now, side);
        };
        let Some(entry) = self.table.target(target) else {
            return self.drop_for(DropReason::UnknownFlow);
        };
        let ingress = match client.arrival.ingress {
            Ingress::Here => None,
            Ingress::Peer { handle, .. } => Some(handle),
        };
        let (key, lease, address) = (client.key, entry.target.id, entry.target.address);
        let opened = self.nat.open(NewFlow { key, target, lease, address, nat, ingress }, now);
        for _ in 0..self.nat.take_evicted() {
            self.count(Path::FlowEvicted);
        }
        let handle = match opened {
            Ok(handle) => handle,
            Err(reason) => return self.turn_away(packet, &client.view, reason, now, side),
        };
        self.watch.watch(handle, now);
        let used = health::used(&mut self.table, target, now);
        self.event(used, side);
        self.deliver(packet, client, handle, now, side)
    }

    /// There is no room for a new flow: the client is told, so that it need not wait.
    fn turn_away(
        &mut self,
        packet: &Packet,
        view: &View,
        reason: DropReason,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let (ip, source) = (&view.ip, view.ip.destination);
        let _ = self.error_about(packet, ip, Problem::Prohibited, source, now, side);
        self.drop_for(reason)
    }

    fn deliver(
        &mut self,
        packet: &mut Packet,
        client: &Client,
        handle: Handle,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let (view, transport) = (&client.view, &client.transport);
        if client.arrival.ingress == Ingress::Here && client.arrival.visited > 1 {
            // The flow was pinned to a JAP that does not have it.
            self.pins.remove(&client.key);
        }
        if client.arrival.notify {
            self.notify_ingress(packet, client, handle, now, side);
        }
        if client.arrival.tunnelled && !rewrite::decrement_ttl(packet.bytes_mut(), &view.ip) {
            return self.time_exceeded(packet, &view.ip, now, side);
        }
        let ends = self.nat.client_sent(handle, transport.flags, now);
        let Some((source, destination)) = ends else {
            return self.drop_for(DropReason::UnknownFlow);
        };
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
            // Whoever cuts a super-packet counts on from its identification.
            let more = packet
                .offload
                .segments
                .map_or(0, |segments| packet.len() / usize::from(segments.size.max(1)));
            let id = self.nat.ids(1 + more as u32);
            rewrite::set_id(packet.bytes_mut(), &view.ip, id);
        }
    }

    /// Tells the ingress that this proxy has the flow: the headers of the packet, in the tunnel.
    fn notify_ingress(
        &mut self,
        packet: &Packet,
        client: &Client,
        handle: Handle,
        now: Time,
        side: &mut Side,
    ) {
        let Ingress::Peer { tunnel, .. } = client.arrival.ingress else { return };
        let Some(own) = self.own_tunnel(tunnel) else { return };
        if !self.nat.may_pin(handle, now) || !self.rates.pin.allow(now) {
            return;
        }
        self.nat.pinned(handle, now);
        let ip = &client.view.ip;
        let option = PiasOption { flags: Flags::PIN, hops: client.arrival.visited, ingress: own };
        let verdict = Self::to_peer(tunnel, client.key.hash(), ip, Some(option));
        let headers = &packet.bytes()[..ip.payload + client.transport.header];
        if side.push_packet(verdict, Packet::from_bytes(headers)) {
            self.count(Path::PinSent);
        } else {
            self.counters.count_drop(DropReason::SideFull);
        }
    }

    /// Asks the overlay who else could take a packet that this proxy cannot.
    fn second_chance(
        &mut self,
        packet: &Packet,
        client: &Client,
        cause: SecondChanceCause,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        if client.arrival.visited > MAX_HOPS {
            return self.gone_in_circles(packet, &client.view, now, side);
        }
        let ingress = self.ingress_id(client.arrival);
        let event = |parked| ForwardingEvent::SecondChance {
            group: client.key.group,
            flow: client.key.hash(),
            ingress,
            opens: client.transport.opens(),
            hops: client.arrival.visited,
            cause,
            parked,
        };
        let arrival = Arrival { sent_back: true, ..client.arrival };
        let sent_back = Client { arrival, ..*client };
        self.park(packet, &sent_back, Path::SecondChance, now, side, event)
    }
}

/// Whether a target is that of a flow: another process may have called another one by this handle.
fn is_of(target: &Target, flow: &NatFlow) -> bool {
    (target.address, target.group) == (flow.address, flow.key.group)
}
