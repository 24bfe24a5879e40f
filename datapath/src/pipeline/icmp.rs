//! ICMP errors on their way, in both directions.

use pias_protocol::{
    PIAS_PORT, forwarding::ForwardingEvent, group::Protocol, hash::FlowKey, time::Time,
};

use super::{Pipeline, Side, Verdict, ingress::flow_key};
use crate::{
    classify::View,
    counters::Path,
    drop_reason::DropReason,
    flow::nat::NatFlow,
    health,
    icmp_translate::{self, Translation},
    packet::Packet,
    parking::Arrival,
    rewrite,
    wire::{
        double_word,
        embedded::Embedded,
        icmp::{self, Message},
        ip::Ip,
        tcp,
    },
};

impl Pipeline {
    /// An error about a packet to a target, from the target or a router before it: goes to the
    /// client.
    pub(super) fn error_at_nat(
        &mut self,
        packet: &mut Packet,
        view: &View,
        message: Message,
        tunnelled: bool,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let embedded = match icmp_translate::subject(packet.bytes(), &view.ip) {
            Ok(embedded) => embedded,
            Err(reason) => return self.drop_for(reason),
        };
        let (from, target) = (embedded.source, embedded.destination);
        let known = self.nat.reverse(embedded.protocol, target, from);
        let Some(flow) = known.and_then(|handle| self.nat.get(handle)) else {
            if let Some(verdict) = self.for_owner(view, tunnelled) {
                return verdict;
            }
            return self.error_about_probe(packet, &view.ip, &embedded, message, side);
        };
        if message == Message::Unreachable {
            let refused = health::refused(&mut self.table, flow.target, now);
            self.event(refused, side);
        }
        let to = Translation {
            outer: (flow.key.group.address, flow.key.client.ip()),
            inner: (flow.key.client, flow.key.group.socket()),
        };
        self.translate_error(packet, &view.ip, &embedded, to, true)
    }

    fn error_about_probe(
        &mut self,
        packet: &Packet,
        ip: &Ip,
        embedded: &Embedded,
        message: Message,
        side: &mut Side,
    ) -> Verdict {
        if message != Message::Unreachable {
            return self.drop_for(DropReason::IcmpUnrelated);
        }
        let at = ip.payload + icmp::HEADER + embedded.transport + tcp::SEQUENCE;
        match self.probes.unreachable(embedded, double_word(packet.bytes(), at)) {
            Some(done) => {
                self.event(done, side);
                self.drop_for(DropReason::ProbeAnswer)
            }
            None => self.drop_for(DropReason::IcmpUnrelated),
        }
    }

    /// An error about a packet that a client got from a group: goes to the flow's JAP, and there to
    /// the target.
    pub(super) fn error_at_anycast(
        &mut self,
        packet: &mut Packet,
        view: &View,
        message: Message,
        arrival: Arrival,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let embedded = match icmp_translate::subject(packet.bytes(), &view.ip) {
            Ok(embedded) => embedded,
            Err(reason) => return self.drop_for(reason),
        };
        let (anycast, client) = (embedded.source, embedded.destination);
        if anycast.port() == PIAS_PORT && embedded.protocol == Protocol::Udp {
            return self.error_about_agent(&embedded, message, now, side);
        }
        let key = flow_key(embedded.protocol, client, anycast);
        let known = self.nat.forward(&key).and_then(|handle| self.nat.get(handle));
        match known {
            Some(flow) => self.error_to_target(packet, view, &embedded, &flow, arrival),
            None if arrival.tunnelled => self.drop_for(DropReason::IcmpUnrelated),
            None => self.error_to_join(packet, view, &key, now, side),
        }
    }

    fn error_about_agent(
        &mut self,
        embedded: &Embedded,
        message: Message,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        if message != Message::Unreachable {
            return self.drop_for(DropReason::IcmpIgnored);
        }
        if !self.rates.agent.allow(now) {
            return self.drop_for(DropReason::RateLimited);
        }
        self.event(ForwardingEvent::AgentUnreachable(embedded.destination), side);
        self.count(Path::Registration);
        Verdict::Answered
    }

    fn error_to_target(
        &mut self,
        packet: &mut Packet,
        view: &View,
        embedded: &Embedded,
        flow: &NatFlow,
        arrival: Arrival,
    ) -> Verdict {
        let to = Translation {
            outer: (flow.nat.ip(), flow.address.ip()),
            inner: (flow.address, flow.nat),
        };
        self.translate_error(packet, &view.ip, embedded, to, arrival.tunnelled)
    }

    /// To where the flow is pinned. Routers send errors to the proxy that is nearest to *them*, which
    /// need be neither the flow's ingress nor its JAP; there, to all proxies where it may live.
    fn error_to_join(
        &mut self,
        packet: &Packet,
        view: &View,
        key: &FlowKey,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let hash = key.hash();
        let pinned = self.pins.find(key, hash).and_then(|flow| self.table.peer(flow.peer));
        let joins = match pinned {
            Some(peer) => vec![peer.tunnel],
            None => self.table.possible_joins(&key.group),
        };
        let Some((&first, others)) = joins.split_first() else {
            return self.drop_for(DropReason::IcmpUnrelated);
        };
        if !others.is_empty() && !self.rates.search.allow(now) {
            return self.drop_for(DropReason::RateLimited);
        }
        for &tunnel in others {
            let verdict = Self::to_peer(tunnel, hash, &view.ip, None);
            if !side.push_packet(verdict, packet.to_kept()) {
                self.counters.count_drop(DropReason::SideFull);
            }
        }
        self.count(Path::IngressDirect);
        Self::to_peer(first, hash, &view.ip, None)
    }

    fn translate_error(
        &mut self,
        packet: &mut Packet,
        ip: &Ip,
        embedded: &Embedded,
        to: Translation,
        forwarded: bool,
    ) -> Verdict {
        // No error is sent about an error, so one whose life is over just ends.
        if forwarded && !rewrite::decrement_ttl(packet.bytes_mut(), ip) {
            return self.drop_for(DropReason::Unanswerable);
        }
        icmp_translate::translate(packet.bytes_mut(), ip, embedded, to);
        self.count(Path::IcmpTranslated);
        Verdict::Tun
    }
}
