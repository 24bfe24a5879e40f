//! Probes: does a target's service answer?
//!
//! ```text
//! TCP   SYN ──►      ◄── SYN-ACK: answered, and reset     ◄── RST or ICMP: refused
//! UDP   empty ──►    ◄── any datagram: answered           ◄── ICMP: refused
//! ```

use std::net::{IpAddr, SocketAddr};

use pias_protocol::{
    forwarding::{ForwardingEvent, ProbeOutcome, Target},
    group::Protocol,
    ids::TargetId,
    time::Time,
};

use crate::{
    classify::Transport,
    limits::{MAX_PROBES, PROBE_EVERY, PROBE_FOR, PROBE_PORTS},
    packet::Packet,
    tcp_reset,
    wire::{build, double_word, ip::Ip, set_word, tcp, udp},
};

#[derive(Clone, Copy, Debug)]
struct Probe {
    target: TargetId,
    protocol: Protocol,
    address: SocketAddr,
    from: SocketAddr,
    began: Time,
    next: Time,
}

/// Probes under way.
#[derive(Debug)]
pub struct Probes {
    under_way: Vec<Probe>,
    next_port: u16,
    sequence: u32,
}

/// What an answer to a probe leads to.
#[derive(Debug)]
pub struct Answer {
    /// What the overlay hears.
    pub event: ForwardingEvent,
    /// What the target hears: a reset of the half-open connection.
    pub reply: Option<Packet>,
}

impl Probes {
    /// None, with sequence numbers from `seed` on.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { under_way: Vec::new(), next_port: *PROBE_PORTS.start(), sequence: seed as u32 }
    }

    /// Begins a probe from the NAT address `nat`; `None` while the same target is being probed, or
    /// too many are.
    pub fn begin(&mut self, target: &Target, nat: IpAddr, now: Time) -> Option<Packet> {
        let known = self.under_way.iter().any(|probe| probe.target == target.id);
        if known || self.under_way.len() >= MAX_PROBES {
            return None;
        }
        let from = SocketAddr::new(nat, self.free_port()?);
        let probe = Probe {
            target: target.id,
            protocol: target.group.protocol,
            address: target.address,
            from,
            began: now,
            next: now + PROBE_EVERY,
        };
        self.under_way.push(probe);
        Some(self.packet(&probe))
    }

    fn free_port(&mut self) -> Option<u16> {
        (0..PROBE_PORTS.len()).find_map(|_| {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(*PROBE_PORTS.start());
            let free = self.under_way.iter().all(|probe| probe.from.port() != port);
            free.then_some(port)
        })
    }

    fn packet(&self, probe: &Probe) -> Packet {
        match probe.protocol {
            Protocol::Tcp => {
                let sequence = self.sequence.wrapping_add(u32::from(probe.from.port()));
                tcp_reset::segment_between(probe.from, probe.address, sequence, 0, tcp::SYN)
            }
            Protocol::Udp => {
                let mut header = [0; udp::HEADER];
                set_word(&mut header, 0, probe.from.port());
                set_word(&mut header, 2, probe.address.port());
                set_word(&mut header, udp::LENGTH, udp::HEADER as u16);
                build::ip_packet(probe.from.ip(), probe.address.ip(), 17, &header)
            }
        }
    }

    /// A packet of a target to a NAT address, if it answers a probe.
    pub fn answer(&mut self, packet: &[u8], ip: &Ip, transport: &Transport) -> Option<Answer> {
        let probe = self.take(transport.protocol, transport.source, transport.destination)?;
        let refused = transport.has(tcp::RST);
        let reply = (transport.protocol == Protocol::Tcp && !refused).then(|| {
            let sequence = double_word(&packet[ip.payload..], tcp::ACKNOWLEDGEMENT);
            tcp_reset::segment_between(probe.from, probe.address, sequence, 0, tcp::RST)
        });
        let outcome = if refused { ProbeOutcome::Refused } else { ProbeOutcome::Answered };
        Some(Answer { event: ForwardingEvent::ProbeDone { target: probe.target, outcome }, reply })
    }

    /// An ICMP unreachable about a packet from `from` to `address`, if that was a probe.
    pub fn unreachable(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
        from: SocketAddr,
    ) -> Option<ForwardingEvent> {
        let target = self.take(protocol, address, from)?.target;
        Some(ForwardingEvent::ProbeDone { target, outcome: ProbeOutcome::Refused })
    }

    fn take(&mut self, protocol: Protocol, address: SocketAddr, from: SocketAddr) -> Option<Probe> {
        if !PROBE_PORTS.contains(&from.port()) {
            return None;
        }
        let is = |probe: &Probe| {
            probe.from == from && probe.address == address && probe.protocol == protocol
        };
        let at = self.under_way.iter().position(is)?;
        Some(self.under_way.swap_remove(at))
    }

    /// Ends probes without an answer, and repeats those that may still get one.
    pub fn tick(&mut self, now: Time) -> (Vec<ForwardingEvent>, Vec<Packet>) {
        let mut silent = Vec::new();
        self.under_way.retain(|probe| {
            let over = now.since(probe.began) >= PROBE_FOR;
            if over {
                let (target, outcome) = (probe.target, ProbeOutcome::Silent);
                silent.push(ForwardingEvent::ProbeDone { target, outcome });
            }
            !over
        });
        let mut due = Vec::new();
        for probe in &mut self.under_way {
            if now >= probe.next {
                probe.next = now + PROBE_EVERY;
                due.push(*probe);
            }
        }
        (silent, due.iter().map(|probe| self.packet(probe)).collect())
    }
}
