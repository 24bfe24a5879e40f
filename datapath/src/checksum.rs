//! The Internet checksum (RFC 1071), and its incremental update (RFC 1624).
//!
//! ```text
//! complete   HC' = ~(~HC + ~m + m')       the field holds the complement of the whole sum
//! partial    P'  =     P + ~m + m'        the field holds the pseudo-header's sum alone
//! ```
//! A partial field covers the addresses, the protocol and the length, and nothing else: a changed
//! port does not touch it, because whoever completes it will read the new port.

use std::net::IpAddr;

use crate::packet::{Checksum, Packet};

/// The one's-complement sum of `bytes` as 16-bit words, folded, and as wide as further sums need.
/// An odd last octet is padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    // RFC 1071 section 2(B): the sum comes out the same in any byte order, but for the order of its
    // own octets; 2^16 ≡ 1, so words of 32 bits add up to the same as of 16. The compiler makes a
    // vector loop of this, which one that turned each word would not become.
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    u64::from(u16::from_be(fold(total + u64::from(u32::from_ne_bytes(last)))))
}

/// Folds a sum to 16 bits.
#[must_use]
pub const fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xFFFF) + (total >> 16);
    }
    total as u16
}

/// The checksum of `bytes` plus what has been summed before.
#[must_use]
pub fn finish(bytes: &[u8], before: u64) -> u16 {
    !fold(sum(bytes) + u64::from(fold(before)))
}

/// The sum of a pseudo-header (RFC 793 section 3.1, RFC 8200 section 8.1), not folded.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    address_sum(source) + address_sum(destination) + u64::from(protocol) + length as u64
}

/// The sum of the pseudo-header of a transport segment in the IP packet that begins with `header`,
/// not folded. The header must be whole.
#[must_use]
pub fn pseudo_header_of(header: &[u8], protocol: u8, length: usize) -> u64 {
    let addresses = if header[0] >> 4 == 4 { &header[12..20] } else { &header[8..40] };
    sum(addresses) + u64::from(protocol) + length as u64
}

fn address_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    }
}

/// How a sum changes when words of what it covers are replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// One word becomes another.
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// One address becomes another of the same family.
    #[must_use]
    pub fn address(self, old: IpAddr, new: IpAddr) -> Self {
        Self(self.0 + u64::from(!fold(address_sum(old))) + address_sum(new))
    }

    /// Both changes.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The field of a complete checksum after the change.
    #[must_use]
    pub const fn complete(self, field: u16) -> u16 {
        !fold((!field) as u64 + self.0)
    }

    /// The field of a partial checksum after the change.
    #[must_use]
    pub const fn partial(self, field: u16) -> u16 {
        fold(field as u64 + self.0)
    }
}

/// Completes a partial checksum in software. A packet whose offsets lie outside it is left alone:
/// nobody will take its checksum for right.
pub fn complete(packet: &mut Packet) {
    let Checksum::Partial { start, offset } = packet.offload.checksum else { return };
    packet.offload.checksum = Checksum::Complete;
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(covered) = packet.bytes_mut().get_mut(start..) else { return };
    let udp = offset == crate::wire::udp::CHECKSUM;
    // The field takes part in the sum: it holds what the pseudo-header adds.
    let checksum = match finish(covered, 0) {
        0 if udp => 0xFFFF,
        checksum => checksum,
    };
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 tells it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0_u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xFFFF) + (total >> 16);
        }
        !(total as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_holds() {
        let bytes = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7];
        assert_eq!(fold(sum(&bytes)), 0xDDF2);
    }

    #[test]
    fn the_example_of_rfc_1624_holds() {
        assert_eq!(Delta::default().word(0x5555, 0x3285).complete(0xDD2F), 0x0000);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_naive_way(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(finish(&bytes, 0), naive(&bytes));
        }

        #[test]
        fn an_update_is_as_good_as_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..200),
            new in any::<u16>(),
            at in 0_usize..3,
        ) {
            // A sum of all zeros has no update that tells +0 from -0.
            bytes[7] |= 1;
            let before = naive(&bytes);
            let old = u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
            bytes[2 * at..2 * at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(Delta::default().word(old, new).complete(before), naive(&bytes));
        }

        #[test]
        fn addresses_count_in_full(old in any::<u128>(), new in any::<u128>(), rest in 1_u16..) {
            let (old, new) = (std::net::Ipv6Addr::from(old), std::net::Ipv6Addr::from(new));
            let of = |address: std::net::Ipv6Addr| {
                naive(&[&address.octets()[..], &rest.to_be_bytes()[..]].concat())
            };
            let delta = Delta::default().address(old.into(), new.into());
            prop_assert_eq!(delta.complete(of(old)), of(new));
        }
    }
}
