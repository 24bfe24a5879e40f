//! The way of a packet between proxies.

use std::collections::BTreeMap;
use std::process::Command;

use pias_lab::{Capture, Host, Lab, Transport};

use crate::machine::scenario;
use crate::stage::{Stage, anycast, join, leave, service};

/// A tunnel packet as tcpdump shows it.
#[derive(Debug)]
struct Tunnelled {
    /// Who sent it.
    from: String,
    /// To which proxy.
    to: String,
    /// The flags in its option, if it has one.
    flags: Option<u8>,
    /// The packet inside.
    inner: String,
}

/// The flag by which an ingress asks a RAP for the list (docs/wire.md).
const RESOLVE: u8 = 0x01;

/// All Geneve packets of a capture, in order.
fn tunnelled(capture: Capture<'_>) -> Vec<Tunnelled> {
    let file = capture.file().to_owned();
    capture.stop().expect("a capture");
    let output = Command::new("tcpdump").args(["-nn", "-t", "-vv", "-r"]).arg(&file).output();
    let text = String::from_utf8_lossy(&output.expect("tcpdump").stdout).into_owned();
    // A packet begins at a line's start; what belongs to it is indented.
    let whole = text.replace("\n    ", " ").replace("\n\t", " ");
    whole.lines().filter_map(parse).collect()
}

/// Reads `... A.P > B.6081: ... Geneve, Flags [C], ..., options [... data 01...] IP ...`.
fn parse(line: &str) -> Option<Tunnelled> {
    let (outer, rest) = line.split_once("Geneve, ")?;
    let mut ends = outer.split(" > ");
    let host = |text: &str| text.rsplit_once('.').map(|(host, _)| host.to_owned());
    let from = host(ends.next()?.split_whitespace().last()?)?;
    let to = host(ends.next()?.split(':').next()?)?;
    let (header, inner) = rest.split_once(" IP").unwrap_or((rest, ""));
    let data = header.split(" data ").nth(1);
    let flags = data.and_then(|data| u8::from_str_radix(data.get(..2)?, 16).ok());
    Some(Tunnelled { from, to, flags, inner: inner.to_owned() })
}

/// A proxy's IPv4 address on its POP's LAN.
fn unicast(lab: &Lab, proxy: &str) -> String {
    let addresses = lab.host(proxy).status().expect("a host").addresses;
    addresses[0].split('/').next().unwrap_or_default().to_owned()
}

/// A group number of which the proxy is no RAP, and its RAPs.
fn foreign_group(proxy: &Host<'_>) -> (u8, Vec<String>) {
    for number in 110..=140 {
        let [address, _] = anycast(number);
        let group = format!("{}/udp", service(&address, 53));
        let details = proxy.piasctl(&["group", &group]).expect("piasctl");
        let raps = details["groups"][0]["raps"].as_array().cloned().unwrap_or_default();
        let raps: Vec<_> = raps.iter().filter_map(|rap| rap.as_str().map(str::to_owned)).collect();
        assert_eq!(raps.len(), 4, "{details}");
        if !raps.contains(&proxy.name().to_owned()) {
            return (number, raps);
        }
    }
    panic!("{} is a RAP of 31 groups of 31, though four of six are", proxy.name());
}

/// How much each counter grew.
fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, path: &str) -> u64 {
    after.get(path).copied().unwrap_or(0) - before.get(path).copied().unwrap_or(0)
}

#[test]
fn the_first_packet_goes_through_the_rendezvous_and_every_later_one_straight_to_the_join_proxy() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let ingress = lab.host("fra1");
        let (number, raps) = foreign_group(&ingress);
        let [address, _] = anycast(number);
        let join = join(&lab, "sin-t1", &address, "53/udp");
        let jap = join.joins().pop().expect("a join").proxy;

        let before = ingress.paths().expect("counters");
        let filter = format!("udp dst port 6081 and src host {}", unicast(&lab, "fra1"));
        // At its router's port: what XDP sends, tcpdump does not see on the proxy itself.
        let capture = lab.host("fra").capture("fra1", &filter).expect("tcpdump");
        // Routing spreads flows over fra1 and fra2.
        for _ in 0..16 {
            let answer = lab.host("c-fra").ask_dns(&address, Transport::Udp).expect("dig");
            assert_eq!(answer.map(|answer| answer.target).as_deref(), Some("sin-t1"));
        }
        let after = ingress.paths().expect("counters");
        let to_group = format!("> {address}.53: ");
        let packets: Vec<_> = tunnelled(capture)
            .into_iter()
            .filter(|packet| packet.inner.contains(&to_group))
            .collect();

        let (first, later) = packets.split_first().expect("some of 16 flows entered at fra1");
        println!(
            "{address}: RAPs {raps:?}, JAP {jap}; first {first:?}, then {} direct",
            later.len()
        );
        assert_eq!(first.flags.map(|flags| flags & RESOLVE), Some(RESOLVE), "{first:?}");
        assert!(raps.iter().any(|rap| unicast(&lab, rap) == first.to), "{first:?}");
        assert!(!later.is_empty());
        for packet in later {
            assert_eq!(packet.flags, None, "{packet:?}");
            assert_eq!(packet.to, unicast(&lab, &jap), "{packet:?}");
            assert_eq!(packet.from, unicast(&lab, "fra1"), "{packet:?}");
        }
        assert_eq!(growth(&before, &after, "ingress_rendezvous"), 1, "{before:?} {after:?}");
        assert_eq!(growth(&before, &after, "ingress_direct"), later.len() as u64);
        leave([join]);
    });
}

#[test]
fn answers_leave_from_the_join_proxy_and_not_through_the_ingress() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [address, _] = anycast(141);
        let join = join(&lab, "nyc-t1", &address, "53/udp");
        let jap = join.joins().pop().expect("a join").proxy;
        let proxies = [jap.as_str(), "fra1", "fra2"];
        let before = proxies.map(|proxy| lab.host(proxy).paths().expect("counters"));
        for _ in 0..5 {
            let answer = lab.host("c-fra").ask_dns(&address, Transport::Udp).expect("dig");
            assert_eq!(answer.map(|answer| answer.target).as_deref(), Some("nyc-t1"));
        }
        // XDP sends what no capture on the proxy sees.
        let after = proxies.map(|proxy| lab.host(proxy).paths().expect("counters"));
        let returned = [0, 1, 2].map(|at| growth(&before[at], &after[at], "join_return"));
        assert_eq!(returned, [5, 0, 0]);
        leave([join]);
    });
}

/// A line of tcpdump for a packet with an option, and for one without.
#[test]
fn tunnel_packets_are_read_from_what_tcpdump_prints() {
    let with = "IP (tos 0x0) 198.51.100.11.40000 > 198.51.100.75.6081: [no cksum] Geneve, Flags \
                [C], vni 0x0, options [class Unknown (0xff50) type 0x81(C) len 24 data 0101 ...] \
                IP (tos 0x0) 10.1.1.2.5 > 203.0.113.9.53: 1+ TXT? whoami. (24)";
    let packet = parse(with).expect("a tunnel packet");
    assert_eq!((packet.to.as_str(), packet.flags), ("198.51.100.75", Some(1)));
    assert!(packet.inner.contains("> 203.0.113.9.53: "));
    let without = "IP (tos 0x0) 198.51.100.11.40000 > 198.51.100.75.6081: [no cksum] Geneve, \
                   Flags [none], vni 0x0 IP (tos 0x0) 10.1.1.2.5 > 203.0.113.9.53: 1+";
    assert_eq!(parse(without).expect("a tunnel packet").flags, None);
}
