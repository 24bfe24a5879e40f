//! IPv4 (RFC 791): where its fields are.

/// Octets of a header without options.
pub const HEADER: usize = 20;
/// Total length.
pub const TOTAL_LENGTH: usize = 2;
/// Identification.
pub const ID: usize = 4;
/// Flags and fragment offset.
pub const FRAGMENT: usize = 6;
/// Time to live; the protocol follows it.
pub const TTL: usize = 8;
/// Protocol.
pub const PROTOCOL: usize = 9;
/// Header checksum.
pub const CHECKSUM: usize = 10;
/// Source address.
pub const SOURCE: usize = 12;
/// Destination address.
pub const DESTINATION: usize = 16;

/// In the word at [`FRAGMENT`]: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// In the word at [`FRAGMENT`]: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// In the word at [`FRAGMENT`]: the offset in units of eight octets.
pub const OFFSET_MASK: u16 = 0x1FFF;
