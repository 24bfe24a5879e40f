//! UDP (RFC 768): where its fields are.

/// Octets of the header.
pub const HEADER: usize = 8;
/// Length of header and payload.
pub const LENGTH: usize = 4;
/// Checksum; 0 over IPv4 says that there is none.
pub const CHECKSUM: usize = 6;
