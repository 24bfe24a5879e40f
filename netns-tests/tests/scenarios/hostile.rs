//! Bytes that nobody should send.

use std::time::Duration;

use pias_lab::{Host, Transport, wait_until};

use crate::machine::scenario;
use crate::stage::{POPS, Stage, anycast, join_both, leave};

/// Geneve with an IPv4 packet inside, from 10.1.1.2 to an address: UDP from
/// port 4000 to port 53, without a checksum.
fn tunnelled(to: [u8; 4]) -> String {
    let geneve = "0000080000000000";
    let mut ip = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 1, 2];
    ip.extend(to);
    let sum = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(folded as u16) - (folded >> 16) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let udp = "0fa00035000c0000deadbeef";
    let ip: String = ip.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{geneve}{ip}{udp}")
}

/// Octets of no meaning, the same every time.
fn garbage(length: usize) -> String {
    let octet = |n: usize| format!("{:02x}", (n * n * 37 + n * 11 + length) % 251);
    (0..length).map(octet).collect()
}

fn send(from: &Host<'_>, to: &str, payloads: &[String]) {
    let mut words = vec!["pias-lab", "tool", "send", to];
    for payload in payloads {
        words.extend(["--hex", payload]);
    }
    from.ok(&words).expect("datagrams");
}

/// Waits until a drop counter of the proxy has grown by a number.
fn dropped(proxy: &Host<'_>, reason: &str, before: u64, by: u64) {
    let count = || proxy.drops().expect("counters").get(reason).copied().unwrap_or(0);
    let waited = wait_until(Duration::from_secs(5), format!("{by} more {reason}"), || {
        count() >= before + by
    });
    waited.unwrap_or_else(|error| panic!("{error}: {:?}", proxy.drops()));
    assert_eq!(count(), before + by, "{reason}");
}

#[test]
fn garbage_and_strangers_are_dropped_and_counted_and_the_proxies_keep_serving() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = join_both(&lab, "fra-t1", 90, "53");
        let (proxy, stranger, peer) = (lab.host("fra1"), lab.host("c-fra"), lab.host("fra2"));
        let count =
            |reason: &str| proxy.drops().expect("counters").get(reason).copied().unwrap_or(0);

        for at in ["198.51.100.11:6081", "[2001:db8:1::11]:6081"] {
            let before = count("unknown_peer");
            send(&stranger, at, &[tunnelled([203, 0, 113, 90]), tunnelled([203, 0, 113, 90])]);
            dropped(&proxy, "unknown_peer", before, 2);
        }
        // What is no Geneve is dropped whoever sends it; here a live proxy does.
        let before = count("tunnel_malformed");
        let bad: Vec<_> = [1, 7, 8, 40, 900].map(garbage).into();
        send(&peer, "198.51.100.11:6081", &bad);
        dropped(&proxy, "tunnel_malformed", before, bad.len() as u64);
        // Nor does the tunnel lead elsewhere than to the service.
        let before = count("outside_prefix");
        send(&peer, "198.51.100.11:6081", &[tunnelled([10, 1, 11, 2])]);
        dropped(&proxy, "outside_prefix", before, 1);

        let bad: Vec<_> = (1..60).map(|n| garbage(n * 20)).collect();
        for at in [
            "198.51.100.11:7427",
            "[2001:db8:1::11]:7427",
            "203.0.113.90:7427",
            "[2001:db8:a::90]:7427",
        ] {
            send(&stranger, at, &bad);
        }
        for address in anycast(90) {
            for transport in [Transport::Udp, Transport::Tcp] {
                let answer =
                    stranger.ask_dns(&address, transport).expect("dig").expect("an answer");
                assert_eq!(answer.target, "fra-t1");
            }
        }
        for pop in POPS {
            for number in 1..=2 {
                let name = format!("{pop}{number}");
                let proxies = lab.host(&name).piasctl(&["proxies"]).expect("piasctl");
                let rows = proxies["proxies"].as_array().cloned().unwrap_or_default();
                let up = rows.iter().filter(|row| row["state"] == "up").count();
                assert_eq!(up, 6, "{name}: {proxies}");
            }
        }
        let again: usize = joins.iter().map(|join| join.events().len()).sum();
        assert_eq!(again, 4, "no agent lost its proxy");
        leave(joins);
    });
}
