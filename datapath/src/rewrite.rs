//! Changes of a packet in place, with its checksums kept right.

use std::net::{IpAddr, SocketAddr};

use pias_protocol::group::Protocol;

use crate::{
    checksum::Delta,
    classify::Transport,
    packet::Checksum,
    wire::{ip::Ip, ipv4, ipv6, set_double_word, set_word, tcp, udp, word},
};

/// Replaces both addresses, and the IPv4 header checksum with them; returns how a pseudo-header's
/// sum changes. The new addresses are of the packet's family, or nothing changes.
pub fn addresses(bytes: &mut [u8], ip: &Ip, source: IpAddr, destination: IpAddr) -> Delta {
    let delta = Delta::default().address(ip.source, source).address(ip.destination, destination);
    match (ip.is_v6(), source, destination) {
        (false, IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[ipv4::SOURCE..][..4].copy_from_slice(&source.octets());
            bytes[ipv4::DESTINATION..][..4].copy_from_slice(&destination.octets());
            update_word(bytes, ipv4::CHECKSUM, delta);
            delta
        }
        (true, IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[ipv6::SOURCE..][..16].copy_from_slice(&source.octets());
            bytes[ipv6::DESTINATION..][..16].copy_from_slice(&destination.octets());
            delta
        }
        _ => Delta::default(),
    }
}

fn update_word(bytes: &mut [u8], at: usize, delta: Delta) {
    let updated = delta.complete(word(bytes, at));
    set_word(bytes, at, updated);
}

/// Network address translation of a whole packet or a first fragment: addresses, ports and the
/// transport checksum, complete or partial.
pub fn translate(
    bytes: &mut [u8],
    ip: &Ip,
    transport: &Transport,
    checksum: Checksum,
    source: SocketAddr,
    destination: SocketAddr,
) {
    let pseudo = addresses(bytes, ip, source.ip(), destination.ip());
    let ports = Delta::default()
        .word(transport.source.port(), source.port())
        .word(transport.destination.port(), destination.port());
    set_word(bytes, ip.payload, source.port());
    set_word(bytes, ip.payload + 2, destination.port());
    let at = ip.payload
        + match transport.protocol {
            Protocol::Tcp => tcp::CHECKSUM,
            Protocol::Udp => udp::CHECKSUM,
        };
    transport_checksum(bytes, at, transport.protocol, checksum, pseudo, ports);
}

fn transport_checksum(
    bytes: &mut [u8],
    at: usize,
    protocol: Protocol,
    checksum: Checksum,
    pseudo: Delta,
    covered: Delta,
) {
    let field = word(bytes, at);
    let updated = match checksum {
        Checksum::Partial { .. } => pseudo.partial(field),
        // RFC 768: no checksum stays no checksum, and a checksum of 0 is written as its other form.
        Checksum::Complete if protocol == Protocol::Udp => match field {
            0 => 0,
            field => match pseudo.and(covered).complete(field) {
                0 => 0xFFFF,
                updated => updated,
            },
        },
        Checksum::Complete => pseudo.and(covered).complete(field),
    };
    set_word(bytes, at, updated);
}

/// Takes one off the TTL or hop limit; `false`, and nothing changes, where none is left.
#[must_use]
pub fn decrement_ttl(bytes: &mut [u8], ip: &Ip) -> bool {
    if ip.ttl <= 1 {
        return false;
    }
    if ip.is_v6() {
        bytes[ipv6::HOP_LIMIT] -= 1;
    } else {
        let old = word(bytes, ipv4::TTL);
        bytes[ipv4::TTL] -= 1;
        let delta = Delta::default().word(old, word(bytes, ipv4::TTL));
        update_word(bytes, ipv4::CHECKSUM, delta);
    }
    true
}

/// Sets the identification of an IPv4 packet, or of an IPv6 fragment.
pub fn set_id(bytes: &mut [u8], ip: &Ip, id: u32) {
    if !ip.is_v6() {
        let delta = Delta::default().word(word(bytes, ipv4::ID), id as u16);
        set_word(bytes, ipv4::ID, id as u16);
        update_word(bytes, ipv4::CHECKSUM, delta);
    } else if let Some(fragment) = ip.fragment {
        set_double_word(bytes, fragment.header + 4, id);
    }
}

/// Lowers the MSS option of a SYN to `most` where it is higher.
pub fn clamp_mss(bytes: &mut [u8], ip: &Ip, transport: &Transport, checksum: Checksum, most: u16) {
    let header = ip.payload..ip.payload + transport.header;
    let Some(at) = bytes.get(header).and_then(tcp::mss_at) else { return };
    let old = word(bytes, ip.payload + at);
    if old <= most {
        return;
    }
    set_word(bytes, ip.payload + at, most);
    if checksum == Checksum::Complete {
        // An option at an odd offset contributes its octets to the other halves of words.
        let swap = |value: u16| if at % 2 == 0 { value } else { value.swap_bytes() };
        let delta = Delta::default().word(swap(old), swap(most));
        update_word(bytes, ip.payload + tcp::CHECKSUM, delta);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        checksum,
        classify::{Kind, View},
        packet::Packet,
        testing,
    };

    fn parts(packet: &Packet) -> (Ip, Transport) {
        let view = View::parse(packet.bytes()).unwrap();
        match view.kind {
            Kind::Transport(transport) => (view.ip, transport),
            other => panic!("{other:?}"),
        }
    }

    fn between(source: SocketAddr, destination: SocketAddr, tcp: bool, payload: &[u8]) -> Packet {
        if tcp {
            testing::tcp_between(source, destination, tcp::ACK, payload)
        } else {
            testing::udp_between(source, destination, payload)
        }
    }

    fn nat(packet: &mut Packet, source: SocketAddr, destination: SocketAddr) {
        let (ip, transport) = parts(packet);
        let checksum = packet.offload.checksum;
        translate(packet.bytes_mut(), &ip, &transport, checksum, source, destination);
    }

    prop_compose! {
        fn socket4()(ip in any::<u32>(), port in 1_u16..) -> SocketAddr {
            SocketAddr::new(std::net::Ipv4Addr::from(ip).into(), port)
        }
    }
    prop_compose! {
        fn socket6()(ip in any::<u128>(), port in 1_u16..) -> SocketAddr {
            SocketAddr::new(std::net::Ipv6Addr::from(ip).into(), port)
        }
    }

    fn sockets() -> impl Strategy<Value = [SocketAddr; 4]> {
        prop_oneof![
            [socket4(), socket4(), socket4(), socket4()],
            [socket6(), socket6(), socket6(), socket6()],
        ]
    }

    proptest! {
        #[test]
        fn checksums_hold_after_translation_and_there_and_back_is_nothing(
            [a, b, c, d] in sockets(),
            tcp in any::<bool>(),
            payload in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut packet = between(a, b, tcp, &payload);
            let before = packet.clone();
            nat(&mut packet, c, d);
            testing::assert_checksums(packet.bytes());
            prop_assert_eq!(parts(&packet).1.source, c);
            prop_assert_eq!(parts(&packet).1.destination, d);
            nat(&mut packet, a, b);
            prop_assert_eq!(packet, before);
        }

        #[test]
        fn a_partial_checksum_is_completed_to_the_right_one(
            [a, b, c, d] in sockets(),
            tcp in any::<bool>(),
            payload in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut packet = between(a, b, tcp, &payload);
            testing::make_partial(&mut packet);
            nat(&mut packet, c, d);
            checksum::complete(&mut packet);
            testing::assert_checksums(packet.bytes());
        }

        #[test]
        fn a_clamped_mss_keeps_the_checksum(
            [a, b, ..] in sockets(), mss in 500_u16.., shift in 0_usize..4, partial in any::<bool>()
        ) {
            let mut packet = testing::syn_with_mss(a, b, mss, shift);
            if partial {
                testing::make_partial(&mut packet);
            }
            let (ip, transport) = parts(&packet);
            let checksum = packet.offload.checksum;
            clamp_mss(packet.bytes_mut(), &ip, &transport, checksum, 1300);
            checksum::complete(&mut packet);
            testing::assert_checksums(packet.bytes());
            let header = &packet.bytes()[ip.payload..];
            prop_assert_eq!(word(header, tcp::mss_at(header).unwrap()), mss.min(1300));
        }

        #[test]
        fn ttl_and_id_keep_the_header_checksum([a, b, ..] in sockets(), id in any::<u32>()) {
            let mut packet = testing::udp_between(a, b, b"x");
            let (ip, _) = parts(&packet);
            prop_assert!(decrement_ttl(packet.bytes_mut(), &ip));
            set_id(packet.bytes_mut(), &ip, id);
            testing::assert_checksums(packet.bytes());
            prop_assert_eq!(parts(&packet).0.ttl, ip.ttl - 1);
        }
    }
}
