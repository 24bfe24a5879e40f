//! What a packet is, whoever it is for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use pias_protocol::group::Protocol;

use crate::{
    drop_reason::DropReason,
    wire::{icmp, ip::Ip, tcp, udp, word},
};

/// A parsed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its IP header.
    pub ip: Ip,
    /// What it carries.
    pub kind: Kind,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP or UDP with its whole transport header; maybe the first fragment of a packet.
    Transport(Transport),
    /// ICMP or ICMPv6 with its whole header; maybe the first fragment of a packet.
    Icmp {
        /// What it is to a proxy.
        message: icmp::Message,
    },
    /// A fragment without the transport header.
    LaterFragment,
    /// Another protocol.
    Other,
}

/// A transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Which.
    pub protocol: Protocol,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// TCP's flags; 0 for UDP.
    pub flags: u8,
    /// Octets of the header with its options.
    pub header: usize,
}

impl Transport {
    /// Whether it may open a flow: a SYN that acknowledges nothing, or any datagram.
    #[must_use]
    pub fn opens(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN,
            Protocol::Udp => true,
        }
    }

    /// Whether it has this TCP flag.
    #[must_use]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl View {
    /// Parses a packet. Total.
    ///
    /// # Errors
    /// As [`Ip::parse`]; [`DropReason::TinyFragment`] and [`DropReason::FragmentOverlap`] for
    /// fragments that would hide or change a transport header (RFC 1858, RFC 3128);
    /// [`DropReason::PortZero`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let ip = Ip::parse(bytes)?;
        Ok(Self { kind: kind(bytes, &ip)?, ip })
    }
}

fn kind(bytes: &[u8], ip: &Ip) -> Result<Kind, DropReason> {
    let payload = &bytes[ip.payload..ip.end];
    if let Some(fragment) = ip.fragment.filter(|fragment| fragment.offset != 0) {
        return if ip.protocol == Protocol::Tcp.number() && fragment.offset < tcp::HEADER {
            Err(DropReason::FragmentOverlap)
        } else {
            Ok(Kind::LaterFragment)
        };
    }
    let short =
        if ip.fragment.is_some() { DropReason::TinyFragment } else { DropReason::Malformed };
    match (ip.protocol, ip.is_v6()) {
        (6, _) => transport(payload, ip, Protocol::Tcp, short),
        (17, _) => transport(payload, ip, Protocol::Udp, short),
        (icmp::PROTOCOL_V4, false) | (icmp::PROTOCOL_V6, true) => {
            let header: &[u8; icmp::HEADER] = payload.first_chunk().ok_or(short)?;
            Ok(Kind::Icmp { message: icmp::message(ip.is_v6(), header[0], header[1]) })
        }
        _ => Ok(Kind::Other),
    }
}

fn transport(
    payload: &[u8],
    ip: &Ip,
    protocol: Protocol,
    short: DropReason,
) -> Result<Kind, DropReason> {
    let (header, flags) = match protocol {
        Protocol::Tcp => {
            let fixed: &[u8; tcp::HEADER] = payload.first_chunk().ok_or(short)?;
            let header = usize::from(fixed[tcp::DATA_OFFSET] >> 4) * 4;
            if header < tcp::HEADER {
                return Err(DropReason::Malformed);
            }
            (header, fixed[tcp::FLAGS])
        }
        Protocol::Udp => {
            let fixed: &[u8; udp::HEADER] = payload.first_chunk().ok_or(short)?;
            let length = usize::from(word(fixed, udp::LENGTH));
            // A super-packet's length field may say anything: the kernel writes each segment's.
            if length < udp::HEADER && length != 0 {
                return Err(DropReason::Malformed);
            }
            (udp::HEADER, 0)
        }
    };
    if payload.len() < header {
        return Err(short);
    }
    let (source, destination) = (word(payload, 0), word(payload, 2));
    if source == 0 || destination == 0 {
        return Err(DropReason::PortZero);
    }
    Ok(Kind::Transport(Transport {
        protocol,
        source: SocketAddr::new(ip.source, source),
        destination: SocketAddr::new(ip.destination, destination),
        flags,
        header,
    }))
}

/// The anycast prefixes in the form in which each packet is compared with them.
#[derive(Clone, Debug, Default)]
pub struct Prefixes {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Prefixes {
    /// The prefixes, host bits cleared.
    #[must_use]
    pub fn new(nets: &[IpNet]) -> Self {
        let mut prefixes = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => {
                    prefixes.v4.push((net.network().to_bits(), net.netmask().to_bits()));
                }
                IpNet::V6(net) => {
                    prefixes.v6.push((net.network().to_bits(), net.netmask().to_bits()));
                }
            }
        }
        prefixes
    }

    /// Whether an address is an anycast address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.v4.iter().any(|&(net, mask)| address.to_bits() & mask == net)
            }
            IpAddr::V6(address) => {
                self.v6.iter().any(|&(net, mask)| address.to_bits() & mask == net)
            }
        }
    }
}

/// Whether an address can be that of one host elsewhere: what a source, and a target, must be.
#[must_use]
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_multicast()
                || v4 == Ipv4Addr::BROADCAST)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, addr};

    #[test]
    fn a_tiny_first_fragment_hides_nothing() {
        let mut bytes = testing::udp("192.0.2.1:9", "203.0.113.1:53", b"hello").bytes().to_vec();
        bytes[6] = 0x20;
        assert_eq!(View::parse(&bytes), Err(DropReason::Malformed), "not a multiple of eight");
        let mut tcp = testing::syn("192.0.2.1:9", "203.0.113.1:53").bytes().to_vec();
        tcp.truncate(20 + 16);
        tcp[3] = 36;
        tcp[6] = 0x20;
        assert_eq!(View::parse(&tcp), Err(DropReason::TinyFragment));
    }

    #[test]
    fn a_second_fragment_cannot_change_tcp_flags() {
        let mut tcp = testing::syn("192.0.2.1:9", "203.0.113.1:53").bytes().to_vec();
        tcp[7] = 1;
        assert_eq!(View::parse(&tcp), Err(DropReason::FragmentOverlap));
    }

    #[test]
    fn only_a_bare_syn_opens_a_tcp_flow() {
        let mut bytes = testing::syn("192.0.2.1:9", "203.0.113.1:53").bytes().to_vec();
        let opens = |bytes: &[u8]| match View::parse(bytes).unwrap().kind {
            Kind::Transport(transport) => transport.opens(),
            other => panic!("{other:?}"),
        };
        assert!(opens(&bytes));
        bytes[33] = tcp::SYN | tcp::ACK;
        assert!(!opens(&bytes));
    }

    #[test]
    fn prefixes_are_compared_without_host_bits() {
        let nets = ["203.0.113.77/24".parse().unwrap(), "2001:db8:a::/48".parse().unwrap()];
        let prefixes = Prefixes::new(&nets);
        assert!(prefixes.contains(addr("203.0.113.255")));
        assert!(!prefixes.contains(addr("203.0.114.0")));
        assert!(prefixes.contains(addr("2001:db8:a:ffff::1")));
        assert!(!prefixes.contains(addr("2001:db8:b::1")));
    }

    #[test]
    fn nobody_sends_from_an_address_of_many() {
        for address in
            ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"]
        {
            assert!(!is_host(addr(address)), "{address}");
        }
        assert!(is_host(addr("10.0.0.1")) && is_host(addr("2001:db8::1")));
    }
}
