//! Bytes that mean harm.

use proptest::prelude::*;

use super::*;
use crate::wire::tcp;

fn busy() -> Proxy {
    let mut proxy = Proxy::new();
    proxy.target(5, "203.0.113.10:53/udp", "10.0.0.1:5353", TargetState::Up);
    proxy.target(6, "203.0.113.10:80/tcp", "10.0.0.1:8080", TargetState::Up);
    proxy.target(7, "[2001:db8:a::10]:80/tcp", "[2001:db8:9::1]:80", TargetState::Up);
    for group in ["203.0.113.10:53/udp", "203.0.113.10:80/tcp", "[2001:db8:a::10]:80/tcp"] {
        proxy.candidates(group, &[SELF, OTHER]);
    }
    proxy
}

#[test]
fn nobody_sends_from_an_address_that_is_ours_or_of_many() {
    let mut proxy = busy();
    for source in
        ["203.0.113.10:53", "203.0.113.99:9", "192.0.2.200:9", "127.0.0.1:9", "224.0.0.1:9"]
    {
        let verdict = proxy.tun(&mut testing::udp(source, DNS, b"land"));
        assert_eq!(verdict, Verdict::Drop(DropReason::BadSource), "{source}");
    }
}

#[test]
fn what_is_for_nobody_here_is_dropped() {
    let mut proxy = busy();
    let verdict = proxy.tun(&mut testing::udp(CLIENT, "8.8.8.8:53", b""));
    assert_eq!(verdict, Verdict::Drop(DropReason::NotOurs));
    let mut empty = Packet::with_capacity(0);
    assert_eq!(proxy.tun(&mut empty), Verdict::Drop(DropReason::Malformed));
}

#[test]
fn octets_behind_the_packet_do_not_leave_with_it() {
    let mut proxy = busy();
    proxy.candidates("203.0.113.10:53/udp", &[OTHER]);
    let mut packet = testing::udp(CLIENT, DNS, b"q");
    let length = packet.len();
    packet.extend(b"ethernet padding");
    assert!(direct(OTHER_TUNNEL)(&proxy.tun(&mut packet)));
    assert_eq!(packet.len(), length);
}

/// Packets that are nearly right: the ways of a pipeline begin behind its first checks.
fn nearly() -> impl Strategy<Value = Packet> {
    let base = prop_oneof![
        Just(testing::udp(CLIENT, DNS, &[1; 40])),
        Just(testing::udp(CLIENT, "203.0.113.10:7427", &[1; 40])),
        Just(testing::syn(CLIENT, WEB)),
        Just(testing::tcp(CLIENT, WEB, tcp::ACK, &[2; 20])),
        Just(testing::syn(CLIENT6, WEB6)),
        Just(testing::echo("192.0.2.1", "203.0.113.9", b"ping")),
        Just(testing::udp("10.0.0.1:5353", "192.0.2.200:2000", &[1; 40])),
        Just(refused(&testing::udp(DNS, CLIENT, &[3; 30]))),
        Just(refused(&testing::udp("192.0.2.200:2000", "10.0.0.1:5353", &[3; 30]))),
    ];
    let changes = proptest::collection::vec((any::<u8>(), any::<u8>()), 0..4);
    (base, changes, any::<u8>()).prop_map(|(mut packet, changes, cut)| {
        for (at, value) in changes {
            let at = usize::from(at) % packet.len();
            packet.bytes_mut()[at] = value;
        }
        if cut < 40 {
            packet.set_len(usize::from(cut));
        }
        packet
    })
}

fn refused(packet: &Packet) -> Packet {
    let ip = View::parse(packet.bytes()).unwrap().ip;
    let problem = crate::icmp_error::Problem::Port;
    crate::icmp_error::about(packet.bytes(), &ip, problem, addr("172.16.0.1")).unwrap()
}

proptest! {
    #[test]
    fn any_bytes_get_a_verdict(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        flags in proptest::option::of(0_u8..8),
    ) {
        let mut proxy = busy();
        proxy.tun(&mut Packet::from_bytes(&bytes));
        let option = flags.and_then(|flags| resolve(Flags(flags), 1, THIRD_TUNNEL));
        proxy.tunnel(OTHER_TUNNEL, option, &mut Packet::from_bytes(&bytes));
    }

    #[test]
    fn every_packet_is_counted_once_more_as_something(
        packets in proptest::collection::vec((nearly(), any::<bool>(), 0_u8..8, 0_u8..8), 1..20),
    ) {
        let mut proxy = busy();
        for (mut packet, tunnelled, flags, hops) in packets {
            let total = |proxy: &Proxy| {
                let counters = proxy.pipeline.counters();
                counters.paths().map(|(_, n)| n).sum::<u64>()
                    + counters.all_drops().map(|(_, n)| n).sum::<u64>()
            };
            let before = total(&proxy);
            let verdict = if tunnelled {
                let option = resolve(Flags(flags), hops, THIRD_TUNNEL);
                proxy.tunnel(OTHER_TUNNEL, option, &mut packet)
            } else {
                proxy.tun(&mut packet)
            };
            prop_assert!(total(&proxy) > before, "{verdict:?} was not counted");
            for event in proxy.events() {
                if let ForwardingEvent::SecondChance { parked, .. }
                | ForwardingEvent::Resolve { parked, .. } = event
                {
                    proxy.apply(ForwardingUpdate::Deliver { parked });
                }
            }
            proxy.packets();
            proxy.wait(Duration::from_millis(50));
        }
    }
}
