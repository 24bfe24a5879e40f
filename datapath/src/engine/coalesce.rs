//! Joining consecutive packets of one flow, that came out of the tunnel or the device, into a
//! super-packet.
//!
//! ```text
//!   ├ IP │ TCP ┤ size      ┤ ┐
//!   ├ IP │ TCP ┤ size      ┤ ├►  ├ IP │ TCP ┤ size      │ size      │ rest ┤
//!   ├ IP │ TCP ┤ rest ┤      ┘
//! ```
//! It is the inverse of [`segment`](super::segment), and joins only what that would cut into the
//! same octets again. So the rules are those of Linux's GRO: headers alike but for lengths and
//! checksums, sequence numbers and IPv4 identifications that follow, ACK and (on the last) PSH as
//! only flags, and valid checksums: the super-packet gets a new one, which must not hide that a
//! segment was broken. The identification of a datagram that must not be fragmented means nothing
//! (RFC 6864 section 4.1), and need not follow.
//!
//! Out of the device come datagrams alone: segments of TCP are joined there by the kernel.

use super::vnet::to_cut;
use crate::{
    checksum::{finish, fold, pseudo_header_of},
    limits::engine::{MAX_PACKET, SEGMENTS_PER_SEND},
    packet::{Checksum, Packet, SegmentKind},
    wire::{double_word, set_word, word},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const DONT_FRAGMENT: u8 = 0x40;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;

/// A packet that may be joined with others: where its headers end, and what must follow it.
#[derive(Clone, Copy)]
struct Joinable {
    kind: SegmentKind,
    transport: usize,
    header_len: usize,
    payload_len: usize,
    push: bool,
}

/// A packet, and what has been joined to it.
pub(super) struct Train {
    packet: Packet,
    /// Of the first packet; `None` if nothing can join it.
    first: Option<Joinable>,
    count: usize,
    /// The last packet was short or pushed: nothing follows it.
    closed: bool,
    /// The first packet's checksums are right, or will be.
    sound: bool,
    join_udp: bool,
}

impl Train {
    /// A train without packets. `join_udp`: whether super-packets of UDP datagrams are wanted.
    pub(super) fn new(join_udp: bool) -> Self {
        Self::with(Packet::with_capacity(MAX_PACKET), join_udp)
    }

    /// As [`Self::new`], with this buffer.
    pub(super) fn with(packet: Packet, join_udp: bool) -> Self {
        Self { packet, first: None, count: 0, closed: true, sound: false, join_udp }
    }

    /// Whether it holds no packet.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Begins with this packet; what the train held is forgotten.
    pub(super) fn begin(&mut self, bytes: &[u8]) {
        self.packet.replace(bytes);
        self.first = Joinable::read(bytes, self.join_udp);
        self.count = 1;
        self.closed = self.first.is_none_or(|first| first.push);
        self.sound = false;
    }

    /// Begins with this packet of the device, and lends another buffer as large in its place.
    pub(super) fn begin_with(&mut self, packet: &mut Packet) {
        std::mem::swap(&mut self.packet, packet);
        let (bytes, offload) = (self.packet.bytes(), self.packet.offload);
        let datagram = Joinable::read(bytes, self.join_udp).filter(Joinable::is_udp);
        self.first = datagram.filter(|_| offload.segments.is_none());
        self.count = 1;
        self.closed = self.first.is_none();
        self.sound = offload.checksum != Checksum::Complete;
    }

    /// Joins this packet of the device to those before, if it may be; else nothing changes.
    pub(super) fn join_with(&mut self, packet: &Packet) -> bool {
        let sound = packet.offload.checksum != Checksum::Complete;
        packet.offload.segments.is_none() && self.append(packet.bytes(), sound)
    }

    /// Joins this packet to those before, if it may be; else nothing changes.
    pub(super) fn join(&mut self, bytes: &[u8]) -> bool {
        self.append(bytes, false)
    }

    /// `sound`: its checksums are right, or will be.
    fn append(&mut self, bytes: &[u8], sound: bool) -> bool {
        let Some(first) = self.first.filter(|_| !self.closed) else { return false };
        let Some(next) = Joinable::read(bytes, self.join_udp) else { return false };
        let joined = self.packet.len() - first.header_len;
        let fits = self.packet.len() + next.payload_len <= MAX_PACKET
            && (!first.is_udp() || self.count < SEGMENTS_PER_SEND);
        if !fits || !first.is_followed_by(&next, self.packet.bytes(), bytes, self.count, joined) {
            return false;
        }
        self.sound = self.sound || checksum_holds(self.packet.bytes(), &first);
        if !self.sound {
            self.closed = true;
            return false;
        }
        if !sound && !checksum_holds(bytes, &next) {
            return false;
        }
        self.packet.extend(&bytes[next.header_len..]);
        self.count += 1;
        self.closed = next.push || next.payload_len < first.payload_len;
        if next.push {
            self.packet.bytes_mut()[first.transport + 13] |= PSH;
        }
        true
    }

    /// The packet, or super-packet; the train is empty afterwards.
    pub(super) fn take(&mut self) -> &mut Packet {
        if let Some(first) = self.first.take().filter(|_| self.count > 1) {
            first.seal(&mut self.packet);
        }
        self.count = 0;
        self.closed = true;
        &mut self.packet
    }
}

impl Joinable {
    fn is_udp(&self) -> bool {
        self.kind == SegmentKind::Udp
    }

    /// `None` for a packet that travels alone.
    fn read(bytes: &[u8], join_udp: bool) -> Option<Self> {
        let (v4, transport, protocol, len) = match bytes.first()? {
            // Without options, and no fragment.
            0x45 if bytes.len() >= IPV4_LEN && (bytes[6] & 0x3F, bytes[7]) == (0, 0) => {
                (true, IPV4_LEN, bytes[9], usize::from(word(bytes, 2)))
            }
            first if first >> 4 == 6 && bytes.len() >= IPV6_LEN => {
                (false, IPV6_LEN, bytes[6], IPV6_LEN + usize::from(word(bytes, 4)))
            }
            _ => return None,
        };
        if len != bytes.len() {
            return None;
        }
        let tail = &bytes[transport..];
        let (kind, header_len, push) = match protocol {
            TCP if tail.len() >= 20 && tail[13] & !PSH == ACK && tail[12] & 0xF == 0 => {
                let kind = if v4 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
                (kind, usize::from(tail[12] >> 4) * 4, tail[13] & PSH != 0)
            }
            UDP if join_udp
                && tail.len() >= UDP_LEN
                && usize::from(word(tail, 4)) == tail.len() =>
            {
                (SegmentKind::Udp, UDP_LEN, false)
            }
            _ => return None,
        };
        if protocol == TCP && header_len < 20 {
            return None;
        }
        let payload_len = tail.len().checked_sub(header_len).filter(|&len| len > 0)?;
        Some(Self { kind, transport, header_len: transport + header_len, payload_len, push })
    }

    /// Whether `next` (whose octets are `theirs`) follows `count` packets with `joined` octets of
    /// payload, the first of which had the headers at the start of `ours`.
    fn is_followed_by(
        &self,
        next: &Self,
        ours: &[u8],
        theirs: &[u8],
        count: usize,
        joined: usize,
    ) -> bool {
        if (self.kind, self.transport, self.header_len)
            != (next.kind, next.transport, next.header_len)
            || next.payload_len > self.payload_len
        {
            return false;
        }
        let same = |range: std::ops::Range<usize>| ours[range.clone()] == theirs[range];
        let ip = if self.transport == IPV4_LEN {
            same(0..2)
                && same(6..10)
                && same(12..20)
                && (self.is_udp() && ours[6] & DONT_FRAGMENT != 0
                    || word(theirs, 4) == word(ours, 4).wrapping_add(count as u16))
        } else {
            same(0..4) && same(6..40)
        };
        let at = self.transport;
        ip && match self.kind {
            SegmentKind::Udp => same(at..at + 4),
            // Ports, acknowledgement, window, options.
            SegmentKind::Tcp4 | SegmentKind::Tcp6 => {
                same(at..at + 4)
                    && same(at + 8..at + 13)
                    && same(at + 14..at + 16)
                    && same(at + 18..self.header_len)
                    && double_word(theirs, at + 4)
                        == double_word(ours, at + 4).wrapping_add(joined as u32)
            }
        }
    }

    /// Makes the lengths those of the super-packet, and leaves its checksum to whoever cuts it.
    fn seal(&self, packet: &mut Packet) {
        let bytes = packet.bytes_mut();
        let len = bytes.len();
        let transport_len = (len - self.transport) as u16;
        let (protocol, checksum_at) = match self.kind {
            SegmentKind::Udp => (UDP, self.transport + 6),
            SegmentKind::Tcp4 | SegmentKind::Tcp6 => (TCP, self.transport + 16),
        };
        if self.transport == IPV4_LEN {
            set_word(bytes, 2, len as u16);
            set_word(bytes, 10, 0);
            let checksum = finish(&bytes[..IPV4_LEN], 0);
            set_word(bytes, 10, checksum);
        } else {
            set_word(bytes, 4, transport_len);
        }
        if self.kind == SegmentKind::Udp {
            set_word(bytes, self.transport + 4, transport_len);
        }
        let pseudo = fold(pseudo_header_of(bytes, protocol, usize::from(transport_len)));
        set_word(bytes, checksum_at, pseudo);
        let header_len = self.header_len as u16;
        packet.offload =
            to_cut(self.kind, self.transport as u16, header_len, self.payload_len as u16);
    }
}

/// Whether both checksums are right. A UDP datagram without one would get one: it travels alone.
fn checksum_holds(bytes: &[u8], packet: &Joinable) -> bool {
    let tail = &bytes[packet.transport..];
    let protocol = match packet.kind {
        SegmentKind::Udp if word(tail, 6) == 0 => return false,
        SegmentKind::Udp => UDP,
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => TCP,
    };
    let ip = packet.transport != IPV4_LEN || finish(&bytes[..IPV4_LEN], 0) == 0;
    ip && finish(tail, pseudo_header_of(bytes, protocol, tail.len())) == 0
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::segment::cut_all;

    const CLIENT: [u8; 4] = [192, 0, 2, 1];
    const GROUP: [u8; 4] = [203, 0, 113, 10];

    fn segment(v6: bool, sequence: u32, payload: &[u8], id: u16, push: bool) -> Vec<u8> {
        let builder = if v6 {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        } else {
            PacketBuilder::ipv4(CLIENT, GROUP, 64)
        };
        let mut tcp = builder.tcp(40_000, 80, sequence, 1000).ack(7);
        if push {
            tcp = tcp.psh();
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        if !v6 {
            set_word(&mut bytes, 4, id);
            set_word(&mut bytes, 10, 0);
            let checksum = finish(&bytes[..IPV4_LEN], 0);
            set_word(&mut bytes, 10, checksum);
        }
        bytes
    }

    fn datagram(payload: &[u8], id: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(CLIENT, GROUP, 64).udp(40_000, 53).write(&mut bytes, payload).unwrap();
        set_word(&mut bytes, 4, id);
        set_word(&mut bytes, 10, 0);
        let checksum = finish(&bytes[..IPV4_LEN], 0);
        set_word(&mut bytes, 10, checksum);
        bytes
    }

    /// Joins what can be joined, and cuts it again.
    fn there_and_back(packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
        let mut train = Train::new(true);
        let (mut out, mut trains) = (Vec::new(), 0);
        for packet in packets {
            if train.join(packet) {
                continue;
            }
            if trains > 0 {
                out.extend(cut_all(train.take()).unwrap());
            }
            trains += 1;
            train.begin(packet);
        }
        out.extend(cut_all(train.take()).unwrap());
        (out, trains)
    }

    /// Whether `second` joins `first`.
    fn joins(first: &[u8], second: &[u8]) -> bool {
        let mut train = Train::new(true);
        train.begin(first);
        train.join(second)
    }

    #[test]
    fn segments_that_follow_each_other_become_one_packet() {
        let packets = [segment(false, 0, &[1; 9], 5, false), segment(false, 9, &[2; 4], 6, true)];
        let mut train = Train::new(false);
        train.begin(&packets[0]);
        assert!(train.join(&packets[1]));
        let joined = train.take();
        assert_eq!(joined.len(), 40 + 13);
        assert_eq!(joined.offload, to_cut(SegmentKind::Tcp4, 20, 40, 9));
        assert_eq!(cut_all(joined).unwrap(), packets);
    }

    #[test]
    fn what_does_not_follow_travels_alone() {
        let first = segment(false, 0, &[1; 10], 5, false);
        let follows = segment(false, 10, &[1; 10], 6, false);
        assert!(joins(&first, &follows));
        for (what, second) in [
            ("a gap", segment(false, 11, &[1; 10], 6, false)),
            ("a longer segment", segment(false, 10, &[1; 11], 6, false)),
            ("a jump of the identification", segment(false, 10, &[1; 10], 7, false)),
            ("the other family", segment(true, 10, &[1; 10], 6, false)),
            ("no payload", segment(false, 10, &[], 6, false)),
        ] {
            assert!(!joins(&first, &second), "{what}");
        }
        assert!(!joins(&segment(false, 0, &[1; 10], 5, true), &follows), "behind a push");
    }

    #[test]
    fn a_broken_segment_is_not_hidden_by_a_new_checksum() {
        let first = segment(true, 0, &[1; 10], 0, false);
        let second = segment(true, 10, &[1; 10], 0, false);
        assert!(joins(&first, &second));
        for broken in [40 + 25, 40 + 16] {
            let (mut bad_first, mut bad_second) = (first.clone(), second.clone());
            bad_first[broken] ^= 0x55;
            bad_second[broken] ^= 0x55;
            assert!(!joins(&first, &bad_second));
            assert!(!joins(&bad_first, &second));
        }
    }

    #[test]
    fn datagrams_are_joined_only_for_a_device_that_cuts_them() {
        let (first, second) = (datagram(&[1; 10], 5), datagram(&[2; 10], 6));
        assert!(joins(&first, &second));
        let mut train = Train::new(false);
        train.begin(&first);
        assert!(!train.join(&second));
    }

    /// As the device tells them: whose checksums the kernel leaves to hardware, or has verified.
    fn from_device(bytes: &[u8], checksum: Checksum) -> Packet {
        let mut packet = Packet::with_capacity(MAX_PACKET);
        packet.replace(bytes);
        packet.offload.checksum = checksum;
        packet
    }

    #[test]
    fn datagrams_of_the_device_are_joined_whether_their_checksums_are_there_or_not() {
        let partial = Checksum::Partial { start: 20, offset: 6 };
        for (first, second) in
            [(partial, partial), (Checksum::Complete, partial), (partial, Checksum::Complete)]
        {
            let packets = [datagram(&[1; 10], 5), datagram(&[2; 7], 6)];
            let mut train = Train::new(true);
            let mut read = from_device(&packets[0], first);
            train.begin_with(&mut read);
            assert!(train.join_with(&from_device(&packets[1], second)));
            assert_eq!(train.take().offload, to_cut(SegmentKind::Udp, 20, 28, 10));
            assert_eq!(cut_all(train.take()).unwrap(), packets);
        }
    }

    #[test]
    fn a_packet_of_the_device_that_nothing_follows_is_left_as_it_is() {
        let partial = Checksum::Partial { start: 20, offset: 6 };
        let first = from_device(&datagram(&[1; 10], 5), partial);
        let mut broken = datagram(&[2; 10], 6);
        broken[28] ^= 1;
        let mut whole = from_device(&datagram(&[2; 10], 6), Checksum::Complete);
        whole.offload = to_cut(SegmentKind::Udp, 20, 28, 5);
        let mut train = Train::new(true);
        train.begin_with(&mut first.clone());
        assert!(!train.join_with(&from_device(&broken, Checksum::Complete)), "a wrong checksum");
        assert!(!train.join_with(&whole), "a super-packet");
        assert_eq!(train.take().bytes(), first.bytes());
        assert_eq!(train.take().offload, first.offload);
        train.begin_with(&mut whole.clone());
        assert!(!train.join_with(&first), "behind a super-packet");
        assert_eq!(train.take().offload, whole.offload);
        train.begin_with(&mut from_device(&segment(true, 0, &[1; 9], 0, false), partial));
        let second = segment(true, 9, &[1; 9], 0, false);
        assert!(!train.join_with(&from_device(&second, partial)), "TCP");
    }

    #[test]
    fn datagrams_that_must_not_be_fragmented_are_joined_whatever_their_identification() {
        let mut packets = [datagram(&[1; 10], 0), datagram(&[2; 10], 0)];
        assert!(joins(&packets[0], &packets[1]));
        for packet in &mut packets {
            packet[6] &= !DONT_FRAGMENT;
            set_word(packet, 10, 0);
            let checksum = finish(&packet[..IPV4_LEN], 0);
            set_word(packet, 10, checksum);
        }
        assert!(!joins(&packets[0], &packets[1]));
    }

    #[test]
    fn a_train_is_no_longer_than_a_packet_may_be() {
        let packets: Vec<_> = (0..60)
            .map(|at| segment(false, at * 1400, &[at as u8; 1400], at as u16, false))
            .collect();
        let (out, trains) = there_and_back(&packets);
        assert_eq!((out, trains), (packets, 2));
    }

    /// A stream of segments with now and then something in between.
    fn streams() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let step = (1_usize..60, any::<bool>(), 0_u8..20);
        (any::<bool>(), any::<u32>(), proptest::collection::vec(step, 1..40)).prop_map(
            |(v6, start, steps)| {
                let (mut sequence, mut id) = (start, 0_u16);
                let mut packets = Vec::new();
                for (len, full, twist) in steps {
                    let payload = vec![len as u8; if full { 50 } else { len }];
                    let mut packet = segment(v6, sequence, &payload, id, twist == 0);
                    sequence = sequence.wrapping_add(payload.len() as u32);
                    id = id.wrapping_add(1);
                    match twist {
                        1 => *packet.last_mut().unwrap() ^= 1,
                        2 => packets.push(datagram(&payload, id)),
                        3 => sequence = sequence.wrapping_add(1),
                        _ => {}
                    }
                    packets.push(packet);
                }
                packets
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_joined_is_cut_into_the_same_octets(packets in streams()) {
            let (out, _) = there_and_back(&packets);
            prop_assert_eq!(out, packets);
        }

        #[test]
        fn datagrams_come_out_as_they_went_in(
            lens in proptest::collection::vec(1_usize..4, 1..100),
        ) {
            let packets: Vec<_> = lens
                .iter()
                .enumerate()
                .map(|(at, &len)| datagram(&vec![at as u8; 8 * len], at as u16))
                .collect();
            let (out, _) = there_and_back(&packets);
            prop_assert_eq!(out, packets);
        }

        #[test]
        fn any_bytes_may_arrive(
            first in proptest::collection::vec(any::<u8>(), 0..100),
            second in proptest::collection::vec(any::<u8>(), 0..100),
            head in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        ) {
            let with_head = |mut bytes: Vec<u8>| {
                if let Some(first) = bytes.first_mut() {
                    *first = head;
                }
                bytes
            };
            let (out, _) = there_and_back(&[with_head(first.clone()), with_head(second.clone())]);
            prop_assert_eq!(out, [with_head(first), with_head(second)]);
        }
    }
}
