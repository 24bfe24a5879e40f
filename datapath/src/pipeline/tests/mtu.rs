//! Packets that do not fit into the tunnel.

use super::*;
use crate::{
    packet::{SegmentKind, Segments},
    wire::ipv4,
};

fn ingress() -> Proxy {
    let mut proxy = Proxy::new();
    for group in ["203.0.113.10:53/udp", "203.0.113.10:80/tcp", "[2001:db8:a::10]:53/udp"] {
        proxy.candidates(group, &[OTHER]);
    }
    proxy
}

fn dont_fragment(packet: &mut Packet) {
    let bytes = packet.bytes_mut();
    bytes[ipv4::FRAGMENT] |= 0x40;
    bytes[ipv4::CHECKSUM..][..2].fill(0);
    let sum = crate::checksum::finish(&bytes[..20], 0);
    bytes[ipv4::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn what_just_fits_passes() {
    let mut proxy = ingress();
    // 1500 - 20 - 8 - 8 = 1464 without an option.
    let mut packet = testing::udp(CLIENT, DNS, &[0; 1464 - 28]);
    dont_fragment(&mut packet);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut packet)));
}

#[test]
fn the_client_is_told_what_fits() {
    let mut proxy = ingress();
    let mut packet = testing::udp(CLIENT, DNS, &[0; 1465 - 28]);
    dont_fragment(&mut packet);
    assert_eq!(proxy.tun(&mut packet), Verdict::Answered);
    let (_, error) = proxy.packet();
    testing::assert_checksums(error.bytes());
    assert_eq!(View::parse(error.bytes()).unwrap().ip.source, addr("203.0.113.10"));
    assert_eq!(error.bytes()[20..22], [3, 4]);
    assert_eq!(error.bytes()[26..28], 1440_u16.to_be_bytes(), "room for the option too");

    let mut packet = testing::udp(CLIENT6, "[2001:db8:a::10]:53", &[0; 1465 - 48]);
    assert_eq!(proxy.tun(&mut packet), Verdict::Answered);
    let (_, error) = proxy.packet();
    testing::assert_checksums(error.bytes());
    assert_eq!(error.bytes()[40..42], [2, 0]);
    assert_eq!(error.bytes()[44..48], 1440_u32.to_be_bytes());
}

#[test]
fn a_flood_of_other_errors_leaves_room_for_what_is_too_big() {
    let mut proxy = ingress();
    proxy.entry("203.0.113.10:54/udp", IngressEntry::Refuse);
    for _ in 0..2_000 {
        proxy.tun(&mut testing::udp(CLIENT, "203.0.113.10:54", b"q"));
    }
    proxy.packets();
    let mut packet = testing::udp(CLIENT, DNS, &[0; 1465 - 28]);
    dont_fragment(&mut packet);
    assert_eq!(proxy.tun(&mut packet), Verdict::Answered);
    assert_eq!(proxy.packet().1.bytes()[20..22], [3, 4]);
}

#[test]
fn what_may_be_fragmented_is() {
    let mut proxy = ingress();
    let mut packet = testing::udp(CLIENT, DNS, &[7; 4000]);
    assert_eq!(proxy.tun(&mut packet), Verdict::Answered);
    let packets = proxy.packets();
    assert_eq!(packets.len(), 3);
    assert!(
        packets
            .iter()
            .all(|(verdict, piece)| { direct(OTHER_TUNNEL)(verdict) && piece.len() <= 1464 })
    );
    let offset = |packet: &Packet| View::parse(packet.bytes()).unwrap().ip.fragment.unwrap().offset;
    assert!(packets.is_sorted_by_key(|(_, piece)| offset(piece)), "in order");
    assert_eq!(proxy.path(Path::Fragmented), 1);
}

#[test]
fn a_super_packet_is_measured_by_its_segments() {
    let mut proxy = ingress();
    let mut packet = testing::tcp(CLIENT, WEB, crate::wire::tcp::ACK, &[7; 20_000]);
    dont_fragment(&mut packet);
    testing::make_partial(&mut packet);
    let segments = Segments { kind: SegmentKind::Tcp4, size: 1400, header_len: 40 };
    packet.offload.segments = Some(segments);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut packet)));
    packet.offload.segments = Some(Segments { size: 1460, ..segments });
    assert_eq!(proxy.tun(&mut packet), Verdict::Answered, "too big");
}

#[test]
fn datagrams_of_a_super_packet_are_fragmented_each_for_itself() {
    let mut proxy = ingress();
    let mut packet = testing::udp(CLIENT, DNS, &[7; 3200]);
    testing::make_partial(&mut packet);
    let segments = Segments { kind: SegmentKind::Udp, size: 1600, header_len: 28 };
    packet.offload.segments = Some(segments);
    assert_eq!(proxy.tun(&mut packet), Verdict::Answered);
    let packets = proxy.packets();
    assert_eq!(packets.len(), 4);
    let first = |packet: &Packet| packet.bytes()[7] == 0;
    assert_eq!(packets.iter().filter(|(_, piece)| first(piece)).count(), 2);
}

#[test]
fn a_path_that_shrinks_is_remembered_for_a_while() {
    let mut proxy = ingress();
    let sent = |proxy: &mut Proxy| {
        let mut packet = testing::udp(CLIENT, DNS, &[0; 1400 - 28]);
        dont_fragment(&mut packet);
        proxy.tun(&mut packet)
    };
    assert!(direct(OTHER_TUNNEL)(&sent(&mut proxy)));
    proxy.pipeline.path_mtu(addr(OTHER_TUNNEL), 1400, proxy.now);
    assert_eq!(sent(&mut proxy), Verdict::Answered);
    let (_, error) = proxy.packet();
    assert_eq!(error.bytes()[26..28], 1340_u16.to_be_bytes());
    proxy.wait(Duration::from_secs(200));
    assert_eq!(sent(&mut proxy), Verdict::Answered);
    proxy.now = proxy.now + Duration::from_secs(250);
    assert_eq!(sent(&mut proxy), Verdict::Answered);
    proxy.wait(Duration::from_secs(150));
    assert!(direct(OTHER_TUNNEL)(&sent(&mut proxy)));
}

#[test]
fn a_forged_mtu_cannot_make_packets_arbitrarily_small() {
    let mut proxy = ingress();
    proxy.pipeline.path_mtu(addr(OTHER_TUNNEL), 68, proxy.now);
    let mut packet = testing::udp(CLIENT, DNS, &[0; 400]);
    dont_fragment(&mut packet);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut packet)));
    let mut packet = testing::udp(CLIENT6, "[2001:db8:a::10]:53", &[0; 1280 - 48]);
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut packet)), "IPv6 promises 1280");
}
