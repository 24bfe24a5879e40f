//! The names, addresses and ports of `deploy/lab/bench.toml`.

use std::net::{Ipv4Addr, SocketAddr};

use crate::topology::Topology;

const TOPOLOGY: &str = include_str!("../../../deploy/lab/bench.toml");

/// The benchmarks' topology.
pub(super) fn topology() -> Topology {
    Topology::parse(TOPOLOGY).expect("the embedded topology is tested to be valid")
}

/// The host that makes load.
pub(super) const CLIENT: &str = "client";

/// The host under test, between the client and everything else.
pub(super) const NEAR: &str = "near";

/// The second proxy.
pub(super) const FAR: &str = "far";

/// The server behind `near`.
pub(super) const TARGET: &str = "target";

/// The server behind `far`.
pub(super) const TARGET_FAR: &str = "target-far";

/// Where clients find what runs on `near`.
pub(super) const NEAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);

/// The address of [`CLIENT`].
pub(super) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);

/// `near`'s address on the link between the proxies.
pub(super) const NEAR_UNICAST: Ipv4Addr = Ipv4Addr::new(10, 9, 2, 1);

/// `far`'s address on the link between the proxies.
pub(super) const FAR_UNICAST: Ipv4Addr = Ipv4Addr::new(10, 9, 2, 2);

/// The address of [`TARGET`].
pub(super) const TARGET_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 3, 2);

/// The address of [`TARGET_FAR`].
pub(super) const TARGET_FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 4, 2);

/// The anycast address whose groups [`TARGET`] joins.
pub(super) const ANYCAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The anycast address whose groups [`TARGET_FAR`] joins.
pub(super) const ANYCAST_FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// `udp-echo` on the servers.
pub(super) const ECHO_PORT: u16 = 7001;

/// `tcp-accept` on the servers.
pub(super) const ACCEPT_PORT: u16 = 7002;

/// `iperf3 -s` on the servers.
pub(super) const BULK_PORT: u16 = 5201;

/// An address and port as an argument.
pub(super) fn at(address: Ipv4Addr, port: u16) -> String {
    SocketAddr::from((address, port)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, PlanOptions};

    #[test]
    fn the_addresses_are_those_of_the_topology() {
        let options = PlanOptions { state: "/lab".into(), programs: None, xdp: false };
        let plan = Plan::new(&topology(), &options);
        let has = |host: &str, address: Ipv4Addr| {
            let host = plan.hosts.iter().find(|plan| plan.name == host).expect("a known host");
            let mut all = host.interfaces.iter().flat_map(|interface| &interface.addresses);
            all.any(|net| net.addr() == address)
        };
        for (host, address) in [
            (CLIENT, CLIENT_ADDRESS),
            (NEAR, NEAR_ADDRESS),
            (NEAR, NEAR_UNICAST),
            (FAR, FAR_UNICAST),
            (TARGET, TARGET_ADDRESS),
            (TARGET_FAR, TARGET_FAR_ADDRESS),
        ] {
            assert!(has(host, address), "{host} {address}");
        }
        let prefix = topology().anycast.prefixes[0];
        assert!(prefix.contains(&std::net::IpAddr::V4(ANYCAST)));
        assert!(prefix.contains(&std::net::IpAddr::V4(ANYCAST_FAR)));
    }
}
