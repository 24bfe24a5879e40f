//! Packets of our own making: IP headers, and checksums in full.

use std::net::IpAddr;

use super::{icmp, ipv4, ipv6, set_word, tcp, udp};
use crate::{checksum, packet::Packet};

/// The TTL and hop limit of what a proxy sends itself (RFC 1700's recommended default).
pub const TTL: u8 = 64;

/// A packet with this upper layer, whose checksum is filled in. Both addresses are of one family.
/// The IPv4 header forbids fragmentation, so its id may stay 0 (RFC 6864 section 4.1).
#[must_use]
pub fn ip_packet(source: IpAddr, destination: IpAddr, protocol: u8, upper: &[u8]) -> Packet {
    let mut packet = Packet::with_capacity(ipv6::HEADER + upper.len());
    packet.extend(&header(source, destination, protocol, upper.len()));
    let at = packet.len();
    packet.extend(upper);
    fill_checksum(&mut packet.bytes_mut()[at..], source, destination, protocol);
    packet
}

fn header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0; ipv4::HEADER];
            header[0] = 0x45;
            set_word(&mut header, ipv4::TOTAL_LENGTH, (ipv4::HEADER + length) as u16);
            set_word(&mut header, ipv4::FRAGMENT, ipv4::DONT_FRAGMENT);
            header[ipv4::TTL] = TTL;
            header[ipv4::PROTOCOL] = protocol;
            header[ipv4::SOURCE..][..4].copy_from_slice(&source.octets());
            header[ipv4::DESTINATION..][..4].copy_from_slice(&destination.octets());
            let sum = checksum::finish(&header, 0);
            set_word(&mut header, ipv4::CHECKSUM, sum);
            header
        }
        (source, destination) => {
            let mut header = vec![0; ipv6::HEADER];
            header[0] = 0x60;
            set_word(&mut header, ipv6::PAYLOAD_LENGTH, length as u16);
            header[ipv6::NEXT_HEADER] = protocol;
            header[ipv6::HOP_LIMIT] = TTL;
            header[ipv6::SOURCE..][..16].copy_from_slice(&pias_protocol::hash::mapped(source));
            header[ipv6::DESTINATION..][..16]
                .copy_from_slice(&pias_protocol::hash::mapped(destination));
            header
        }
    }
}

/// Fills in the checksum of an upper layer in full.
pub fn fill_checksum(upper: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) {
    let (at, pseudo) = match protocol {
        6 => (tcp::CHECKSUM, true),
        17 => (udp::CHECKSUM, true),
        icmp::PROTOCOL_V4 => (icmp::CHECKSUM, false),
        icmp::PROTOCOL_V6 => (icmp::CHECKSUM, true),
        _ => return,
    };
    set_word(upper, at, 0);
    let before = if pseudo {
        checksum::pseudo_header(source, destination, protocol, upper.len())
    } else {
        0
    };
    let sum = match checksum::finish(upper, before) {
        0 if protocol == 17 => 0xFFFF,
        sum => sum,
    };
    set_word(upper, at, sum);
}

/// Whether the checksum of a whole upper layer is right.
#[must_use]
pub fn checksum_holds(upper: &[u8], source: IpAddr, destination: IpAddr, protocol: u8) -> bool {
    let before = if protocol == icmp::PROTOCOL_V4 {
        0
    } else {
        checksum::pseudo_header(source, destination, protocol, upper.len())
    };
    checksum::finish(upper, before) == 0
}
