//! The start of a packet inside another: in an ICMP error, or in a pin notice.
//!
//! Routers cut what they embed, so the lengths in its headers say nothing about what is there.

use std::net::{IpAddr, SocketAddr};

use pias_protocol::group::Protocol;

use super::{ip::Ip, ipv4, ipv6, tcp, udp, word};
use crate::drop_reason::DropReason;

/// What the start of a packet tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its sender.
    pub source: SocketAddr,
    /// Its receiver.
    pub destination: SocketAddr,
    /// Where its transport header begins.
    pub transport: usize,
    /// Where its transport checksum is, if that much is there and there is one.
    pub checksum: Option<usize>,
}

impl Embedded {
    /// Reads the start of a packet: the IP header and at least the ports. Total.
    ///
    /// # Errors
    /// [`DropReason::IcmpTruncated`] where that is not there; [`DropReason::IcmpUnrelated`] for
    /// another protocol than TCP and UDP.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let ip = parse_cut(bytes)?;
        let protocol = match ip.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return Err(DropReason::IcmpUnrelated),
        };
        if ip.is_later_fragment() || bytes.len() < ip.payload + 4 {
            return Err(DropReason::IcmpTruncated);
        }
        let port = |at| word(bytes, ip.payload + at);
        let at = ip.payload
            + match protocol {
                Protocol::Tcp => tcp::CHECKSUM,
                Protocol::Udp => udp::CHECKSUM,
            };
        let absent = protocol == Protocol::Udp && word(bytes, at) == 0;
        Ok(Self {
            protocol,
            source: SocketAddr::new(ip.source, port(0)),
            destination: SocketAddr::new(ip.destination, port(2)),
            transport: ip.payload,
            checksum: (bytes.len() >= at + 2 && !absent).then_some(at),
        })
    }

    /// The addresses and ports that a rewritten one shall have go where these are.
    #[must_use]
    pub const fn addresses(&self) -> (IpAddr, IpAddr) {
        (self.source.ip(), self.destination.ip())
    }
}

/// Parses a copy whose lengths agree with what is there: at most the headers are copied.
fn parse_cut(bytes: &[u8]) -> Result<Ip, DropReason> {
    const MOST: usize = 256;
    let mut head = [0_u8; MOST];
    let length = bytes.len().min(MOST);
    head[..length].copy_from_slice(&bytes[..length]);
    match head[0] >> 4 {
        4 if length >= ipv4::HEADER => {
            super::set_word(&mut head, ipv4::TOTAL_LENGTH, length as u16);
        }
        6 if length >= ipv6::HEADER => {
            super::set_word(&mut head, ipv6::PAYLOAD_LENGTH, (length - ipv6::HEADER) as u16);
        }
        _ => return Err(DropReason::IcmpTruncated),
    }
    // A first fragment is cut at any octet here; what follows it does not matter.
    if head[0] >> 4 == 4 {
        head[ipv4::FRAGMENT] &= !((ipv4::MORE_FRAGMENTS >> 8) as u8);
    }
    Ip::parse(&head[..length]).map_err(|_| DropReason::IcmpTruncated)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn eight_octets_of_transport_are_enough() {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(7, 8, 1, 1);
        builder.write(&mut bytes, &[0; 100]).unwrap();
        let cut = Embedded::parse(&bytes[..28]).unwrap();
        assert_eq!(cut.source, "10.0.0.1:7".parse().unwrap());
        assert_eq!(cut.destination, "10.0.0.2:8".parse().unwrap());
        assert_eq!(cut.checksum, None);
        assert_eq!(Embedded::parse(&bytes).unwrap().checksum, Some(36));
        assert_eq!(Embedded::parse(&bytes[..23]), Err(DropReason::IcmpTruncated));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Embedded::parse(&bytes);
        }
    }
}
