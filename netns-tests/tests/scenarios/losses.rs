//! Where packets went that did not arrive: by the word of the proxies, and of the kernel.

use pias_lab::{Host, Lab};

use crate::stage::POPS;

/// What an interface drops while a lab boots: its link is not ready for the first packets.
const AT_BOOT: u64 = 8;

/// Prints what each proxy turned away since it started, and what the kernel dropped on any host.
pub(crate) fn tell(lab: &Lab) {
    for proxy in POPS.iter().flat_map(|pop| [format!("{pop}1"), format!("{pop}2")]) {
        tell_refusals(&lab.host(&proxy));
    }
    for host in &lab.topology().hosts {
        let host = lab.host(&host.name);
        let read = |file| host.ok(&["cat", file]).unwrap_or_default();
        let mut dropped = interface_drops(&read("/proc/net/dev"));
        dropped.extend(full_buffers(&read("/proc/net/snmp"), &read("/proc/net/snmp6")));
        if !dropped.is_empty() {
            eprintln!("{}: the kernel dropped {}", host.name(), dropped.join(", "));
        }
    }
}

/// By reason.
fn tell_refusals(proxy: &Host<'_>) {
    let Ok(status) = proxy.piasctl(&["status"]) else { return };
    let drops = proxy.piasctl(&["drops"]).unwrap_or_default();
    let drops = drops["drops"].as_array().into_iter().flatten();
    let dropped = drops.filter(|drop| drop["packets"] != 0);
    let dropped: Vec<_> =
        dropped.map(|drop| format!("{} {}", drop["reason"], drop["packets"])).collect();
    let paths = &status["engine"]["paths"];
    eprintln!(
        "{}: refused {}, second chances {}, promoted {}; dropped {}",
        proxy.name(),
        paths["refused"],
        paths["second_chance"],
        paths["flow_promoted"],
        dropped.join(", ")
    );
}

/// Of `/proc/net/dev`: what interfaces dropped, received and to be sent. Full queues are among it.
fn interface_drops(text: &str) -> Vec<String> {
    let drops = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let (received, sent) = (*numbers.get(3)?, *numbers.get(11)?);
        let name = name.trim();
        (received + sent > AT_BOOT).then(|| format!("{received} of {name}, {sent} for {name}"))
    };
    text.lines().filter_map(drops).collect()
}

/// Of `/proc/net/snmp` and `snmp6`: datagrams that found a socket's buffer full.
fn full_buffers(ipv4: &str, ipv6: &str) -> Vec<String> {
    let mut udp = ipv4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
    let mut both = names.split(' ').zip(numbers.split(' '));
    let ipv4 = both.find(|(name, _)| *name == "RcvbufErrors").map(|(_, number)| number);
    let ipv6 = ipv6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    let full = |family: &str, number: Option<&str>| {
        let number: u64 = number?.trim().parse().ok()?;
        (number > 0).then(|| format!("{number} for full buffers of {family} sockets"))
    };
    full("IPv4", ipv4).into_iter().chain(full("IPv6", ipv6)).collect()
}

#[test]
fn drops_are_read_as_the_kernel_writes_them() {
    let dev = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    5    0     0          0         0        0       0    0    0    0     0       0          0
 pias0: 1  2    0    3    0     0          0         0        4       5    0   600    0     0       0          0
";
    assert_eq!(interface_drops(dev), ["3 of pias0, 600 for pias0"]);
    let snmp = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 9 0 7 8 7 0\n";
    let snmp6 = "Udp6InErrors      \t5\nUdp6RcvbufErrors    \t5\n";
    let full = ["7 for full buffers of IPv4 sockets", "5 for full buffers of IPv6 sockets"];
    assert_eq!(full_buffers(snmp, snmp6), full);
    assert!(full_buffers("", "").is_empty());
}
