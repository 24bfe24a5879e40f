//! A packet in its buffer, and what is left to do to it before it is complete on the wire.

/// Octets kept free in front of a packet: room for a virtio header or for Geneve with its option
/// and an outer IPv6 and UDP header (8 + 24 + 48), without moving the packet.
pub const HEADROOM: usize = 128;

/// An IP packet in a buffer with headroom.
///
/// ```text
///  0          start                      end        capacity
///  ├──────────┼──────────────────────────┼──────────┤
///  │ headroom │ IP packet                │ tailroom │
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What hardware, or the reader of the packet, still has to do.
    pub offload: Offload,
}

impl Packet {
    /// An empty packet in a buffer that holds packets of up to `capacity` octets.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buffer: vec![0; HEADROOM + capacity],
            start: HEADROOM,
            end: HEADROOM,
            offload: Offload::default(),
        }
    }

    /// A complete packet with these octets, in a buffer just large enough.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut packet = Self::with_capacity(bytes.len());
        packet.buffer[HEADROOM..].copy_from_slice(bytes);
        packet.end = packet.buffer.len();
        packet
    }

    /// The packet's octets, from its IP header on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The packet's octets, to change them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// How many octets the packet has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Octets free in front of the packet.
    #[must_use]
    pub const fn headroom(&self) -> usize {
        self.start
    }

    /// Empties the packet, and lends all room behind the default headroom to be filled; then
    /// [`Self::set_len`].
    pub fn reset(&mut self) -> &mut [u8] {
        if self.buffer.len() < HEADROOM {
            self.buffer.resize(HEADROOM, 0);
        }
        self.start = HEADROOM;
        self.end = HEADROOM;
        self.offload = Offload::default();
        &mut self.buffer[HEADROOM..]
    }

    /// Says how many octets from the packet's start on are the packet; cut to the buffer.
    pub fn set_len(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.start + len);
    }

    /// Puts `bytes` in front of the packet; without a copy while there is headroom.
    pub fn push_front(&mut self, bytes: &[u8]) {
        if self.start < bytes.len() {
            let more = HEADROOM + bytes.len();
            self.buffer.splice(0..0, std::iter::repeat_n(0, more));
            self.start += more;
            self.end += more;
        }
        self.start -= bytes.len();
        self.buffer[self.start..self.start + bytes.len()].copy_from_slice(bytes);
    }

    /// Takes up to `count` octets off the front.
    pub fn pull_front(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Appends `bytes`; grows the buffer when there is no tailroom.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Replaces the packet with `bytes`, complete.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.reset();
        self.extend(bytes);
    }

    /// A copy in a buffer just large enough, to keep while the original's buffer is used again.
    #[must_use]
    pub fn to_kept(&self) -> Self {
        Self { offload: self.offload, ..Self::from_bytes(self.bytes()) }
    }
}

/// What is left to do to a packet, in the words of virtio-net (VIRTIO 1.2 section 5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// Set for a super-packet: one that stands for several on the wire.
    pub segments: Option<Segments>,
}

/// The state of a packet's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// As on the wire.
    #[default]
    Complete,
    /// The field holds the folded sum of the pseudo-header, *not* complemented; the sum over the
    /// octets from `start` to the packet's end is still to be added (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Where to begin, in octets from the IP header: where the transport header begins.
        start: u16,
        /// Where the field is, in octets from `start`.
        offset: u16,
    },
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// By which rules.
    pub kind: SegmentKind,
    /// Octets of payload in each but the last.
    pub size: u16,
    /// Octets of all headers, IP and transport, which each segment repeats.
    pub header_len: u16,
}

/// The kinds of super-packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    Tcp6,
    /// Datagrams of one UDP flow (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_in_front_and_come_off_again() {
        let mut packet = Packet::from_bytes(&[4, 5, 6]);
        packet.push_front(&[1, 2, 3]);
        assert_eq!(packet.bytes(), [1, 2, 3, 4, 5, 6]);
        packet.pull_front(4);
        assert_eq!(packet.bytes(), [5, 6]);
        packet.pull_front(9);
        assert!(packet.is_empty());
    }

    #[test]
    fn more_than_the_headroom_still_fits() {
        let mut packet = Packet::from_bytes(&[9]);
        for _ in 0..40 {
            packet.push_front(&[7; 10]);
        }
        assert_eq!(packet.len(), 401);
        assert_eq!(packet.bytes()[400], 9);
    }

    #[test]
    fn a_default_packet_can_be_filled() {
        let mut packet = Packet::default();
        packet.replace(&[1, 2]);
        assert_eq!((packet.bytes(), packet.headroom()), (&[1, 2][..], HEADROOM));
        packet.set_len(1);
        assert_eq!(packet.bytes(), [1]);
    }

    #[test]
    fn a_kept_copy_owns_only_what_it_needs() {
        let mut packet = Packet::with_capacity(65_535);
        packet.reset()[..2].copy_from_slice(&[1, 2]);
        packet.set_len(2);
        assert_eq!(packet.to_kept().buffer.len(), HEADROOM + 2);
    }
}
