//! The one hash that proxies agree on: XXH3-64 with fixed seeds over explicit bytes.
//!
//! A proxy that hashed otherwise would place flows and groups elsewhere than its mates, so the
//! golden vectors below may only change together with the version of the wire.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::group::{GroupKey, Protocol};

/// Seeds keep the hash spaces apart: a flow must not be correlated with its group's place on the
/// ring.
const SEED_NAME: u64 = 0x5049_4153_0000_0001;
const SEED_FLOW: u64 = 0x5049_4153_0000_0002;
const SEED_GROUP: u64 = 0x5049_4153_0000_0003;
const SEED_MIX: u64 = 0x5049_4153_0000_0004;

/// Hash of a flow: what a flow is placed by, on every proxy alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowHash(pub u64);

/// A flow as the client sees it: it sends from `client` to `group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The anycast address, port and protocol that it sends to.
    pub group: GroupKey,
}

impl FlowKey {
    /// The flow's hash.
    ///
    /// ```text
    /// octet  0        1         17      19        35      37
    ///        protocol client IP  port    anycast IP port
    /// ```
    /// IPv4 addresses are hashed in their IPv6-mapped form, so that the layout is one.
    #[must_use]
    pub fn hash(&self) -> FlowHash {
        let mut bytes = [0_u8; 37];
        bytes[0] = self.group.protocol.number();
        bytes[1..17].copy_from_slice(&mapped(self.client.ip()));
        bytes[17..19].copy_from_slice(&self.client.port().to_be_bytes());
        bytes[19..35].copy_from_slice(&mapped(self.group.address));
        bytes[35..37].copy_from_slice(&self.group.port.to_be_bytes());
        FlowHash(xxh3_64_with_seed(&bytes, SEED_FLOW))
    }
}

/// Hash of a name (a proxy's or a cluster's).
#[must_use]
pub fn name(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), SEED_NAME)
}

/// Where a group stands on the ring.
#[must_use]
pub fn group(group: &GroupKey) -> u64 {
    let mut bytes = [0_u8; 19];
    bytes[0] = group.protocol.number();
    bytes[1..17].copy_from_slice(&mapped(group.address));
    bytes[17..19].copy_from_slice(&group.port.to_be_bytes());
    xxh3_64_with_seed(&bytes, SEED_GROUP)
}

/// One hash of two: where the `b`-th point of `a` stands, or how `b` likes `a`.
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    let mut bytes = [0_u8; 16];
    bytes[..8].copy_from_slice(&a.to_be_bytes());
    bytes[8..].copy_from_slice(&b.to_be_bytes());
    xxh3_64_with_seed(&bytes, SEED_MIX)
}

/// An address in 16 octets, IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
#[must_use]
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Protocol {
    /// The protocol's number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: &str, group: &str) -> FlowKey {
        FlowKey { client: client.parse().unwrap(), group: group.parse().unwrap() }
    }

    #[test]
    fn every_proxy_of_every_build_hashes_alike() {
        let v4 = flow("192.0.2.1:40000", "203.0.113.10:53/udp");
        let v6 = flow("[2001:db8::1]:40000", "[2001:db8:a::10]:80/tcp");
        assert_eq!(
            [name("fra1"), v4.hash().0, v6.hash().0, group(&v4.group), mix(1, 2)],
            GOLDEN,
            "the hashes of the wire changed"
        );
    }

    const GOLDEN: [u64; 5] = [
        16_039_032_996_240_324_931,
        5_434_647_373_793_844_774,
        15_537_842_959_392_495_565,
        11_367_745_990_670_957_993,
        317_506_426_396_417_452,
    ];
}
