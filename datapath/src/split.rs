//! IPv4 fragmentation of a packet that may be fragmented (RFC 791 section 3.2).

use crate::{
    checksum,
    packet::{Packet, Segments},
    wire::{build, ip::Ip, ipv4, set_word, udp, word},
};

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_COPIED: u8 = 0x80;

/// Cuts a packet, or a fragment, into fragments of at most `mtu` octets. Empty where `mtu` leaves
/// no room for a payload.
#[must_use]
pub fn fragments(packet: &[u8], ip: &Ip, mtu: usize) -> Vec<Packet> {
    let room = mtu.saturating_sub(ip.payload) & !7;
    if room == 0 || ip.is_v6() {
        return Vec::new();
    }
    let first_header = &packet[..ip.payload];
    let later_header = copied_options(first_header);
    let (base, more_behind) = ip.fragment.map_or((0, false), |f| (f.offset, f.more));
    let payload = &packet[ip.payload..ip.end];
    let count = payload.len().div_ceil(room);
    payload
        .chunks(room)
        .enumerate()
        .map(|(at, part)| {
            let header = if at == 0 { first_header } else { &later_header };
            fragment(header, part, base + at * room, more_behind || at + 1 < count)
        })
        .collect()
}

fn fragment(header: &[u8], part: &[u8], offset: usize, more: bool) -> Packet {
    let mut packet = Packet::with_capacity(header.len() + part.len());
    packet.extend(header);
    packet.extend(part);
    let bytes = packet.bytes_mut();
    set_word(bytes, ipv4::TOTAL_LENGTH, (header.len() + part.len()) as u16);
    let flags = if more { ipv4::MORE_FRAGMENTS } else { 0 };
    set_word(bytes, ipv4::FRAGMENT, flags | (offset / 8) as u16);
    set_word(bytes, ipv4::CHECKSUM, 0);
    let sum = checksum::finish(&bytes[..header.len()], 0);
    set_word(bytes, ipv4::CHECKSUM, sum);
    debug_assert_eq!(word(bytes, ipv4::TOTAL_LENGTH) as usize, packet.len());
    packet
}

/// The datagrams that an IPv4 super-packet stands for, complete; all with its identification plus
/// their number. Empty where its offload contradicts its headers.
#[must_use]
pub fn datagrams(packet: &[u8], segments: Segments) -> Vec<Packet> {
    let Ok(ip) = Ip::parse(packet) else { return Vec::new() };
    let headers = ip.payload + udp::HEADER;
    if ip.is_v6() || segments.size == 0 || ip.end < headers {
        return Vec::new();
    }
    let id = word(packet, ipv4::ID);
    packet[headers..ip.end]
        .chunks(usize::from(segments.size))
        .enumerate()
        .map(|(at, payload)| {
            let mut datagram = Packet::with_capacity(headers + payload.len());
            datagram.extend(&packet[..headers]);
            datagram.extend(payload);
            let length = datagram.len();
            let bytes = datagram.bytes_mut();
            set_word(bytes, ipv4::TOTAL_LENGTH, length as u16);
            set_word(bytes, ipv4::ID, id.wrapping_add(at as u16));
            set_word(bytes, ipv4::CHECKSUM, 0);
            let sum = checksum::finish(&bytes[..ip.payload], 0);
            set_word(bytes, ipv4::CHECKSUM, sum);
            set_word(bytes, ip.payload + udp::LENGTH, (length - ip.payload) as u16);
            build::fill_checksum(&mut bytes[ip.payload..], ip.source, ip.destination, 17);
            datagram
        })
        .collect()
}

/// The header of later fragments: only options with the copied bit.
fn copied_options(header: &[u8]) -> Vec<u8> {
    let mut later = header[..ipv4::HEADER].to_vec();
    let mut options = &header[ipv4::HEADER..];
    while let Some(&kind) = options.first() {
        let length = match kind {
            OPTION_END => break,
            OPTION_NOP => 1,
            _ => options.get(1).map_or(1, |&length| usize::from(length).max(2)),
        };
        let Some((option, rest)) = options.split_at_checked(length) else { break };
        if kind & OPTION_COPIED != 0 {
            later.extend_from_slice(option);
        }
        options = rest;
    }
    later.resize(later.len().next_multiple_of(4), OPTION_END);
    later[0] = 0x40 | (later.len() / 4) as u8;
    later
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    proptest! {
        #[test]
        fn fragments_put_together_are_the_packet(
            payload in proptest::collection::vec(any::<u8>(), 1..4000), mtu in 68_usize..1500
        ) {
            let packet = testing::udp("192.0.2.1:9", "203.0.113.1:53", &payload);
            let ip = Ip::parse(packet.bytes()).unwrap();
            let mut whole = vec![0; ip.end - ip.payload];
            let pieces = fragments(packet.bytes(), &ip, mtu);
            for (at, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() <= mtu);
                testing::assert_header_checksum(piece.bytes());
                let part = Ip::parse(piece.bytes()).unwrap();
                let fragment = part.fragment.unwrap_or(crate::wire::ip::Fragment {
                    id: 0, offset: 0, more: false, header: 0,
                });
                prop_assert_eq!(fragment.more, at + 1 < pieces.len());
                let bytes = &piece.bytes()[part.payload..part.end];
                whole[fragment.offset..fragment.offset + bytes.len()].copy_from_slice(bytes);
            }
            prop_assert_eq!(&whole, &packet.bytes()[ip.payload..]);
        }
    }

    #[test]
    fn only_copied_options_go_on() {
        let mut header = vec![0; 20];
        header[0] = 0x48;
        header.extend([7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0]);
        let later = copied_options(&header);
        assert_eq!(later[20..], [0x94, 4, 0, 0]);
        assert_eq!(later[0], 0x46);
    }
}
