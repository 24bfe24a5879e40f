//! Where a target is reached: what the user gave of it, completed from the group and the route.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
};

use pias_protocol::group::GroupKey;

/// A target's address and port, each of them optional.
///
/// A missing port is the group's. A missing address is the one that the route to the group's
/// address uses; it is looked up at every join, so an agent on a host that moves follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a target: write ADDRESS:PORT, ADDRESS or :PORT, with a port above 0")]
pub struct ParseTargetError(String);

impl Target {
    /// The address, where one was given.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The whole address for `group`, on a host whose route to the group leaves from `route`.
    #[must_use]
    pub fn complete(&self, group: &GroupKey, route: IpAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(route), self.port.unwrap_or(group.port))
    }
}

impl From<SocketAddr> for Target {
    fn from(socket: SocketAddr) -> Self {
        Self { address: Some(socket.ip()), port: Some(socket.port()) }
    }
}

impl From<IpAddr> for Target {
    fn from(address: IpAddr) -> Self {
        Self { address: Some(address), port: None }
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseTargetError(text.to_owned());
        let target = if let Ok(socket) = text.parse::<SocketAddr>() {
            Self::from(socket)
        } else if let Ok(address) = text.parse::<IpAddr>() {
            Self::from(address)
        } else {
            let port = text.strip_prefix(':').ok_or_else(wrong)?;
            Self { address: None, port: Some(port.parse().map_err(|_| wrong())?) }
        };
        if target.port == Some(0) { Err(wrong()) } else { Ok(target) }
    }
}

/// The local address from which the kernel would send to `destination`.
///
/// Connecting a UDP socket sends nothing: it only asks the routing table.
///
/// # Errors
/// Those of `connect(2)`: above all that there is no route.
pub fn route_source(destination: IpAddr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(destination), 0))?;
    socket.connect(SocketAddr::new(destination, pias_protocol::PIAS_PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// The wildcard address of the family of `address`.
pub(crate) const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(text: &str) -> String {
        let group = "203.0.113.10:53/udp".parse().unwrap();
        let route = "10.0.0.2".parse().unwrap();
        text.parse::<Target>().unwrap().complete(&group, route).to_string()
    }

    #[test]
    fn what_is_not_given_comes_from_the_group_and_the_route() {
        assert_eq!(complete("10.9.9.9:5353"), "10.9.9.9:5353");
        assert_eq!(complete("10.9.9.9"), "10.9.9.9:53");
        assert_eq!(complete(":5353"), "10.0.0.2:5353");
        assert_eq!(complete("2001:db8::1"), "[2001:db8::1]:53");
        assert_eq!(complete("::1"), "[::1]:53");
        assert_eq!(complete("[2001:db8::1]:80"), "[2001:db8::1]:80");
    }

    #[test]
    fn a_wrong_target_is_told_how_to_write_one() {
        for text in ["", ":", ":0", ":65536", "example.org:80", "10.0.0.1:0", "10.0.0"] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("ADDRESS:PORT"), "{error}");
        }
    }

    #[test]
    fn the_route_to_loopback_leaves_from_loopback() {
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(route_source(loopback).unwrap(), loopback);
    }
}
