//! Fragments follow their first.

use super::*;
use crate::split;

const TARGET: &str = "10.0.0.1:5353";

/// A datagram in fragments of about 1000 octets.
fn pieces(from: &str, to: &str, len: usize) -> (Packet, Vec<Packet>) {
    let whole = testing::udp(from, to, &(0..len).map(|n| n as u8).collect::<Vec<_>>());
    let ip = View::parse(whole.bytes()).unwrap().ip;
    let pieces = split::fragments(whole.bytes(), &ip, 1000);
    (whole, pieces)
}

/// Puts fragments together, and checks the datagram's checksum.
fn together(pieces: &[Packet]) -> Vec<u8> {
    let mut payload = vec![0; 70_000];
    let (mut end, mut header) = (0, Vec::new());
    let mut ids = std::collections::BTreeSet::new();
    for piece in pieces {
        testing::assert_header_checksum(piece.bytes());
        let ip = View::parse(piece.bytes()).unwrap().ip;
        let fragment = ip.fragment.unwrap();
        ids.insert(fragment.id);
        let part = &piece.bytes()[ip.payload..];
        payload[fragment.offset..fragment.offset + part.len()].copy_from_slice(part);
        end = end.max(fragment.offset + part.len());
        header = piece.bytes()[..ip.payload].to_vec();
    }
    assert_eq!(ids.len(), 1, "one identification");
    payload.truncate(end);
    header[2..4].copy_from_slice(&((20 + end) as u16).to_be_bytes());
    header[6..8].fill(0);
    header[10..12].fill(0);
    let sum = crate::checksum::finish(&header, 0);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    testing::assert_checksums(&header);
    header
}

fn jap() -> Proxy {
    let mut proxy = Proxy::new();
    proxy.target(5, "203.0.113.10:53/udp", TARGET, TargetState::Up);
    proxy.candidates("203.0.113.10:53/udp", &[SELF]);
    proxy
}

#[test]
fn a_large_datagram_arrives_whole_at_the_target_and_back() {
    let mut proxy = jap();
    let (whole, pieces_in) = pieces(CLIENT, DNS, 60_000);
    let mut out = Vec::new();
    for mut piece in pieces_in {
        assert_eq!(proxy.tun(&mut piece), Verdict::Tun);
        out.push(piece);
    }
    let arrived = together(&out);
    assert_eq!(arrived[28..], whole.bytes()[28..]);
    let nat = transport(&Packet::from_bytes(&arrived)).source;

    let (_, answer) = pieces(TARGET, &nat.to_string(), 60_000);
    let mut out = Vec::new();
    for mut piece in answer {
        assert_eq!(proxy.tun(&mut piece), Verdict::Tun);
        out.push(piece);
    }
    let seen = transport(&Packet::from_bytes(&together(&out)));
    assert_eq!((seen.source, seen.destination), (sock(DNS), sock(CLIENT)));
}

const DNS6: &str = "[2001:db8:a::10]:53";
const TARGET6: &str = "[2001:db8:9::1]:5353";
const ID6: u32 = 0xABCD_EF01;

/// A datagram over IPv6 in fragments of up to 1232 octets of payload. A destination-options header
/// in front of the transport belongs to what is cut: only the first fragment shows it.
fn pieces6(from: &str, to: &str, len: usize, options: bool) -> (Packet, Vec<Packet>) {
    let whole = testing::udp(from, to, &(0..len).map(|n| n as u8).collect::<Vec<_>>());
    let mut upper = whole.bytes()[40..].to_vec();
    let next = if options { 60 } else { 17 };
    if options {
        upper.splice(0..0, [17, 0, 1, 4, 0, 0, 0, 0]);
    }
    let count = upper.len().div_ceil(1232);
    let piece = |(at, part): (usize, &[u8])| {
        let mut bytes = whole.bytes()[..40].to_vec();
        bytes[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        bytes[6] = 44;
        let more = u16::from(at + 1 < count);
        bytes.extend([next, 0]);
        bytes.extend(((at * 1232) as u16 | more).to_be_bytes());
        bytes.extend(ID6.to_be_bytes());
        bytes.extend(part);
        Packet::from_bytes(&bytes)
    };
    let pieces = upper.chunks(1232).enumerate().map(piece).collect();
    (whole, pieces)
}

/// Puts fragments of IPv6 together, and checks the datagram's checksum.
fn together6(pieces: &[Packet]) -> Packet {
    let mut upper = vec![0; 70_000];
    let mut end = 0;
    let mut ids = std::collections::BTreeSet::new();
    for piece in pieces {
        let bytes = piece.bytes();
        assert_eq!(bytes[6], 44, "the fragment header stays where it was");
        let flags = crate::wire::word(bytes, 42);
        let (offset, part) = (usize::from(flags & 0xFFF8), &bytes[48..]);
        ids.insert(crate::wire::double_word(bytes, 44));
        upper[offset..offset + part.len()].copy_from_slice(part);
        end = end.max(offset + part.len());
    }
    assert_eq!(ids.len(), 1, "one identification");
    let mut bytes = pieces[0].bytes()[..40].to_vec();
    bytes[4..6].copy_from_slice(&(end as u16).to_be_bytes());
    bytes[6] = pieces[0].bytes()[40];
    bytes.extend(&upper[..end]);
    testing::assert_checksums(&bytes);
    Packet::from_bytes(&bytes)
}

#[test]
fn a_large_datagram_over_ipv6_crosses_the_tunnel_and_comes_back() {
    for options in [false, true] {
        let mut ingress = Proxy::new();
        ingress.candidates("[2001:db8:a::10]:53/udp", &[OTHER]);
        let mut jap = Proxy::new();
        jap.target(5, "[2001:db8:a::10]:53/udp", TARGET6, TargetState::Up);
        let (whole, pieces) = pieces6(CLIENT6, DNS6, 60_000, options);
        let mut out = Vec::new();
        for mut piece in pieces {
            assert!(direct(OTHER_TUNNEL)(&ingress.tun(&mut piece)));
            assert_eq!(jap.tunnel(OTHER_TUNNEL, None, &mut piece), Verdict::Tun);
            out.push(piece);
        }
        let arrived = together6(&out);
        assert!(arrived.bytes().ends_with(&whole.bytes()[48..]));
        let ids: Vec<u32> =
            out.iter().map(|piece| crate::wire::double_word(piece.bytes(), 44)).collect();
        assert_ne!(ids[0], ID6, "an identification of the JAP's own");
        let nat = transport(&arrived).source;
        assert_eq!(transport(&arrived).destination, sock(TARGET6));

        let (_, answer) = pieces6(TARGET6, &nat.to_string(), 60_000, options);
        let mut out = Vec::new();
        for mut piece in answer.into_iter().rev() {
            if jap.tun(&mut piece) == Verdict::Tun {
                out.push(piece);
            }
        }
        out.splice(1..1, jap.packets().into_iter().map(|(_, packet)| packet));
        let seen = transport(&together6(&out));
        assert_eq!((seen.source, seen.destination), (sock(DNS6), sock(CLIENT6)));
    }
}

#[test]
fn fragments_that_come_before_their_first_wait_for_it() {
    let mut proxy = jap();
    let (_, pieces) = pieces(CLIENT, DNS, 5000);
    let mut out = Vec::new();
    for mut piece in pieces.into_iter().rev() {
        let verdict = proxy.tunnel(OTHER_TUNNEL, None, &mut piece);
        if verdict == Verdict::Tun {
            out.push(piece);
        } else {
            assert_eq!(verdict, Verdict::Parked);
        }
    }
    out.extend(proxy.packets().into_iter().map(|(verdict, packet)| {
        assert_eq!(verdict, Verdict::Tun);
        packet
    }));
    assert_eq!(out.len(), 6);
    together(&out);
    assert_eq!(proxy.pipeline.occupancy().fragments_held, 0);
}

#[test]
fn all_fragments_go_to_the_same_jap_even_when_the_first_has_to_wait() {
    let mut proxy = Proxy::new();
    let (_, pieces) = pieces(CLIENT, DNS, 5000);
    for mut piece in pieces {
        assert_eq!(proxy.tun(&mut piece), Verdict::Parked);
    }
    let parked = proxy.parked();
    let how = pias_protocol::forwarding::RelayHow::Resolve { tried: None };
    proxy.apply(ForwardingUpdate::Relay { parked, to: OTHER, how });
    let packets = proxy.packets();
    assert_eq!(packets.len(), 6);
    assert!(packets.iter().all(|(verdict, _)| {
        option(verdict) == (addr(OTHER_TUNNEL), resolve(Flags::RESOLVE, 1, "198.51.100.1").unwrap())
    }));
}

#[test]
fn fragments_of_a_refused_datagram_end_with_it() {
    let mut proxy = Proxy::new();
    proxy.entry("203.0.113.10:53/udp", IngressEntry::Refuse);
    let (_, pieces) = pieces(CLIENT, DNS, 3000);
    let verdicts: Vec<Verdict> = pieces.into_iter().map(|mut p| proxy.tun(&mut p)).collect();
    assert_eq!(verdicts[0], Verdict::Answered);
    assert_eq!(verdicts[1], Verdict::Drop(DropReason::FragmentOrphan));
    assert_eq!(proxy.packets().len(), 1);
}

#[test]
fn fragments_whose_first_never_comes_are_dropped_in_the_end() {
    let mut proxy = jap();
    let (_, mut pieces) = pieces(CLIENT, DNS, 3000);
    assert_eq!(proxy.tun(&mut pieces[1]), Verdict::Parked);
    proxy.wait(Duration::from_secs(2));
    assert_eq!(proxy.drops(DropReason::FragmentOrphan), 1);
}

#[test]
fn a_large_ping_is_answered() {
    let mut proxy = Proxy::new();
    let whole = testing::echo("192.0.2.1", "203.0.113.9", &[7; 3000]);
    let ip = View::parse(whole.bytes()).unwrap().ip;
    let mut out = Vec::new();
    for mut piece in split::fragments(whole.bytes(), &ip, 1000) {
        assert_eq!(proxy.tun(&mut piece), Verdict::Tun);
        out.push(piece);
    }
    assert_eq!(together(&out)[20], 0, "an echo reply");
}

#[test]
fn identifications_of_two_clients_do_not_collide_at_the_target() {
    let mut proxy = jap();
    let mut id = |client: &str| {
        let (_, mut pieces) = pieces(client, DNS, 3000);
        assert_eq!(proxy.tun(&mut pieces[0]), Verdict::Tun);
        View::parse(pieces[0].bytes()).unwrap().ip.fragment.unwrap().id
    };
    assert_ne!(id("192.0.2.1:1"), id("192.0.2.2:1"));
}

#[test]
fn a_flood_of_orphans_stops_neither_whole_datagrams_nor_fragments_in_order() {
    let mut proxy = jap();
    let flood = |proxy: &mut Proxy, ids: std::ops::Range<u32>| {
        let (_, pieces) = pieces("192.0.2.66:6", DNS, 1500);
        let ip = View::parse(pieces[1].bytes()).unwrap().ip;
        for id in ids {
            let mut orphan = pieces[1].clone();
            crate::rewrite::set_id(orphan.bytes_mut(), &ip, id);
            proxy.tun(&mut orphan);
        }
    };
    flood(&mut proxy, 0..10_000);
    assert!(proxy.drops(DropReason::FragmentRoomFull) > 0, "the room is full");
    proxy.delivered(&mut testing::udp(CLIENT, DNS, b"q"));
    let (_, pieces) = pieces(CLIENT, DNS, 3000);
    let mut out = Vec::new();
    for (at, mut piece) in (0..).zip(pieces) {
        assert_eq!(proxy.tun(&mut piece), Verdict::Tun);
        out.push(piece);
        flood(&mut proxy, 10_000 + 1_000 * at..11_000 + 1_000 * at);
    }
    together(&out);
}
