//! What the overlay says: tables, and verdicts on parked packets.

use std::net::IpAddr;

use pias_protocol::{
    forwarding::{ForwardingEvent, ForwardingUpdate, RelayHow},
    geneve::{Flags, PiasOption},
    ids::{ParkedId, ProxyId, TargetId},
    limits::MAX_HOPS,
    time::Time,
};

use super::{Pipeline, Side, Verdict, ingress::Client};
use crate::{
    classify::{Kind, View},
    counters::Path,
    drop_reason::DropReason,
    parking::{Arrival, Ingress, Parked},
    rewrite,
};

impl Pipeline {
    /// Applies what the overlay says. Packets that it frees come out through `side`.
    pub fn apply(&mut self, update: ForwardingUpdate, now: Time, side: &mut Side) {
        match update {
            ForwardingUpdate::Peer { id, tunnel } => self.table.set_peer(id, tunnel),
            ForwardingUpdate::PeerGone { id, heir } => self.peer_gone(id, heir, now, side),
            ForwardingUpdate::Ingress { group, entry } => self.table.set_ingress(group, entry),
            ForwardingUpdate::IngressForget(group) => self.table.forget_ingress(&group),
            ForwardingUpdate::Target(target) => self.table.set_target(target),
            ForwardingUpdate::TargetGone(id) => self.table.remove_target(id),
            ForwardingUpdate::Replicate { wanted, young } => self.nat.replicate(wanted, young),
            ForwardingUpdate::StandbyNat(nat) => self.standby_nat = nat,
            ForwardingUpdate::Standby { of, records } => self.stand_by(of, records, now),
            ForwardingUpdate::StandbyEnded { of, flows } => {
                flows.iter().for_each(|flow| self.standby.end(of, flow));
            }
            ForwardingUpdate::Adopt(records) => self.adopt_all(&records, now),
            ForwardingUpdate::HandBack { to, nat } => self.hand_back(to, nat),
            ForwardingUpdate::Probe { target } => self.probe(target, now, side),
            ForwardingUpdate::Relay { parked, to, how } => self.relay(parked, to, how, now, side),
            ForwardingUpdate::Deliver { parked } => self.deliver_parked(parked, now, side),
            ForwardingUpdate::Refuse { parked } => self.refuse_parked(parked, now, side),
        }
    }

    fn peer_gone(&mut self, id: ProxyId, heir: Option<ProxyId>, now: Time, side: &mut Side) {
        self.table.remove_peer(id, heir);
        if self.standby.gone(id, heir.unwrap_or(self.config.self_id), now) {
            // Most of its flows, if it has few, need not wait for a tick.
            self.promote_orphans(now, side);
        }
    }

    fn probe(&mut self, target: TargetId, now: Time, side: &mut Side) {
        let Some(target) = self.table.target_of(target) else { return };
        let Some(nat) = self.nat_address(target.address.is_ipv6()) else { return };
        if let Some(packet) = self.probes.begin(target, nat, now) {
            self.count(Path::Probe);
            self.emit(Verdict::Tun, packet, now, side);
        }
    }

    fn relay(&mut self, id: ParkedId, to: ProxyId, how: RelayHow, now: Time, side: &mut Side) {
        if to == self.config.self_id {
            return match how {
                RelayHow::Join => self.deliver_parked(id, now, side),
                RelayHow::Resolve { tried } => self.resolve_parked(id, tried, now, side),
            };
        }
        let Some(mut parked) = self.parking.take(id) else { return };
        let verdict = self.relay_verdict(&mut parked, to, how, now, side);
        self.release(parked, verdict, now, side);
    }

    fn relay_verdict(
        &mut self,
        parked: &mut Parked,
        to: ProxyId,
        how: RelayHow,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let peer = self.table.peer_of(to);
        let Some((handle, tunnel)) =
            peer.and_then(|handle| Some((handle, self.table.peer(handle)?.tunnel)))
        else {
            return self.drop_for(DropReason::PeerUnreachable);
        };
        let Some(Client { view, key, arrival, .. }) = client(parked) else {
            return self.drop_for(DropReason::Malformed);
        };
        if arrival.visited >= MAX_HOPS {
            let _ = self.refuse(&parked.packet, &view, now, side);
            return self.drop_for(DropReason::HopLimit);
        }
        if arrival.tunnelled && !rewrite::decrement_ttl(parked.packet.bytes_mut(), &view.ip) {
            return self.time_exceeded(&parked.packet, &view.ip, now, side);
        }
        let direct = how == RelayHow::Join && arrival.ingress == Ingress::Here;
        if direct {
            self.pin(key, key.hash(), handle, now);
        }
        let plain = direct && !arrival.sent_back;
        let option = if plain { None } else { self.relay_option(arrival, how, tunnel) };
        self.count(match (direct, arrival.tunnelled) {
            (true, _) => Path::IngressDirect,
            (false, true) => Path::RendezvousRelay,
            (false, false) => Path::IngressRendezvous,
        });
        Self::to_peer(tunnel, key.hash(), &view.ip, option)
    }

    fn relay_option(&self, arrival: Arrival, how: RelayHow, to: IpAddr) -> Option<PiasOption> {
        let flags = match how {
            RelayHow::Resolve { tried: None } => Flags::RESOLVE,
            RelayHow::Resolve { tried: Some(_) } => Flags::RESOLVE.with(Flags::SECOND_CHANCE),
            RelayHow::Join if arrival.sent_back => Flags::SECOND_CHANCE,
            RelayHow::Join => Flags::default(),
        };
        let ingress = match arrival.ingress {
            Ingress::Peer { tunnel, .. } => tunnel,
            Ingress::Here => self.own_tunnel(to)?,
        };
        Some(PiasOption { flags, hops: arrival.visited, ingress })
    }

    /// The RAP that a packet should go to is this proxy: the overlay is asked as one.
    fn resolve_parked(&mut self, id: ParkedId, tried: Option<ProxyId>, now: Time, side: &mut Side) {
        let Some(parked) = self.parking.get_mut(id) else { return };
        parked.arrival.visited = parked.arrival.visited.saturating_add(1);
        let Some(Client { transport, key, arrival, .. }) = client(parked) else { return };
        if arrival.visited > MAX_HOPS {
            return self.refuse_parked(id, now, side);
        }
        let event = ForwardingEvent::Resolve {
            group: key.group,
            flow: key.hash(),
            ingress: self.ingress_id(arrival),
            tried,
            opens: transport.opens(),
            hops: arrival.visited,
            parked: id,
        };
        self.event(event, side);
    }

    fn deliver_parked(&mut self, id: ParkedId, now: Time, side: &mut Side) {
        let Some(mut parked) = self.parking.take(id) else { return };
        // A packet that is sent back and forth between the two must end, too.
        parked.arrival.visited = parked.arrival.visited.saturating_add(1);
        parked.arrival.notify = parked.arrival.ingress != Ingress::Here;
        let Some(client) = client(&parked) else { return };
        let verdict = self.join(&mut parked.packet, &client, now, side);
        self.release(parked, verdict, now, side);
    }

    fn refuse_parked(&mut self, id: ParkedId, now: Time, side: &mut Side) {
        let Some(parked) = self.parking.take(id) else { return };
        let Some(client) = client(&parked) else { return };
        let verdict = self.refuse(&parked.packet, &client.view, now, side);
        self.release(parked, verdict, now, side);
    }

    /// Lets a packet that waited leave, and the fragments that follow it.
    fn release(&mut self, parked: Parked, verdict: Verdict, now: Time, side: &mut Side) {
        if let Some(train) = parked.train {
            self.first_fragment(train, &verdict, &parked.packet, now, side);
        }
        self.emit(verdict, parked.packet, now, side);
    }
}

/// Only packets of flows are ever parked.
fn client(parked: &Parked) -> Option<Client> {
    let view = View::parse(parked.packet.bytes()).ok()?;
    match view.kind {
        Kind::Transport(transport) => Some(Client::new(view, transport, parked.arrival)),
        _ => None,
    }
}
