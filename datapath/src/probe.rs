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
    hash,
    ids::TargetId,
    time::Time,
};

use crate::{
    classify::Transport,
    flow::Dice,
    limits::{MAX_PROBES, PROBE_EVERY, PROBE_FOR, PROBE_PORTS},
    packet::Packet,
    tcp_reset,
    wire::{build, double_word, embedded::Embedded, ip::Ip, set_word, tcp, udp},
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
    ports: Dice,
    secret: u64,
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
    /// None, with ports and sequence numbers that only who knows `seed` can tell: who can forge an
    /// answer takes a target out.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { under_way: Vec::new(), ports: Dice::new(seed.rotate_left(32)), secret: seed }
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
        let count = PROBE_PORTS.len();
        let start = self.ports.below(count);
        (0..count).find_map(|step| {
            let port = PROBE_PORTS.start() + ((start + step) % count) as u16;
            let free = self.under_way.iter().all(|probe| probe.from.port() != port);
            free.then_some(port)
        })
    }

    /// The sequence number of a probe's SYN: of a port always the same, so that a target that still
    /// has an earlier one half open takes it for that one's repetition.
    fn sequence(&self, probe: &Probe) -> u32 {
        hash::mix(u64::from(probe.from.port()), self.secret) as u32
    }

    fn packet(&self, probe: &Probe) -> Packet {
        match probe.protocol {
            Protocol::Tcp => {
                let sequence = self.sequence(probe);
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

    /// A packet of a target to a NAT address, if it answers a probe. A segment does if it
    /// acknowledges the probe's SYN (RFC 9293 section 3.10.7.3).
    pub fn answer(&mut self, packet: &[u8], ip: &Ip, transport: &Transport) -> Option<Answer> {
        let at = self.find(transport.protocol, transport.source, transport.destination)?;
        let next = self.sequence(&self.under_way[at]).wrapping_add(1);
        let tcp = transport.protocol == Protocol::Tcp;
        let acknowledged = double_word(&packet[ip.payload..], tcp::ACKNOWLEDGEMENT);
        if tcp && !(transport.has(tcp::ACK) && acknowledged == next) {
            return None;
        }
        let probe = self.under_way.swap_remove(at);
        let refused = transport.has(tcp::RST);
        let reply = (tcp && !refused)
            .then(|| tcp_reset::segment_between(probe.from, probe.address, next, 0, tcp::RST));
        let outcome = if refused { ProbeOutcome::Refused } else { ProbeOutcome::Answered };
        Some(Answer { event: ForwardingEvent::ProbeDone { target: probe.target, outcome }, reply })
    }

    /// An ICMP unreachable about `embedded`, if that was a probe; of TCP's, `sequence` is the
    /// sequence number in it.
    pub fn unreachable(&mut self, embedded: &Embedded, sequence: u32) -> Option<ForwardingEvent> {
        let at = self.find(embedded.protocol, embedded.destination, embedded.source)?;
        let known = self.sequence(&self.under_way[at]);
        if embedded.protocol == Protocol::Tcp && sequence != known {
            return None;
        }
        let target = self.under_way.swap_remove(at).target;
        Some(ForwardingEvent::ProbeDone { target, outcome: ProbeOutcome::Refused })
    }

    fn find(&self, protocol: Protocol, address: SocketAddr, from: SocketAddr) -> Option<usize> {
        if !PROBE_PORTS.contains(&from.port()) {
            return None;
        }
        let is = |probe: &Probe| {
            probe.from == from && probe.address == address && probe.protocol == protocol
        };
        self.under_way.iter().position(is)
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
