//! One view of IPv4 and IPv6: what every packet's handling begins with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ipv4, ipv6, word};
use crate::drop_reason::DropReason;

/// What the IP header says, lengths checked: `payload <= end`, and `end` octets are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The upper-layer protocol, behind all extension headers.
    pub protocol: u8,
    /// Where the upper layer begins.
    pub payload: usize,
    /// Where the packet ends.
    pub end: usize,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Whether nobody on the way may fragment it; always so for IPv6.
    pub dont_fragment: bool,
    /// Set for a fragment (an atomic fragment of RFC 6946 is none).
    pub fragment: Option<Fragment>,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The same in all fragments of a packet; 16 bits in IPv4.
    pub id: u32,
    /// Where its payload stands in that of the packet, in octets.
    pub offset: usize,
    /// Whether more follow.
    pub more: bool,
    /// Where its fragment header is (IPv6).
    pub header: usize,
}

impl Ip {
    /// Reads the IP header at the start of `bytes`. Total.
    ///
    /// # Errors
    /// [`DropReason::IpVersion`], [`DropReason::Malformed`] or [`DropReason::ExtensionHeaders`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(DropReason::IpVersion),
            None => Err(DropReason::Malformed),
        }
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; ipv4::HEADER] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
        let payload = usize::from(header[0] & 0x0F) * 4;
        let end = usize::from(word(header, ipv4::TOTAL_LENGTH));
        if payload < ipv4::HEADER || end < payload || bytes.len() < end {
            return Err(DropReason::Malformed);
        }
        let flags = word(header, ipv4::FRAGMENT);
        let fragment =
            (flags & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0).then(|| Fragment {
                id: u32::from(word(header, ipv4::ID)),
                offset: usize::from(flags & ipv4::OFFSET_MASK) * 8,
                more: flags & ipv4::MORE_FRAGMENTS != 0,
                header: 0,
            });
        let ip = Self {
            source: v4_at(header, ipv4::SOURCE),
            destination: v4_at(header, ipv4::DESTINATION),
            protocol: header[ipv4::PROTOCOL],
            payload,
            end,
            ttl: header[ipv4::TTL],
            dont_fragment: flags & ipv4::DONT_FRAGMENT != 0,
            fragment,
        };
        ip.check_fragment()
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; ipv6::HEADER] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
        let end = ipv6::HEADER + usize::from(word(header, ipv6::PAYLOAD_LENGTH));
        if bytes.len() < end {
            return Err(DropReason::Malformed);
        }
        let walk = ipv6::walk(bytes, end)?;
        let fragment = walk.fragment.map(|at| {
            let flags = word(bytes, at + 2);
            Fragment {
                id: super::double_word(bytes, at + 4),
                offset: usize::from(flags & 0xFFF8),
                more: flags & 1 != 0,
                header: at,
            }
        });
        let ip = Self {
            source: v6_at(header, ipv6::SOURCE),
            destination: v6_at(header, ipv6::DESTINATION),
            protocol: walk.protocol,
            payload: walk.payload,
            end,
            ttl: header[ipv6::HOP_LIMIT],
            dont_fragment: true,
            fragment: fragment.filter(|fragment| fragment.more || fragment.offset != 0),
        };
        ip.check_fragment()
    }

    fn check_fragment(self) -> Result<Self, DropReason> {
        let Some(fragment) = self.fragment else { return Ok(self) };
        let length = self.end - self.payload;
        if fragment.more && (length == 0 || !length.is_multiple_of(8)) {
            return Err(DropReason::Malformed);
        }
        // RFC 791 and RFC 8200 section 4.5: no packet is longer than its length field can say.
        if fragment.offset + length > usize::from(u16::MAX) {
            return Err(DropReason::FragmentOverlap);
        }
        Ok(self)
    }

    /// Whether this is IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Whether this is a fragment that holds no transport header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }
}

fn v4_at(header: &[u8; ipv4::HEADER], at: usize) -> IpAddr {
    Ipv4Addr::from(super::double_word(header, at)).into()
}

fn v6_at(header: &[u8; ipv6::HEADER], at: usize) -> IpAddr {
    let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen octets of forty");
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_move_the_payload() {
        let mut bytes = vec![0x46, 0, 0, 32, 0, 7, 0x20, 2, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        bytes.extend([0; 12]);
        let ip = Ip::parse(&bytes).unwrap();
        assert_eq!((ip.payload, ip.end, ip.protocol), (24, 32, 17));
        let fragment = ip.fragment.unwrap();
        assert_eq!((fragment.id, fragment.offset, fragment.more), (7, 16, true));
    }

    #[test]
    fn extension_headers_are_walked_to_the_transport() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut bytes, &[7; 3]).unwrap();
        let plain = Ip::parse(&bytes).unwrap();
        assert_eq!((plain.payload, plain.protocol, plain.ttl), (40, 17, 9));

        bytes[ipv6::NEXT_HEADER] = 60;
        bytes[5] += 16;
        bytes.splice(40..40, [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 9]);
        let extended = Ip::parse(&bytes).unwrap();
        assert_eq!((extended.payload, extended.protocol), (56, 17));
        assert_eq!(extended.fragment, None, "an atomic fragment is a whole packet");
    }

    #[test]
    fn a_source_route_leads_nowhere() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut bytes, &[7; 3]).unwrap();
        bytes[ipv6::NEXT_HEADER] = 43;
        bytes[5] += 24;
        let mut route = [3; 24];
        route[..8].copy_from_slice(&[17, 2, 4, 1, 0, 0, 0, 0]);
        bytes.splice(40..40, route);
        assert_eq!(Ip::parse(&bytes), Err(DropReason::ExtensionHeaders));
        bytes[43] = 0;
        assert_eq!(Ip::parse(&bytes).unwrap().protocol, 17);
    }

    #[test]
    fn headers_without_end_are_refused() {
        let mut bytes = vec![0; 40 + 8 * 20];
        bytes[0] = 0x60;
        bytes[5] = 160;
        assert_eq!(Ip::parse(&bytes), Err(DropReason::ExtensionHeaders));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(first in prop_oneof![Just(0x45_u8), Just(0x46), Just(0x60)],
                                    rest in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = vec![first];
            bytes.extend(rest);
            if let Ok(ip) = Ip::parse(&bytes) {
                prop_assert!(ip.payload <= ip.end && ip.end <= bytes.len());
            }
        }
    }
}
