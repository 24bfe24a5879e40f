//! A client's packet that entered here.

use std::net::SocketAddr;

use pias_protocol::{
    forwarding::ForwardingEvent,
    geneve::{Flags, PiasOption},
    group::{GroupKey, Protocol},
    hash::{FlowHash, FlowKey},
    ids::ParkedId,
    time::Time,
};

use super::{Pipeline, Side, Verdict, is_registration, standby::Whereabouts};
use crate::{
    classify::{Kind, Transport, View},
    counters::Path,
    drop_reason::DropReason,
    flow::{
        Phase,
        pins::{Coarse, Pinned},
    },
    icmp_error::{self, Problem},
    packet::Packet,
    parking::{Arrival, Ingress},
    slots::Handle,
    table::Place,
    wire::{embedded::Embedded, icmp::Message, udp},
};

/// A packet that entered here, and has been nowhere else.
pub(super) const ENTERED: Arrival = Arrival {
    ingress: Ingress::Here,
    visited: 1,
    tunnelled: false,
    notify: false,
    sent_back: false,
};

/// What is known of a client's packet of a flow.
#[derive(Clone, Copy)]
pub(super) struct Client {
    /// The packet.
    pub(super) view: View,
    /// Its transport header.
    pub(super) transport: Transport,
    /// Its flow.
    pub(super) key: FlowKey,
    /// How it came here.
    pub(super) arrival: Arrival,
}

impl Client {
    pub(super) fn new(view: View, transport: Transport, arrival: Arrival) -> Self {
        let key = flow_key(transport.protocol, transport.source, transport.destination);
        Self { view, transport, key, arrival }
    }
}

/// The flow of what `client` sends to `anycast`.
pub(super) const fn flow_key(
    protocol: Protocol,
    client: SocketAddr,
    anycast: SocketAddr,
) -> FlowKey {
    let group = GroupKey { address: anycast.ip(), port: anycast.port(), protocol };
    FlowKey { client, group }
}

impl Pipeline {
    /// A packet to an anycast address.
    pub(super) fn client_sent(
        &mut self,
        packet: &mut Packet,
        view: &View,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        match view.kind {
            Kind::Transport(transport) => {
                let client = Client::new(*view, transport, ENTERED);
                if is_registration(&client.key.group) {
                    return self.registration(view, &transport);
                }
                self.enter(packet, &client, now, side)
            }
            Kind::Icmp { message: Message::Echo } => self.echo(packet, view, now),
            Kind::Icmp { message: Message::Ignored } => self.drop_for(DropReason::IcmpIgnored),
            Kind::Icmp { message } => {
                self.error_at_anycast(packet, view, message, ENTERED, now, side)
            }
            Kind::LaterFragment => self.drop_for(DropReason::FragmentOrphan),
            Kind::Other => {
                let (ip, source) = (&view.ip, view.ip.destination);
                let _ = self.error_about(packet, ip, Problem::Protocol, source, now, side);
                self.drop_for(DropReason::ProtocolUnsupported)
            }
        }
    }

    fn registration(&mut self, view: &View, transport: &Transport) -> Verdict {
        if view.ip.fragment.is_some() {
            return self.drop_for(DropReason::RegistrationFragment);
        }
        self.count(Path::Registration);
        Verdict::Registration {
            local: transport.destination,
            remote: transport.source,
            payload: view.ip.payload + udp::HEADER..view.ip.end,
        }
    }

    /// An echo request to an address of this proxy becomes its reply.
    pub(super) fn echo(&mut self, packet: &mut Packet, view: &View, now: Time) -> Verdict {
        if !self.rates.echo.allow(now) {
            return self.drop_for(DropReason::RateLimited);
        }
        icmp_error::echo_reply(packet.bytes_mut(), &view.ip);
        self.count(Path::Echo);
        Verdict::Tun
    }

    /// A packet of a flow: to where it is pinned, to where it is NATed, or to where it is placed.
    fn enter(
        &mut self,
        packet: &mut Packet,
        client: &Client,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let (key, hash) = (client.key, client.key.hash());
        if let Some(mut pinned) = self.pins.find(&key, hash) {
            if self.table.peer(pinned.peer).is_none()
                && let Some(Place::Join(heir)) = self.table.heir_of(pinned.peer)
            {
                self.pins.repin(&mut pinned, heir);
            }
            if let Some(peer) = self.table.peer(pinned.peer) {
                self.pins.touch(&pinned, client.transport.flags, now);
                let verdict = Self::to_peer(peer.tunnel, hash, &client.view.ip, None);
                self.count(Path::IngressDirect);
                return verdict;
            }
            self.pins.remove(&key);
        }
        if self.nat.forward(&key).is_some() {
            self.count(Path::IngressLocal);
            return self.join(packet, client, now, side);
        }
        match self.whereabouts(client, now, side) {
            Whereabouts::Here(_) => {
                self.count(Path::IngressLocal);
                self.join(packet, client, now, side)
            }
            Whereabouts::At(peer) => {
                self.pin(key, hash, peer, now);
                self.count(Path::IngressDirect);
                self.tunnel_to(peer, hash, &client.view, None)
            }
            Whereabouts::Unknown => self.place(packet, client, hash, now, side),
        }
    }

    fn place(
        &mut self,
        packet: &mut Packet,
        client: &Client,
        hash: FlowHash,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let (view, key) = (&client.view, client.key);
        let place = self.table.place(&key.group, hash);
        if place != Place::Missed && self.table.report_use(&key.group, now) {
            self.event(ForwardingEvent::IngressUsed(key.group), side);
        }
        match place {
            Place::Here => {
                self.count(Path::IngressLocal);
                self.join(packet, client, now, side)
            }
            Place::Join(peer) => {
                self.pin(key, hash, peer, now);
                self.count(Path::IngressDirect);
                self.tunnel_to(peer, hash, view, None)
            }
            Place::Rendezvous(peer) => {
                let option = self.table.peer(peer).and_then(|rap| {
                    let ingress = self.own_tunnel(rap.tunnel)?;
                    Some(PiasOption { flags: Flags::RESOLVE, hops: 1, ingress })
                });
                self.count(Path::IngressRendezvous);
                self.tunnel_to(peer, hash, view, option)
            }
            Place::Refuse => self.refuse(packet, view, now, side),
            Place::Missed => {
                let missed =
                    |parked| ForwardingEvent::Missed { group: key.group, flow: hash, parked };
                self.park(packet, client, Path::Parked, now, side, missed)
            }
        }
    }

    fn tunnel_to(
        &mut self,
        peer: Handle,
        hash: FlowHash,
        view: &View,
        option: Option<PiasOption>,
    ) -> Verdict {
        match self.table.peer(peer) {
            Some(peer) => Self::to_peer(peer.tunnel, hash, &view.ip, option),
            None => self.drop_for(DropReason::PeerUnreachable),
        }
    }

    /// Remembers the JAP of a flow that enters here.
    pub(super) fn pin(&mut self, key: FlowKey, hash: FlowHash, peer: Handle, now: Time) {
        let phase = Phase::first(key.group.protocol);
        let now = Coarse::from(now);
        if self.pins.pin(&Pinned { key, hash, peer, phase, created: now, last: now }) {
            self.count(Path::FlowEvicted);
        }
    }

    /// Keeps a packet until the overlay has its say.
    pub(super) fn park(
        &mut self,
        packet: &Packet,
        client: &Client,
        path: Path,
        now: Time,
        side: &mut Side,
        event: impl FnOnce(ParkedId) -> ForwardingEvent,
    ) -> Verdict {
        let parked = match self.parking.park(packet, client.key, client.arrival, now) {
            Ok(parked) => parked,
            Err(reason) => return self.drop_for(reason),
        };
        if !side.push_event(event(parked)) {
            // Nobody will ever answer for it.
            self.parking.take(parked);
            return self.drop_for(DropReason::EventQueueFull);
        }
        self.count(path);
        Verdict::Parked
    }

    /// A JAP says that a flow lives there. Only flows of groups that enter here are pinned: a peer
    /// must not fill the table with others.
    pub(super) fn pin_notice(&mut self, peer: Handle, packet: &Packet, now: Time) -> Verdict {
        let Ok(embedded) = Embedded::parse(packet.bytes()) else {
            return self.drop_for(DropReason::TunnelMalformed);
        };
        let key = flow_key(embedded.protocol, embedded.source, embedded.destination);
        let hash = key.hash();
        let known = self.pins.find(&key, hash).is_some() || self.table.group(&key.group).is_some();
        // XDP asks of a pinned flow's packets no more who sent them.
        let sends = self.may_send(key.client.ip());
        if !known || !sends || !self.prefixes.contains(key.group.address) {
            return self.drop_for(DropReason::PinUnrelated);
        }
        self.pin(key, hash, peer, now);
        self.count(Path::PinReceived);
        Verdict::Answered
    }
}
