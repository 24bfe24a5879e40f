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
use pias_protocol::{envelope, ids::ProxyId, overlay::OverlayMessage};

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
    followed: Option<Followed>,
}

/// Whose news is followed, and how much of it was received.
#[derive(Clone, Debug)]
struct Followed {
    name: String,
    id: ProxyId,
    copies: u64,
    announcements: u64,
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

    /// Counts the news of this proxy from now on.
    pub(crate) fn follow(&mut self, name: &str) {
        let (name, id) = (name.to_owned(), ProxyId::of(name));
        self.followed = Some(Followed { name, id, copies: 0, announcements: 0 });
    }

    /// Records of the followed proxy that were received.
    pub(crate) fn copies(&self) -> u64 {
        self.followed.as_ref().map_or(0, |followed| followed.copies)
    }

    /// Announcements of the followed proxy's record that were received.
    pub(crate) fn announcements(&self) -> u64 {
        self.followed.as_ref().map_or(0, |followed| followed.announcements)
    }

    pub(crate) fn received(&mut self, message: &OverlayMessage) {
        let Some(followed) = &mut self.followed else { return };
        match message {
            OverlayMessage::MemberUpdate(update) => {
                let about = update.members.iter().any(|record| record.name == followed.name);
                followed.copies += u64::from(about);
            }
            OverlayMessage::Have(have) => {
                let about = have.members.iter().any(|key| key.proxy == followed.id);
                followed.announcements += u64::from(about);
            }
            _ => {}
        }
    }
}
