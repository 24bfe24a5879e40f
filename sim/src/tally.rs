//! What was sent and done, counted.
//!
//! The octets of a message on the wire are modelled, not measured:
//!
//! ```text
//!  datagram        IP + UDP + QUIC short header + tag + frame header: 60   + envelope 8 + postcard
//!  stream message  IP + UDP: 28, QUIC short header + tag + frame header: 30 + envelope 8 + postcard
//! ```
//! A stream message is counted as if it had a packet of its own, and one beyond 1,400 octets a
//! header per packet. Acknowledgements and handshakes are counted apart.

use pias_overlay::Delivery;
use pias_protocol::{envelope, overlay::OverlayMessage};

/// Headers of a datagram's packet.
pub(crate) const DATAGRAM: u64 = 60;
/// Headers of a stream's packet.
const STREAM: u64 = 58;
/// Payload of a packet.
const PACKET: u64 = 1_400;
/// A QUIC packet with nothing but an ACK frame, and one comes for every packet at the rates at
/// which proxies speak (RFC 9000 section 13.2.1).
pub const ACK: u64 = 28 + 33;
/// A QUIC handshake with both sides' certificates, both ways together: two padded Initials, and
/// certificates of about 1,200 octets each with their signatures.
pub const HANDSHAKE: u64 = 6_500;

/// Octets and messages of one kind of way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages.
    pub messages: u64,
    /// Octets on the wire, as modelled; 0 unless they are counted.
    pub octets: u64,
}

/// What was counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Events that happened.
    pub events: u64,
    /// Datagrams dropped because a paused or slow proxy's buffer was full.
    pub inbox_full: u64,
    /// Sent within clusters.
    pub near: Sent,
    /// Sent between clusters.
    pub far: Sent,
    /// Packets between clusters, for their acknowledgements.
    pub far_packets: u64,
    /// Octets between clusters by the sender.
    pub far_by_host: Vec<u64>,
    /// Octets between clusters by the kind of message, as in its envelope.
    pub far_by_kind: [Sent; 256],
    octets: bool,
    /// Whose news is followed, and how many copies of it were received.
    followed: Option<(String, u64)>,
}

impl Tally {
    pub(crate) fn new(hosts: usize, octets: bool) -> Self {
        Self {
            events: 0,
            inbox_full: 0,
            near: Sent::default(),
            far: Sent::default(),
            far_packets: 0,
            far_by_host: if octets { vec![0; hosts] } else { Vec::new() },
            far_by_kind: [Sent::default(); 256],
            octets,
            followed: None,
        }
    }

    pub(crate) const fn counts_octets(&self) -> bool {
        self.octets
    }

    pub(crate) fn sent(
        &mut self,
        host: usize,
        near: bool,
        delivery: Delivery,
        message: &OverlayMessage,
    ) {
        if near {
            self.near.messages += 1;
            return;
        }
        self.far.messages += 1;
        if !self.octets {
            return;
        }
        let payload = envelope::encode(message).len() as u64;
        let packets = payload.div_ceil(PACKET).max(1);
        let headers = if delivery == Delivery::Datagram { DATAGRAM } else { STREAM };
        let octets = payload + headers * packets;
        self.far.octets += octets;
        self.far_packets += packets;
        self.far_by_host[host] += octets;
        let kind = &mut self.far_by_kind[usize::from(envelope::Message::kind(message))];
        kind.messages += 1;
        kind.octets += octets;
    }

    /// Counts copies of the news of this proxy from now on.
    pub(crate) fn follow(&mut self, name: &str) {
        self.followed = Some((name.to_owned(), 0));
    }

    pub(crate) const fn copies(&self) -> u64 {
        match &self.followed {
            Some((_, copies)) => *copies,
            None => 0,
        }
    }

    pub(crate) fn received(&mut self, message: &OverlayMessage) {
        let Some((name, copies)) = &mut self.followed else { return };
        if let OverlayMessage::MemberUpdate(update) = message
            && update.members.iter().any(|record| record.name == *name)
        {
            *copies += 1;
        }
    }
}
