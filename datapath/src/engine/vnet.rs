//! The header before each packet of a TUN device with `IFF_VNET_HDR`.
//!
//! ```text
//! octet  0       1        2         4          6            8             10
//!        flags   GSO type hdr_len   gso_size   csum_start   csum_offset
//! ```
//! `struct virtio_net_hdr` of linux/virtio_net.h, in the byte order of the host. Linux takes
//! `hdr_len` of what it reads as a hint, and writes something larger than the headers for packets
//! that it forwards; so it is computed from the packet, and not believed.

use crate::packet::{Checksum, Offload, SegmentKind, Segments};

/// Octets of the header.
pub(super) const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP_CHECKSUM_AT: u16 = 16;
const UDP_CHECKSUM_AT: u16 = 6;
const UDP_LEN: u16 = 8;

/// What the header before `packet` says; `None` if it contradicts the packet, or asks for what was
/// never offered to the kernel.
pub(super) fn read(header: [u8; VNET_LEN], packet: &[u8]) -> Option<Offload> {
    let [flags, gso_type, _, _, size0, size1, start0, start1, offset0, offset1] = header;
    let start = u16::from_ne_bytes([start0, start1]);
    let checksum = if flags & NEEDS_CSUM == 0 {
        Checksum::Complete
    } else {
        let offset = u16::from_ne_bytes([offset0, offset1]);
        packet.get(usize::from(start) + usize::from(offset)..)?.get(..2)?;
        Checksum::Partial { start, offset }
    };
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => return Some(Offload { checksum, segments: None }),
        GSO_TCPV4 => SegmentKind::Tcp4,
        GSO_TCPV6 => SegmentKind::Tcp6,
        GSO_UDP_L4 => SegmentKind::Udp,
        _ => return None,
    };
    let size = u16::from_ne_bytes([size0, size1]);
    if size == 0 || checksum == Checksum::Complete {
        return None;
    }
    let transport_len = match kind {
        SegmentKind::Udp => UDP_LEN,
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => {
            u16::from(packet.get(usize::from(start) + 12)? >> 4) * 4
        }
    };
    let header_len = start.checked_add(transport_len)?;
    if usize::from(header_len) > packet.len() {
        return None;
    }
    // Linux marks a packet that holds no more than one segment's worth as one to cut, too.
    Some(Offload { checksum, segments: Some(Segments { kind, size, header_len }) })
}

/// The header to write before a packet with this offload.
pub(super) fn write(offload: &Offload) -> [u8; VNET_LEN] {
    let mut header = [0; VNET_LEN];
    if let Checksum::Partial { start, offset } = offload.checksum {
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    if let Some(segments) = offload.segments {
        header[1] = match segments.kind {
            SegmentKind::Tcp4 => GSO_TCPV4,
            SegmentKind::Tcp6 => GSO_TCPV6,
            SegmentKind::Udp => GSO_UDP_L4,
        };
        header[2..4].copy_from_slice(&segments.header_len.to_ne_bytes());
        header[4..6].copy_from_slice(&segments.size.to_ne_bytes());
    }
    header
}

/// The offload of a super-packet whose transport header begins at `start`; its checksum field must
/// hold the sum of the pseudo-header.
pub(super) fn to_cut(kind: SegmentKind, start: u16, header_len: u16, size: u16) -> Offload {
    let offset = match kind {
        SegmentKind::Udp => UDP_CHECKSUM_AT,
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => TCP_CHECKSUM_AT,
    };
    Offload {
        checksum: Checksum::Partial { start, offset },
        segments: Some(Segments { kind, size, header_len }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[cfg(target_endian = "little")]
    const TSO4: [u8; VNET_LEN] = [1, 1, 52, 0, 0xB4, 5, 20, 0, 16, 0];

    fn tcp4_packet() -> Vec<u8> {
        let mut packet = vec![0; 4000];
        packet[0] = 0x45;
        packet[32] = 8 << 4;
        packet
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_bytes_are_those_of_the_picture() {
        let offload = to_cut(SegmentKind::Tcp4, 20, 52, 1460);
        assert_eq!(write(&offload), TSO4);
        assert_eq!(read(TSO4, &tcp4_packet()), Some(offload));
        assert_eq!(write(&Offload::default()), [0; VNET_LEN]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_header_length_is_computed_and_not_believed() {
        let mut forwarded = TSO4;
        forwarded[2..4].copy_from_slice(&1500_u16.to_ne_bytes());
        let segments = read(forwarded, &tcp4_packet()).unwrap().segments.unwrap();
        assert_eq!(segments.header_len, 52);
    }

    #[test]
    fn what_was_never_offered_is_refused() {
        let ufo = [1, 3, 0, 0, 0, 8, 20, 0, 6, 0];
        assert_eq!(read(ufo, &tcp4_packet()), None);
        let without_checksum = [0, GSO_TCPV4, 0, 0, 0, 8, 0, 0, 0, 0];
        assert_eq!(read(without_checksum, &tcp4_packet()), None);
    }

    #[test]
    fn a_checksum_field_behind_the_packet_is_refused() {
        let mut header = [0; VNET_LEN];
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&20_u16.to_ne_bytes());
        header[8..10].copy_from_slice(&16_u16.to_ne_bytes());
        assert_eq!(read(header, &[0; 37]), None);
        assert!(read(header, &[0; 38]).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(header: [u8; VNET_LEN], packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(offload) = read(header, &packet) {
                if let Some(segments) = offload.segments {
                    prop_assert!(usize::from(segments.header_len) <= packet.len());
                    prop_assert!(segments.size > 0);
                }
                prop_assert_eq!(read(write(&offload), &packet), Some(offload));
            }
        }
    }
}
