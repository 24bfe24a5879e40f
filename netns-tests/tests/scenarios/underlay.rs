//! Packets that are larger than the path, and proxies that share one address
//! family.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use pias_lab::topology::Role;
use pias_lab::{Capture, Host, Lab, Topology, Transport, bracketed, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, anycast, join_both, leave, service};

const MIB: usize = 1 << 20;

/// Time for the transfer of a large file.
const TRANSFER_LIMIT: Duration = Duration::from_secs(120);

/// The default topology with an ocean that carries 1400 octets at most, and a
/// last link to `nyc-t2` that carries 1300. Distances are short, so that
/// large files do not take long.
fn narrow() -> Topology {
    let mut topology = Topology::three_pops();
    for link in &mut topology.links {
        if let Some(shape) = &mut link.shape {
            shape.delay = shape.delay.min(Duration::from_millis(2));
            shape.jitter = Duration::ZERO;
        }
        match link.name() {
            "fra-nyc" => link.mtu = 1400,
            "nyc-t2" => link.mtu = 1300,
            _ => {}
        }
    }
    only(&mut topology, IpAddr::is_ipv4);
    topology
}

/// Leaves proxies one unicast address each.
fn only(topology: &mut Topology, family: fn(&IpAddr) -> bool) {
    for host in &mut topology.hosts {
        let of_host = topology.lans.iter().flat_map(|lan| &lan.members);
        let members = of_host.filter(|member| member.host == host.name);
        let addresses = members.flat_map(|member| &member.addresses).map(ipnet::IpNet::addr);
        if host.role == Role::Proxy {
            host.unicast = addresses.filter(family).collect();
        }
    }
}

/// Makes a file of random octets below `/files/` of a target's web server; its
/// hash.
fn make_file(target: &Host<'_>, name: &str, size: usize) -> String {
    let directory = target.lab().state().join("hosts").join(target.name()).join("www");
    let file = directory.join(name).display().to_string();
    let make = format!(
        "openssl enc -aes-128-ctr -nosalt -pass pass:pias -pbkdf2 -in /dev/zero 2>/dev/null | \
         head -c {size} | tee {file} | sha256sum"
    );
    target.run_for(TRANSFER_LIMIT, &["sh", "-c", &make]).expect("a file").stdout
}

/// Downloads a file from the group; asserts that its hash is `expected`.
fn download(client: &Host<'_>, address: &str, name: &str, size: usize, expected: &str) {
    let start = Instant::now();
    let url = format!("http://{}/files/{name}", bracketed(address));
    let fetch = format!("curl -sSfg {url} | sha256sum");
    let got = client.run_for(TRANSFER_LIMIT, &["sh", "-c", &fetch]).expect("curl");
    let rate = size as f64 * 8e-9 / start.elapsed().as_secs_f64();
    println!("{} MiB from {address}: {:.1?}, {rate:.2} Gb/s", size / MIB, start.elapsed());
    assert_eq!(got.stdout, expected, "{}", got.stderr);
}

/// Waits until a capture has a packet whose line holds all of these.
fn wait_for_packet(capture: &Capture<'_>, words: &[&str]) {
    let seen = || {
        let lines = capture.lines().expect("a capture");
        lines.iter().any(|line| words.iter().all(|word| line.contains(word)))
    };
    wait_until(Duration::from_secs(5), format!("a packet with {words:?}"), seen)
        .unwrap_or_else(|error| panic!("{error}: {:#?}", capture.lines()));
}

/// ICMP errors that the proxies of a POP translated.
fn translated(lab: &Lab, pop: &str) -> u64 {
    let of = |number| {
        let paths = lab.host(&format!("{pop}{number}")).paths().expect("counters");
        paths.get("icmp_translated").copied().unwrap_or(0)
    };
    of(1) + of(2)
}

#[test]
fn large_files_cross_a_path_that_carries_1400_octets_in_the_middle() {
    scenario(|| {
        let Some(lab) = Stage::own(&narrow()) else { return };
        let joins = join_both(&lab, "nyc-t1", 10, "80/tcp");
        let (client, target) = (lab.host("c-fra"), lab.host("nyc-t1"));

        // Down: the answers' way is from the join proxy straight to the client, and
        // the transit router's complaints go to the anycast address.
        let before = translated(&lab, "nyc");
        let told =
            target.capture("eth0", "icmp[icmptype] == icmp-unreach or icmp6[icmp6type] == 2");
        let told = told.expect("tcpdump");
        let [v4, v6] = anycast(10);
        for (address, size) in [(&v4, 1024 * MIB), (&v6, 128 * MIB)] {
            let name = format!("{size}");
            let expected = make_file(&target, &name, size);
            download(&client, address, &name, size, &expected);
        }
        wait_for_packet(&told, &["need to frag (mtu 1400)"]);
        wait_for_packet(&told, &["packet too big, mtu 1400"]);
        assert!(translated(&lab, "nyc") >= before + 2);
        told.stop().expect("a capture");

        // Up: the tunnel between the proxies is what has to fit.
        upload(&lab, 128 * MIB);
        leave(joins);
    });
}

/// Sends a file from Frankfurt to an echo server in New York, and compares what
/// comes back.
fn upload(lab: &Lab, size: usize) {
    let (client, target) = (lab.host("c-fra"), lab.host("nyc-t1"));
    target.spawn("echo", &["pias-lab", "tool", "echo", "7000"]).expect("a server");
    let joins = join_both(lab, "nyc-t1", 10, "7000");
    let file = lab.state().join("hosts/c-fra/upload").display().to_string();
    let make = format!("head -c {size} /dev/urandom | tee {file} | sha256sum");
    let expected = client.run_for(TRANSFER_LIMIT, &["sh", "-c", &make]).expect("a file").stdout;
    for address in anycast(10) {
        let start = Instant::now();
        let to = if address.contains(':') { "TCP6" } else { "TCP4" };
        let talk = format!("socat -t 30 - {to}:{} < {file} | sha256sum", service(&address, 7000));
        let got = client.run_for(TRANSFER_LIMIT, &["sh", "-c", &talk]).expect("socat");
        let rate = size as f64 * 8e-9 / start.elapsed().as_secs_f64();
        println!("{} MiB to {address} and back: {rate:.2} Gb/s each way", size / MIB);
        assert_eq!(got.stdout, expected, "{}", got.stderr);
    }
    leave(joins);
}

/// Sends small datagrams until both proxies of the client's POP know the
/// group's list: packets that are resolved on their way have less room.
fn know_the_way(client: &Host<'_>, address: &str) {
    for _ in 0..8 {
        let to = service(address, 7000);
        client.ok(&["pias-lab", "tool", "datagram", &to, "--size", "100"]).expect("an echo");
    }
}

#[test]
fn routers_on_both_sides_can_tell_that_a_packet_is_too_big() {
    scenario(|| {
        let Some(lab) = Stage::own(&narrow()) else { return };
        lab.host("nyc-t2").spawn("echo", &["pias-lab", "tool", "echo", "7000"]).expect("a server");
        let joins = join_both(&lab, "nyc-t2", 11, "7000/udp");
        let client = lab.host("c-fra");
        // The last link carries 1300 octets, and its router tells the join proxy,
        // which tells the client; then the client sends fragments.
        for address in anycast(11) {
            know_the_way(&client, &address);
            let told = client
                .capture("eth0", "icmp[icmptype] == icmp-unreach or icmp6[icmp6type] == 2")
                .expect("tcpdump");
            let to = service(&address, 7000);
            let words = ["pias-lab", "tool", "datagram", &to, "--size", "1310", "--patience", "1s"];
            assert!(
                !client.run(&words).expect("a datagram").success(),
                "{address}: too big, at first"
            );
            wait_for_packet(&told, &["mtu 1300"]);
            told.stop().expect("a capture");
            client.ok(&words).unwrap_or_else(|error| panic!("{address}, in fragments: {error}"));
        }
        leave(joins);
    });
}

#[test]
fn ipv6_clients_are_served_over_an_ipv4_underlay_and_the_other_way_round() {
    scenario(|| {
        for (family, outer, inner) in [
            (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, "IP ", "IP6 "),
            (IpAddr::is_ipv6, "IP6 ", "IP "),
        ] {
            let mut topology = Topology::three_pops();
            only(&mut topology, family);
            let Some(lab) = Stage::own(&topology) else { return };
            let joins = join_both(&lab, "nyc-t1", 13, "53");
            let capture = lab.host("fra").capture("t-fra", "port 6081").expect("tcpdump");
            for address in anycast(13) {
                for transport in [Transport::Udp, Transport::Tcp] {
                    let answer = lab.host("c-fra").ask_dns(&address, transport).expect("dig");
                    let target = answer.map(|answer| answer.target);
                    assert_eq!(target.as_deref(), Some("nyc-t1"), "{address} {transport:?}");
                }
            }
            let lines = capture.stop().expect("a capture");
            assert!(lines.iter().all(|line| line.starts_with(outer)), "{lines:#?}");
            let mixed = lines.iter().filter(|line| line.contains(&format!(": {inner}"))).count();
            assert!(mixed >= 2, "{lines:#?}");
            leave(joins);
        }
    });
}
