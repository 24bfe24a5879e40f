//! TCP (RFC 9293): where its fields are, and its options.

/// Octets of a header without options.
pub const HEADER: usize = 20;
/// Sequence number.
pub const SEQUENCE: usize = 4;
/// Acknowledgement number.
pub const ACKNOWLEDGEMENT: usize = 8;
/// Data offset, in the upper four bits.
pub const DATA_OFFSET: usize = 12;
/// Flags.
pub const FLAGS: usize = 13;
/// Window.
pub const WINDOW: usize = 14;
/// Checksum.
pub const CHECKSUM: usize = 16;

/// The flag FIN.
pub const FIN: u8 = 0x01;
/// The flag SYN.
pub const SYN: u8 = 0x02;
/// The flag RST.
pub const RST: u8 = 0x04;
/// The flag ACK.
pub const ACK: u8 = 0x10;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Where the value of the MSS option is within a header with all its options.
#[must_use]
pub fn mss_at(header: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    while let Some(&kind) = header.get(at) {
        match kind {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            _ => {
                let length = usize::from(*header.get(at + 1)?);
                if kind == OPTION_MSS && length == 4 && at + 4 <= header.len() {
                    return Some(at + 2);
                }
                // A length below two would never get on.
                at += length.max(2);
            }
        }
    }
    None
}
