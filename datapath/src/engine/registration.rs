//! Datagrams between the TUN device and piasd's QUIC endpoint.
//!
//! Clients of the registration port send to an anycast address, which is no address of this host;
//! so these datagrams have no socket, but leave and enter as packets of the TUN device.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use pias_protocol::hash::mapped;

use super::vnet::to_cut;
use crate::{
    checksum::{finish, fold, pseudo_header_of},
    limits::engine::MAX_PACKET,
    packet::{Packet, SegmentKind},
    wire::set_word,
};

const UDP: u8 = 17;
const UDP_LEN: usize = 8;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TTL: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;

/// One or more UDP datagrams between two endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The endpoint here: an anycast address and the registration port.
    pub local: SocketAddr,
    /// The endpoint there.
    pub remote: SocketAddr,
    /// The ECN field of the IP header, 0 to 3 (RFC 3168).
    pub ecn: u8,
    /// If set, `payload` holds several datagrams of this many octets each, but for the last, which
    /// may be shorter.
    pub segment_size: Option<u16>,
    /// What the datagrams carry.
    pub payload: Vec<u8>,
}

/// What a packet carries that the pipeline found to be for the registration port. Its checksum is
/// not looked at: QUIC authenticates every datagram (RFC 9001 section 5).
pub(super) fn take(
    packet: &Packet,
    local: SocketAddr,
    remote: SocketAddr,
    payload: Range<usize>,
) -> Option<Datagram> {
    let bytes = packet.bytes();
    let ecn = match bytes.first()? >> 4 {
        4 => bytes.get(1)? & 3,
        _ => bytes.get(1)? >> 4 & 3,
    };
    let payload = bytes.get(payload)?.to_vec();
    let segment_size = packet.offload.segments.map(|segments| segments.size);
    Some(Datagram { local, remote, ecn, segment_size, payload })
}

/// The packets that carry a datagram are built one after the other in `packet`, and handed to
/// `write`: one packet where the device cuts super-packets (`cuts`), else one for each datagram.
///
/// Datagrams whose endpoints are of two families, or longer than a packet, are dropped: none of
/// them comes from QUIC.
pub(super) fn build(
    datagram: &Datagram,
    cuts: bool,
    packet: &mut Packet,
    mut write: impl FnMut(&mut Packet),
) {
    let headers = IPV6_LEN + UDP_LEN;
    let (local, remote) = (datagram.local, datagram.remote);
    if local.is_ipv4() != remote.is_ipv4() || datagram.payload.is_empty() {
        return;
    }
    let size = usize::from(datagram.segment_size.unwrap_or(u16::MAX)).max(1);
    let step = if cuts { datagram.payload.len() } else { size };
    for payload in datagram.payload.chunks(step) {
        if payload.len() + headers > MAX_PACKET {
            continue;
        }
        build_one(datagram, payload, packet);
        if payload.len() > size {
            let transport = (packet.len() - UDP_LEN - payload.len()) as u16;
            let header_len = transport + UDP_LEN as u16;
            packet.offload = to_cut(SegmentKind::Udp, transport, header_len, size as u16);
        }
        write(packet);
    }
}

/// The packet is left with its UDP checksum partial: the kernel completes it.
fn build_one(datagram: &Datagram, payload: &[u8], packet: &mut Packet) {
    let udp_len = (UDP_LEN + payload.len()) as u16;
    let mut header = [0; IPV6_LEN + UDP_LEN];
    let transport = match (datagram.local.ip(), datagram.remote.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header[0] = 0x45;
            header[1] = datagram.ecn & 3;
            set_word(&mut header, 2, IPV4_LEN as u16 + udp_len);
            // Not fragmented, so the identification may be anything (RFC 6864 section 4.1).
            header[6] = DONT_FRAGMENT;
            header[8] = TTL;
            header[9] = UDP;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let checksum = finish(&header[..IPV4_LEN], 0);
            set_word(&mut header, 10, checksum);
            IPV4_LEN
        }
        (source, destination) => {
            header[0] = 0x60;
            header[1] = (datagram.ecn & 3) << 4;
            set_word(&mut header, 4, udp_len);
            header[6] = UDP;
            header[7] = TTL;
            header[8..24].copy_from_slice(&mapped(source));
            header[24..40].copy_from_slice(&mapped(destination));
            IPV6_LEN
        }
    };
    let pseudo = fold(pseudo_header_of(&header, UDP, usize::from(udp_len)));
    let udp = &mut header[transport..transport + UDP_LEN];
    set_word(udp, 0, datagram.local.port());
    set_word(udp, 2, datagram.remote.port());
    set_word(udp, 4, udp_len);
    set_word(udp, 6, pseudo);
    packet.replace(&header[..transport + UDP_LEN]);
    packet.extend(payload);
    packet.offload = to_cut(SegmentKind::Udp, transport as u16, 0, 0);
    packet.offload.segments = None;
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::segment::cut_all;

    fn datagram(v6: bool, payload: Vec<u8>, segment_size: Option<u16>) -> Datagram {
        let (local, remote) = if v6 {
            ("[2001:db8:a::10]:7427", "[2001:db8::1]:40000")
        } else {
            ("203.0.113.10:7427", "192.0.2.1:40000")
        };
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        Datagram { local, remote, ecn: 2, segment_size, payload }
    }

    /// The packets on the wire, however they were built.
    fn wire(datagram: &Datagram, cuts: bool) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        build(datagram, cuts, &mut Packet::with_capacity(MAX_PACKET), |packet| {
            out.extend(cut_all(packet).unwrap());
        });
        out
    }

    fn check(packet: &[u8], datagram: &Datagram) -> Vec<u8> {
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        let (from_to, ecn, checksum) = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header();
                assert!(ip.dont_fragment());
                assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
                let (from, to) = (ip.source_addr().into(), ip.destination_addr().into());
                let checksum = udp.to_header().calc_checksum_ipv4(&ip.to_header(), udp.payload());
                ((from, to), ip.ecn().value(), checksum)
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header();
                let (from, to) = (ip.source_addr().into(), ip.destination_addr().into());
                let checksum = udp.to_header().calc_checksum_ipv6(&ip.to_header(), udp.payload());
                ((from, to), ip.ecn().value(), checksum)
            }
            other => panic!("no IP: {other:?}"),
        };
        assert_eq!(from_to, (datagram.local.ip(), datagram.remote.ip()));
        assert_eq!((udp.source_port(), udp.destination_port()), (7427, 40_000));
        assert_eq!(ecn, datagram.ecn);
        assert_eq!(checksum, Ok(udp.checksum()));
        udp.payload().to_vec()
    }

    #[test]
    fn what_is_built_is_taken_again() {
        for v6 in [false, true] {
            let mut sent = datagram(v6, vec![1, 2, 3], None);
            let mut packet = Packet::default();
            build(&sent, true, &mut Packet::with_capacity(100), |built| packet = built.clone());
            let payload = packet.len() - 3..packet.len();
            let taken = take(&packet, sent.remote, sent.local, payload).unwrap();
            std::mem::swap(&mut sent.local, &mut sent.remote);
            assert_eq!(taken, sent);
        }
    }

    #[test]
    fn what_no_packet_can_carry_is_not_built() {
        let mut mixed = datagram(false, vec![1], None);
        mixed.remote = "[2001:db8::1]:40000".parse().unwrap();
        assert!(wire(&mixed, true).is_empty());
        assert!(wire(&datagram(true, vec![0; 65_500], None), true).is_empty());
        assert!(wire(&datagram(true, Vec::new(), None), true).is_empty());
    }

    proptest! {
        #[test]
        fn datagrams_are_the_same_whoever_cuts_them(
            v6: bool, cuts: bool,
            payload in proptest::collection::vec(any::<u8>(), 1..5000),
            segment_size in proptest::option::of(1_u16..1500),
        ) {
            let datagram = datagram(v6, payload.clone(), segment_size);
            let seen: Vec<_> =
                wire(&datagram, cuts).iter().map(|packet| check(packet, &datagram)).collect();
            let size = segment_size.map_or(payload.len(), usize::from);
            prop_assert_eq!(seen, payload.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>());
        }
    }
}
