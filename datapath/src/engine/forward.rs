//! What is done with packets: the pipeline, and where what it says leads.

use std::{net::IpAddr, time::Instant};

use pias_protocol::{forwarding::ForwardingUpdate, geneve::Header, time::Time};

use super::{Hooks, coalesce::Train, device::Device, fast::Fast, outbox::Outbox, registration};
use crate::{
    counters::Counters,
    drop_reason::DropReason,
    packet::Packet,
    pipeline::{Pipeline, Side, Verdict},
    xdp::Touched,
};

/// The pipeline, and where packets and events leave.
pub(super) struct Forward {
    pub(super) pipeline: Pipeline,
    pub(super) fast: Option<Fast>,
    pub(super) device: Device,
    pub(super) outbox: Outbox,
    pub(super) hooks: Hooks,
    pub(super) side: Side,
    pub(super) started: Instant,
}

impl Forward {
    pub(super) fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    pub(super) fn routes_changed(&self) {
        if let Some(fast) = &self.fast {
            fast.routes_changed();
        }
    }

    pub(super) fn update(&mut self, update: ForwardingUpdate, now: Time) {
        let touched = Touched::by(&update);
        self.pipeline.apply(update, now, &mut self.side);
        if let Some(fast) = &mut self.fast {
            fast.follow(touched, &self.pipeline);
        }
        self.drain_side();
    }

    /// The program is attached: no other process's is any more.
    pub(super) fn heed_attached(&mut self) {
        if self.fast.as_mut().is_some_and(Fast::has_looked) {
            self.pipeline.settle();
        }
    }

    /// Flows of the process before go on, by the targets that are registered by now.
    pub(super) fn go_on(&mut self) {
        self.pipeline.go_on();
        if let Some(fast) = &mut self.fast {
            fast.go_on(&self.pipeline);
        }
    }

    /// XDP goes on alone.
    pub(super) fn stand_still(&self, now: Time) {
        if let Some(fast) = &self.fast {
            fast.live(now);
        }
    }

    pub(super) fn tick(&mut self, now: Time) {
        for id in self.fast.as_mut().map(|fast| fast.unconfirmed(now)).unwrap_or_default() {
            self.update(ForwardingUpdate::PeerGone { id, heir: None }, now);
        }
        self.pipeline.tick(now, &mut self.side);
        if let Some(fast) = &mut self.fast {
            self.side.events.extend(fast.tick(now, &self.pipeline));
        }
        self.drain_side();
    }

    /// What XDP tells of flows. To be called before packets are handled that came later: an answer that was heard
    /// before a target refused a flow must not seem to come after that.
    pub(super) fn heed_news(&mut self, now: Time) {
        let news = self.fast.as_mut().map(Fast::news).unwrap_or_default();
        for news in news {
            self.pipeline.noticed(news, now, &mut self.side);
        }
        self.drain_side();
    }

    /// What happened to packets, here and in XDP.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.pipeline.counters().clone();
        if let Some(fast) = &self.fast {
            fast.count(&mut counters);
        }
        counters
    }

    /// Handles what the device's train holds, if anything.
    pub(super) fn device_train(&mut self, train: &mut Train, now: Time) {
        if train.is_empty() {
            return;
        }
        let packet = train.take();
        let verdict = self.pipeline.from_tun(packet, now, &mut self.side);
        self.execute(verdict, packet);
        self.drain_side();
    }

    pub(super) fn tunnel_packet(
        &mut self,
        source: IpAddr,
        header: &Header,
        packet: &mut Packet,
        now: Time,
    ) {
        let verdict = self.pipeline.from_tunnel(source, header, packet, now, &mut self.side);
        self.execute(verdict, packet);
        self.drain_side();
    }

    /// Does what the verdict says.
    fn execute(&mut self, verdict: Verdict, packet: &mut Packet) {
        match verdict {
            Verdict::Tun => self.write(packet),
            Verdict::Peer { tunnel, flow, header } => {
                self.outbox.push(tunnel, flow, &header, packet);
            }
            Verdict::Registration { local, remote, payload } => {
                let datagram = registration::take(packet, local, remote, payload);
                if !datagram.is_some_and(|datagram| (self.hooks.registration)(datagram)) {
                    self.pipeline.count_drops(DropReason::RegistrationQueueFull, 1);
                }
            }
            Verdict::Parked | Verdict::Drop(_) | Verdict::Answered => {}
        }
    }

    fn write(&mut self, packet: &mut Packet) {
        if self.device.write(packet).is_err() {
            self.pipeline.count_drops(DropReason::TunWrite, 1);
        }
    }

    /// Sends what left the pipeline beside its packet.
    fn drain_side(&mut self) {
        if !self.side.packets.is_empty() {
            let mut packets = std::mem::take(&mut self.side.packets);
            for (verdict, mut packet) in packets.drain(..) {
                self.execute(verdict, &mut packet);
            }
            // Its memory is used again.
            self.side.packets = packets;
        }
        for event in self.side.events.drain(..) {
            if !(self.hooks.event)(event) {
                self.pipeline.count_drops(DropReason::EventQueueFull, 1);
            }
        }
    }

    /// Sends what gathered for other proxies, and heeds what the kernel says of it.
    pub(super) fn flush(&mut self, now: Time) {
        let report = self.outbox.flush();
        if report.is_empty() {
            return;
        }
        let report = std::mem::take(report);
        self.pipeline.count_drops(DropReason::Malformed, report.malformed);
        self.pipeline.count_drops(DropReason::TunnelSend, report.refused);
        for (tunnel, mtu) in report.path_mtus {
            self.pipeline.path_mtu(tunnel, mtu, now);
        }
    }

    pub(super) fn send_registration(
        &mut self,
        datagram: &registration::Datagram,
        packet: &mut Packet,
    ) {
        let (device, mut refused) = (&self.device, 0);
        registration::build(datagram, device.takes_udp_segments(), packet, |packet| {
            refused += u64::from(device.write(packet).is_err());
        });
        self.pipeline.count_drops(DropReason::TunWrite, refused);
    }
}
