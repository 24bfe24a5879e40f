//! What a proxy answers itself: resets and ICMP errors, rate limited.

use std::net::IpAddr;

use pias_protocol::{group::Protocol, time::Time};

use super::{Pipeline, Side, Verdict};
use crate::{
    classify::{Kind, Transport, View},
    counters::Path,
    drop_reason::DropReason,
    icmp_error::{self, Problem},
    packet::Packet,
    tcp_reset,
    wire::ip::Ip,
};

impl Pipeline {
    /// Tells the client that nobody serves it: a reset, or a port-unreachable, from the anycast
    /// address.
    pub(super) fn refuse(
        &mut self,
        packet: &Packet,
        view: &View,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        match view.kind {
            Kind::Transport(transport) if transport.protocol == Protocol::Tcp => {
                self.reset(packet, &view.ip, &transport, now, side)
            }
            _ => {
                let answer =
                    icmp_error::about(packet.bytes(), &view.ip, Problem::Port, view.ip.destination);
                let allowed = self.rates.error.allow(now);
                self.answer(answer, allowed, Path::Refused, side)
            }
        }
    }

    fn reset(
        &mut self,
        packet: &Packet,
        ip: &Ip,
        transport: &Transport,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let answer = tcp_reset::answer(packet.bytes(), ip, transport);
        let allowed = self.rates.reset.allow(now);
        self.answer(answer, allowed, Path::Refused, side)
    }

    /// Sends an ICMP error about a packet to its source.
    pub(super) fn error_about(
        &mut self,
        packet: &Packet,
        ip: &Ip,
        problem: Problem,
        source: IpAddr,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let answer = icmp_error::about(packet.bytes(), ip, problem, source);
        let rate = match problem {
            Problem::TooBig(_) => &mut self.rates.too_big,
            _ => &mut self.rates.error,
        };
        let allowed = rate.allow(now);
        self.answer(answer, allowed, Path::IcmpSent, side)
    }

    /// The TTL or hop limit of a packet is used up here: says so from the NAT address, which is
    /// this proxy's own.
    pub(super) fn time_exceeded(
        &mut self,
        packet: &Packet,
        ip: &Ip,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        let source = self.nat_address(ip.is_v6()).unwrap_or(ip.destination);
        self.error_about(packet, ip, Problem::TimeExceeded, source, now, side)
    }

    fn answer(
        &mut self,
        answer: Option<Packet>,
        allowed: bool,
        path: Path,
        side: &mut Side,
    ) -> Verdict {
        let Some(answer) = answer else { return self.drop_for(DropReason::Unanswerable) };
        if !allowed {
            return self.drop_for(DropReason::RateLimited);
        }
        if !side.push_packet(Verdict::Tun, answer) {
            return self.drop_for(DropReason::SideFull);
        }
        self.count(path);
        Verdict::Answered
    }
}
