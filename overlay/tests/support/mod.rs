//! What the tests of one node have in common.

use std::{collections::BTreeMap, time::Duration};

use pias_overlay::{DEFAULT_HEARTBEAT, Effect, Node, NodeConfig};
use pias_protocol::time::Time;

/// The configuration of the proxy `fra1`, which has a NAT address and knows nobody.
pub(crate) fn config() -> NodeConfig {
    NodeConfig {
        name: "fra1".into(),
        cluster: "fra".into(),
        unicast: vec!["198.51.100.1".parse().unwrap()],
        nat: vec!["192.0.2.1".parse().unwrap()],
        anycast: vec!["203.0.113.0/24".parse().unwrap()],
        seeds: Vec::new(),
        heartbeat: DEFAULT_HEARTBEAT,
        policies: BTreeMap::new(),
        drain_wait: Duration::from_secs(5),
        incarnation: 7,
    }
}

/// So many milliseconds after the beginning.
pub(crate) fn ms(n: u64) -> Time {
    Time::from_micros(n * 1_000)
}

/// All that a node wishes to be done now.
pub(crate) fn effects(node: &mut Node) -> Vec<Effect> {
    std::iter::from_fn(|| node.poll_effect()).collect()
}
