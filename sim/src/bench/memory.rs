//! What the tables of membership take, in a node that shares them with nobody.

use std::{fs, net::Ipv4Addr};

use pias_overlay::{MembersSnapshot, Node, NodeConfig};
use pias_protocol::time::Time;

use super::report::Row;

/// So many nodes are made and their sum is divided.
const NODES: usize = 12;
const PAGE: usize = 4_096;

/// Grows the process by some nodes of a service of so many proxies, each with tables of its own:
/// records, the index, and the ring. What the allocator adds is counted as well.
pub(super) fn measure(proxies: usize, cluster_size: usize) -> Vec<Row> {
    let config = |n: usize| NodeConfig {
        name: format!("pop-{:04}-proxy{}", n / cluster_size, n % cluster_size),
        cluster: format!("pop-{:04}", n / cluster_size),
        unicast: vec![Ipv4Addr::from(0xC633_6401 + n as u32).into()],
        nat: vec![Ipv4Addr::from(0xC000_0201 + n as u32).into()],
        anycast: Vec::new(),
        seeds: Vec::new(),
        heartbeat: pias_overlay::DEFAULT_HEARTBEAT,
        policies: std::collections::BTreeMap::new(),
        drain_wait: std::time::Duration::from_secs(5),
        incarnation: 1,
    };
    let updates =
        MembersSnapshot::of((0..proxies).map(|n| config(n).record()).collect(), &[]).to_updates();
    // Warms the allocator up: what it keeps after this is not counted below.
    drop(MembersSnapshot::from_updates(&updates));
    let before = resident();
    let nodes: Vec<Node> = (0..NODES)
        .map(|n| {
            let own = MembersSnapshot::from_updates(&updates);
            Node::with_members(config(n), &own, n as u64, Time::ZERO)
        })
        .collect();
    let bytes = resident().saturating_sub(before) / nodes.len();
    let mib = bytes as f64 / f64::from(1 << 20);
    vec![Row::at_most(
        format!("memory for membership per proxy, {proxies} proxies"),
        mib,
        "MiB",
        8.0,
    )]
}

/// The process's resident memory, in octets; 0 where the system does not tell.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * PAGE
}
