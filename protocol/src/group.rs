//! A group: the anycast address, port and protocol that clients send to.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The transport protocol of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One protocol of a group, written `AA:port/tcp` or `AA:port/udp`.
///
/// A service that speaks both is two of these: they have the same address and port, but members,
/// counts and lists of their own, so that a target whose TCP side fails still serves UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    /// The anycast address.
    pub address: IpAddr,
    /// The port; never 0.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl GroupKey {
    /// `AA:port`, without the protocol.
    #[must_use]
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket(), self.protocol)
    }
}

/// Why a text is no group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseGroupError {
    /// No `AA:port` before the slash.
    #[error("`{0}` is not an address and port: write 203.0.113.10:53 or [2001:db8::10]:53")]
    Address(String),
    /// Something else than `tcp` or `udp` behind the slash.
    #[error("`{0}` is not a protocol: write tcp or udp")]
    Protocol(String),
    /// Port 0.
    #[error("port 0 names no service")]
    PortZero,
}

/// `AA:port` with one protocol, or with none: then both are meant.
///
/// # Errors
/// As [`ParseGroupError`] tells.
pub fn parse_group(text: &str) -> Result<(SocketAddr, Option<Protocol>), ParseGroupError> {
    let (socket, protocol) = match text.split_once('/') {
        Some((socket, protocol)) => (socket, Some(protocol)),
        None => (text, None),
    };
    let socket: SocketAddr =
        socket.parse().map_err(|_| ParseGroupError::Address(socket.to_owned()))?;
    if socket.port() == 0 {
        return Err(ParseGroupError::PortZero);
    }
    let protocol = match protocol {
        None => None,
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        Some(other) => return Err(ParseGroupError::Protocol(other.to_owned())),
    };
    Ok((socket, protocol))
}

impl FromStr for GroupKey {
    type Err = ParseGroupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (socket, protocol) = parse_group(text)?;
        let protocol = protocol.ok_or_else(|| ParseGroupError::Protocol(String::new()))?;
        Ok(Self { address: socket.ip(), port: socket.port(), protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_as_it_is_written() {
        for text in ["203.0.113.10:53/udp", "[2001:db8:a::10]:80/tcp"] {
            assert_eq!(text.parse::<GroupKey>().unwrap().to_string(), text);
        }
        assert_eq!(parse_group("203.0.113.10:53").unwrap().1, None);
    }

    #[test]
    fn a_wrong_group_is_told_what_is_wrong_with_it() {
        assert!(matches!(parse_group("203.0.113.10"), Err(ParseGroupError::Address(_))));
        assert!(matches!(parse_group("203.0.113.10:53/sctp"), Err(ParseGroupError::Protocol(_))));
        assert_eq!(parse_group("203.0.113.10:0"), Err(ParseGroupError::PortZero));
    }
}
