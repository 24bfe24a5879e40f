//! Cutting a super-packet into the packets that it stands for.
//!
//! ```text
//!   ├ IP │ TCP ┤ size      │ size      │ rest ┤
//!   ├ IP │ TCP ┤ size      ┤     sequence number and IPv4 identification go up,
//!   ├ IP │ TCP ┤ size      ┤     FIN and PSH stay on the last, CWR on the first (RFC 3168
//!   ├ IP │ TCP ┤ rest ┤          section 6.1.2), lengths and checksums are each segment's own
//! ```
//! A packet that is none is "cut" into itself, with its checksum completed: whatever goes into the
//! tunnel passes through here.

use std::ops::Range;

use crate::{
    checksum::{finish, pseudo_header_of},
    packet::{Checksum, Packet, SegmentKind},
    wire::{double_word, set_double_word, set_word, word},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const IPV6_LEN: usize = 40;

/// A packet, and where it is cut.
pub(super) struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    transport: usize,
    protocol: u8,
    size: usize,
}

/// How to cut a packet.
pub(super) enum Cut<'a> {
    /// As it is.
    Whole(&'a [u8]),
    /// Into one or more segments.
    Segments(Segments<'a>),
}

impl<'a> Cut<'a> {
    /// How to cut `packet`; `None` if its offload contradicts its headers.
    pub(super) fn of(packet: &'a Packet) -> Option<Self> {
        let bytes = packet.bytes();
        let Checksum::Partial { start, offset } = packet.offload.checksum else {
            return packet.offload.segments.is_none().then_some(Self::Whole(bytes));
        };
        let transport = usize::from(start);
        let protocol = match offset {
            16 => TCP,
            6 => UDP,
            _ => return None,
        };
        let (header_len, size) = match packet.offload.segments {
            Some(segments) => {
                let tcp = segments.kind != SegmentKind::Udp;
                if tcp != (protocol == TCP) {
                    return None;
                }
                (usize::from(segments.header_len), usize::from(segments.size))
            }
            None => (transport + transport_len(bytes, transport, protocol)?, usize::MAX),
        };
        let ip_len = match bytes.first()? >> 4 {
            4 => usize::from(bytes[0] & 0xF) * 4,
            _ => IPV6_LEN,
        };
        let least = transport + if protocol == TCP { 20 } else { 8 };
        if transport < ip_len.max(20) || header_len < least || size == 0 {
            return None;
        }
        let (headers, payload) = bytes.split_at_checked(header_len)?;
        Some(Self::Segments(Segments { headers, payload, transport, protocol, size }))
    }
}

fn transport_len(bytes: &[u8], transport: usize, protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(usize::from(bytes.get(transport + 12)? >> 4) * 4),
        _ => Some(8),
    }
}

impl Segments<'_> {
    /// How many they are; at least one.
    pub(super) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Octets of segment `index`.
    pub(super) fn len_of(&self, index: usize) -> usize {
        self.headers.len() + self.part(index).len()
    }

    /// Where the payload of segment `index` is.
    fn part(&self, index: usize) -> Range<usize> {
        let begin = self.payload.len().min(index.saturating_mul(self.size));
        begin..self.payload.len().min(begin.saturating_add(self.size))
    }

    /// Appends segment `index` to `out`.
    pub(super) fn append(&self, index: usize, out: &mut Vec<u8>) {
        let Range { start: begin, end } = self.part(index);
        let at = out.len();
        out.extend_from_slice(self.headers);
        out.extend_from_slice(&self.payload[begin..end]);
        let segment = &mut out[at..];
        renew_ip(segment, index as u16);
        if self.protocol == TCP {
            renew_tcp(
                &mut segment[self.transport..],
                begin as u32,
                index == 0,
                end == self.payload.len(),
            );
        }
        complete(segment, self.transport, self.protocol);
    }
}

/// Sets what the IP header says of its packet's length and identity.
fn renew_ip(packet: &mut [u8], index: u16) {
    let len = packet.len();
    if packet[0] >> 4 == 4 {
        let header_len = usize::from(packet[0] & 0xF) * 4;
        let identification = word(packet, 4).wrapping_add(index);
        set_word(packet, 2, len as u16);
        set_word(packet, 4, identification);
        set_word(packet, 10, 0);
        let checksum = finish(&packet[..header_len], 0);
        set_word(packet, 10, checksum);
    } else {
        set_word(packet, 4, (len - IPV6_LEN) as u16);
    }
}

fn renew_tcp(tcp: &mut [u8], begin: u32, first: bool, last: bool) {
    let sequence = double_word(tcp, 4).wrapping_add(begin);
    set_double_word(tcp, 4, sequence);
    if !last {
        tcp[13] &= !(FIN | PSH);
    }
    if !first {
        tcp[13] &= !CWR;
    }
}

/// Computes the transport checksum, and the length in a UDP header.
fn complete(packet: &mut [u8], transport: usize, protocol: u8) {
    let len = packet.len() - transport;
    let at = if protocol == TCP {
        transport + 16
    } else {
        set_word(packet, transport + 4, len as u16);
        transport + 6
    };
    set_word(packet, at, 0);
    let pseudo = pseudo_header_of(packet, protocol, len);
    let checksum = match finish(&packet[transport..], pseudo) {
        // RFC 768: zero means "none", so zero is sent as its other form.
        0 if protocol == UDP => 0xFFFF,
        checksum => checksum,
    };
    set_word(packet, at, checksum);
}

/// All segments of a packet, each on its own.
#[cfg(test)]
pub(super) fn cut_all(packet: &Packet) -> Option<Vec<Vec<u8>>> {
    Some(match Cut::of(packet)? {
        Cut::Whole(bytes) => vec![bytes.to_vec()],
        Cut::Segments(segments) => (0..segments.count())
            .map(|index| {
                let mut out = Vec::new();
                segments.append(index, &mut out);
                out
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::vnet::to_cut;

    /// A TCP super-packet as the kernel hands it over.
    fn super_packet(v6: bool, payload: &[u8], size: u16, flags: u8) -> Packet {
        let builder = if v6 {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        } else {
            PacketBuilder::ipv4([192, 0, 2, 1], [203, 0, 113, 10], 64)
        };
        let mut bytes = Vec::new();
        builder.tcp(40_000, 80, 0xFFFF_FFF0, 1000).ack(7).write(&mut bytes, payload).unwrap();
        let transport = if v6 { 40 } else { 20 };
        bytes[transport + 13] |= flags;
        let mut packet = Packet::from_bytes(&bytes);
        let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        packet.offload = to_cut(kind, transport as u16, transport as u16 + 20, size);
        packet
    }

    fn tcp_of(packet: &[u8]) -> etherparse::TcpSlice<'_> {
        match SlicedPacket::from_ip(packet).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => tcp,
            other => panic!("no TCP: {other:?}"),
        }
    }

    #[test]
    fn flags_sequence_numbers_and_identifications_are_each_segments_own() {
        let packet = super_packet(false, &[9; 250], 100, FIN | PSH | CWR);
        let segments = cut_all(&packet).unwrap();
        let seen: Vec<_> = segments
            .iter()
            .map(|segment| {
                let tcp = tcp_of(segment);
                let id = u16::from_be_bytes([segment[4], segment[5]]);
                (id, tcp.sequence_number(), tcp.payload().len(), tcp.cwr(), tcp.psh(), tcp.fin())
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0, 0xFFFF_FFF0, 100, true, false, false),
                (1, 84, 100, false, false, false),
                (2, 184, 50, false, true, true),
            ]
        );
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let mut packet = super_packet(true, b"odd", 100, 0);
        packet.offload.segments = None;
        packet.bytes_mut()[56..58].fill(0xAB);
        let [segment] = &cut_all(&packet).unwrap()[..] else { panic!("more than one") };
        let tcp = tcp_of(segment);
        assert_eq!(tcp.calc_checksum_ipv6([1; 16], [2; 16]), Ok(tcp.checksum()));
    }

    #[test]
    fn datagrams_get_their_own_lengths_and_checksums() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [203, 0, 113, 10], 64)
            .udp(40_000, 53)
            .write(&mut bytes, &[5; 25])
            .unwrap();
        let mut packet = Packet::from_bytes(&bytes);
        packet.offload = to_cut(SegmentKind::Udp, 20, 28, 10);
        let lens: Vec<_> = cut_all(&packet)
            .unwrap()
            .iter()
            .map(|datagram| {
                let sliced = SlicedPacket::from_ip(datagram).unwrap();
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                let header = udp.to_header();
                let expected =
                    header.calc_checksum_ipv4_raw([192, 0, 2, 1], [203, 0, 113, 10], udp.payload());
                assert_eq!(expected, Ok(udp.checksum()));
                header.length
            })
            .collect();
        assert_eq!(lens, [18, 18, 13]);
    }

    #[test]
    fn an_offload_that_contradicts_the_headers_is_refused() {
        let mut packet = super_packet(false, &[1; 100], 10, 0);
        packet.offload = to_cut(SegmentKind::Tcp4, 20, 200, 10);
        assert!(cut_all(&packet).is_none());
        packet.offload = to_cut(SegmentKind::Tcp4, 4, 40, 10);
        assert!(cut_all(&packet).is_none());
    }

    proptest! {
        #[test]
        fn segments_carry_the_payload_in_order_with_right_checksums(
            v6: bool,
            payload in proptest::collection::vec(any::<u8>(), 1..4000),
            size in 1_u16..1500,
        ) {
            let packet = super_packet(v6, &payload, size, PSH);
            let segments = cut_all(&packet).unwrap();
            prop_assert_eq!(segments.len(), payload.len().div_ceil(usize::from(size)));
            let mut seen = Vec::new();
            for segment in &segments {
                let tcp = tcp_of(segment);
                let expected = if v6 {
                    tcp.calc_checksum_ipv6([1; 16], [2; 16])
                } else {
                    prop_assert_eq!(finish(&segment[..20], 0), 0);
                    tcp.calc_checksum_ipv4([192, 0, 2, 1], [203, 0, 113, 10])
                };
                prop_assert_eq!(expected, Ok(tcp.checksum()));
                seen.extend_from_slice(tcp.payload());
            }
            prop_assert_eq!(seen, payload);
        }

        #[test]
        fn any_offload_on_any_bytes_gives_an_answer(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            start in 0_u16..130, offset in prop_oneof![Just(6_u16), Just(16), any::<u16>()],
            header_len in 0_u16..130, size in 0_u16..50, cut: bool, udp: bool,
        ) {
            let mut packet = Packet::from_bytes(&bytes);
            let kind = if udp { SegmentKind::Udp } else { SegmentKind::Tcp6 };
            packet.offload = crate::packet::Offload {
                checksum: Checksum::Partial { start, offset },
                segments: cut.then_some(crate::packet::Segments { kind, size, header_len }),
            };
            let _ = cut_all(&packet);
        }
    }
}
