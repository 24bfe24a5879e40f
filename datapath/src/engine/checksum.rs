//! The Internet checksum over whole headers and payloads (RFC 1071).

/// The one's complement sum of `bytes` as 16-bit words in network order, on top of `initial`; not
/// complemented. An odd last octet counts as the high half of a word, so only the last part of a
/// message may be odd.
pub(super) fn sum(bytes: &[u8], initial: u16) -> u16 {
    // RFC 1071 section 2(B): the sum does not depend on the byte order it is computed in, so words
    // of four octets are added as the machine reads them, and the result is turned at the end.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = u64::from(initial.to_be());
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    total = (total >> 32) + (total & 0xFFFF_FFFF);
    total = (total >> 32) + (total & 0xFFFF_FFFF);
    total = (total >> 16) + (total & 0xFFFF);
    total = (total >> 16) + (total & 0xFFFF);
    total = (total >> 16) + (total & 0xFFFF);
    u16::from_be(total as u16)
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of a transport segment
/// of `len` octets in the IP packet that begins with `header`.
pub(super) fn pseudo_header(header: &[u8], protocol: u8, len: u16) -> u16 {
    let addresses = match header.first().map(|first| first >> 4) {
        Some(4) => header.get(12..20),
        _ => header.get(8..40),
    };
    let tail = [0, protocol, len.to_be_bytes()[0], len.to_be_bytes()[1]];
    sum(&tail, sum(addresses.unwrap_or_default(), 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 writes it down.
    fn slow(bytes: &[u8], initial: u16) -> u16 {
        let mut total = u32::from(initial);
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            total = (total & 0xFFFF) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        assert_eq!(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7], 0), 0xDDF2);
    }

    #[test]
    fn a_pseudo_header_has_addresses_protocol_and_length() {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[12..].copy_from_slice(&[192, 0, 2, 1, 203, 0, 113, 10]);
        let written_out = [192, 0, 2, 1, 203, 0, 113, 10, 0, 6, 0x12, 0x34];
        assert_eq!(pseudo_header(&header, 6, 0x1234), slow(&written_out, 0));
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_slow_one(bytes in proptest::collection::vec(any::<u8>(), 0..200), initial: u16) {
            let (fast, slow) = (sum(&bytes, initial), slow(&bytes, initial));
            // 0 and 0xFFFF are the same number in one's complement.
            prop_assert!(fast == slow || fast % 0xFFFF == slow % 0xFFFF);
        }
    }
}
