//! A packet to a NAT address: what a target sends back.

use pias_protocol::time::Time;

use super::{Pipeline, Side, Verdict};
use crate::{
    classify::{Kind, Transport, View},
    counters::Path,
    drop_reason::DropReason,
    health,
    packet::Packet,
    rewrite,
    slots::Handle,
    wire::{icmp::Message, tcp},
};

impl Pipeline {
    pub(super) fn target_sent(
        &mut self,
        packet: &mut Packet,
        view: &View,
        tunnelled: bool,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        match view.kind {
            Kind::Transport(transport) => {
                let (target, nat) = (transport.source, transport.destination);
                let live = self.nat.reverse(transport.protocol, target, nat);
                match live.or_else(|| self.orphan_of(&transport, now, side)) {
                    Some(handle) => self.give_back(packet, view, &transport, handle, now, side),
                    None => match self.for_owner(view, tunnelled) {
                        Some(verdict) => verdict,
                        None => self.probe_answer(packet, view, &transport, side),
                    },
                }
            }
            Kind::Icmp { message: Message::Echo } => self.echo(packet, view, now),
            Kind::Icmp { message: Message::Ignored } => self.drop_for(DropReason::IcmpIgnored),
            Kind::Icmp { message } => {
                self.error_at_nat(packet, view, message, tunnelled, now, side)
            }
            Kind::LaterFragment => self.drop_for(DropReason::FragmentOrphan),
            Kind::Other => self.drop_for(DropReason::ProtocolUnsupported),
        }
    }

    fn give_back(
        &mut self,
        packet: &mut Packet,
        view: &View,
        transport: &Transport,
        handle: Handle,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        self.judge(transport, handle, now, side);
        let Some(flow) = self.nat.get(handle) else {
            return self.drop_for(DropReason::UnknownFlow);
        };
        let (client, group, ingress) = (flow.key.client, flow.key.group.socket(), flow.ingress);
        self.nat.target_sent(handle, transport.flags, now);
        if !rewrite::decrement_ttl(packet.bytes_mut(), &view.ip) {
            return self.time_exceeded(packet, &view.ip, now, side);
        }
        let checksum = packet.offload.checksum;
        if transport.has(tcp::SYN) {
            let most = self.most_segment(ingress, view.ip.is_v6());
            rewrite::clamp_mss(packet.bytes_mut(), &view.ip, transport, checksum, most);
        }
        rewrite::translate(packet.bytes_mut(), &view.ip, transport, checksum, group, client);
        self.renew_id(packet, view);
        self.count(Path::JoinReturn);
        Verdict::Tun
    }

    /// What the first packet of a flow says about its target.
    fn judge(&mut self, transport: &Transport, handle: Handle, now: Time, side: &mut Side) {
        let Some(flow) = self.nat.get(handle) else { return };
        let target = flow.target;
        if flow.answered {
            return;
        }
        let event = if transport.has(tcp::RST) {
            health::refused(&mut self.table, target, now)
        } else {
            health::answered(&mut self.table, target)
        };
        self.event(event, side);
    }

    /// The largest segment that a client may send so that it fits into the tunnel. A flow that
    /// entered here is clamped too: routing may move it to another ingress.
    fn most_segment(&self, ingress: Option<Handle>, v6: bool) -> u16 {
        let tunnel = ingress
            .and_then(|handle| self.table.peer(handle))
            .map(|peer| peer.tunnel)
            .or_else(|| self.config.unicast.first().copied());
        let headers = tcp::HEADER + if v6 { 40 } else { 20 };
        let inner = tunnel.map_or(usize::from(u16::MAX), |tunnel| self.inner_mtu(tunnel));
        inner.saturating_sub(headers) as u16
    }

    fn probe_answer(
        &mut self,
        packet: &Packet,
        view: &View,
        transport: &Transport,
        side: &mut Side,
    ) -> Verdict {
        let Some(answer) = self.probes.answer(packet.bytes(), &view.ip, transport) else {
            return self.drop_for(DropReason::UnknownFlow);
        };
        self.event(answer.event, side);
        if let Some(reply) = answer.reply
            && !side.push_packet(Verdict::Tun, reply)
        {
            self.counters.count_drop(DropReason::SideFull);
        }
        self.drop_for(DropReason::ProbeAnswer)
    }
}
