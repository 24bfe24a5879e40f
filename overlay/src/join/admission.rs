//! Which wishes to join are granted, as far as their addresses go.

use std::net::IpAddr;

use ipnet::IpNet;
use pias_protocol::{
    PIAS_PORT,
    agent::{Join, RefusalCode},
};

/// Why a join is refused; its text is for whoever runs the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("the group's address is in no anycast prefix of this service: check the address")]
    NotAnycast,
    #[error("port {PIAS_PORT} belongs to the proxies: choose another port for the group")]
    ReservedPort,
    #[error("the target's address is of another family than the group's: name one of the same")]
    Family,
    #[error("the target's address is {0}: name the unicast address that proxies reach it at")]
    TargetAddress(&'static str),
    #[error("this connection holds as many targets as it may: open another one")]
    ConnectionFull,
    #[error("this proxy holds as many targets as it may: try again later")]
    ProxyFull,
    #[error("this proxy is draining: connect again to reach another one")]
    Draining,
}

impl JoinError {
    /// Why, for a program.
    pub(crate) const fn code(self) -> RefusalCode {
        match self {
            Self::NotAnycast => RefusalCode::NotAnycast,
            Self::ReservedPort => RefusalCode::ReservedPort,
            Self::Family => RefusalCode::Family,
            Self::TargetAddress(_) => RefusalCode::TargetAddress,
            Self::ConnectionFull | Self::ProxyFull | Self::Draining => RefusalCode::Full,
        }
    }
}

/// Whether the addresses of a join make sense.
pub(crate) fn admit(join: &Join, anycast: &[IpNet]) -> Result<(), JoinError> {
    if !anycast.iter().any(|prefix| prefix.contains(&join.group.address)) {
        return Err(JoinError::NotAnycast);
    }
    if join.group.port == PIAS_PORT {
        return Err(JoinError::ReservedPort);
    }
    if join.group.address.is_ipv4() != join.target.is_ipv4() {
        return Err(JoinError::Family);
    }
    match unusable(join.target.ip(), anycast) {
        Some(what) => Err(JoinError::TargetAddress(what)),
        None => Ok(()),
    }
}

/// Why an address cannot be a target's.
fn unusable(address: IpAddr, anycast: &[IpNet]) -> Option<&'static str> {
    if anycast.iter().any(|prefix| prefix.contains(&address)) {
        return Some("an anycast address");
    }
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Some("reserved"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(group: &str, target: &str) -> Option<RefusalCode> {
        let anycast = ["203.0.113.0/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()];
        let join = Join {
            request: 1,
            group: group.parse().unwrap(),
            target: target.parse().unwrap(),
            weight: 1,
            healthy: true,
        };
        admit(&join, &anycast).err().map(JoinError::code)
    }

    #[test]
    fn joins_with_sane_addresses_are_granted() {
        assert_eq!(refusal("203.0.113.10:53/udp", "10.0.0.2:5353"), None);
        assert_eq!(refusal("[2001:db8:a::1]:80/tcp", "[2001:db8::2]:80"), None);
    }

    #[test]
    fn every_other_join_is_told_why_not() {
        let group = "203.0.113.10:53/udp";
        assert_eq!(refusal("192.0.2.1:53/udp", "10.0.0.2:53"), Some(RefusalCode::NotAnycast));
        assert_eq!(
            refusal("203.0.113.10:7427/udp", "10.0.0.2:53"),
            Some(RefusalCode::ReservedPort)
        );
        assert_eq!(refusal(group, "[2001:db8::2]:53"), Some(RefusalCode::Family));
        for target in
            ["203.0.113.9:1", "0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1"]
        {
            assert_eq!(refusal(group, target), Some(RefusalCode::TargetAddress), "{target}");
        }
        for target in ["[fe80::1]:1", "[::1]:1", "[ff02::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert_eq!(
                refusal("[2001:db8:a::1]:80/tcp", target),
                Some(RefusalCode::TargetAddress),
                "{target}"
            );
        }
    }
}
