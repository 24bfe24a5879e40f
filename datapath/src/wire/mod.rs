//! Headers in octets: offsets, views, and whole packets of our own.
//!
//! [`ip::Ip::parse`] checks all lengths once; what reads or writes afterwards uses offsets that it
//! found inside the packet.

pub mod build;
pub mod embedded;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

/// The word at `at`, 0 where there is none.
#[must_use]
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(pair) => u16::from_be_bytes([pair[0], pair[1]]),
        None => 0,
    }
}

/// The double word at `at`, 0 where there is none.
#[must_use]
pub(crate) fn double_word(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// Sets the word at `at`; nothing where there is none.
pub(crate) fn set_word(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(pair) = bytes.get_mut(at..at + 2) {
        pair.copy_from_slice(&value.to_be_bytes());
    }
}

/// Sets the double word at `at`; nothing where there is none.
pub(crate) fn set_double_word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(octets) = bytes.get_mut(at..at + 4) {
        octets.copy_from_slice(&value.to_be_bytes());
    }
}
