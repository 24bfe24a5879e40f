//! ICMP (RFC 792) and ICMPv6 (RFC 4443): numbers, and what a message is to a proxy.

/// Octets of the header, before what a message is about.
pub const HEADER: usize = 8;
/// Checksum.
pub const CHECKSUM: usize = 2;
/// The protocol number of ICMP.
pub const PROTOCOL_V4: u8 = 1;
/// The protocol number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;

/// ICMP: echo reply.
pub const V4_ECHO_REPLY: u8 = 0;
/// ICMP: destination unreachable.
pub const V4_UNREACHABLE: u8 = 3;
/// ICMP: echo request.
pub const V4_ECHO: u8 = 8;
/// ICMP: time exceeded.
pub const V4_TIME_EXCEEDED: u8 = 11;
/// ICMP: parameter problem.
pub const V4_PARAMETER: u8 = 12;
/// ICMP unreachable: protocol.
pub const V4_PROTOCOL: u8 = 2;
/// ICMP unreachable: port.
pub const V4_PORT: u8 = 3;
/// ICMP unreachable: fragmentation needed (RFC 1191).
pub const V4_FRAGMENTATION_NEEDED: u8 = 4;
/// ICMP unreachable: communication administratively prohibited (RFC 1812 section 5.2.7.1).
pub const V4_PROHIBITED: u8 = 13;

/// ICMPv6: destination unreachable.
pub const V6_UNREACHABLE: u8 = 1;
/// ICMPv6: packet too big.
pub const V6_TOO_BIG: u8 = 2;
/// ICMPv6: time exceeded.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6: parameter problem.
pub const V6_PARAMETER: u8 = 4;
/// ICMPv6: echo request.
pub const V6_ECHO: u8 = 128;
/// ICMPv6: echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// ICMPv6 unreachable: communication administratively prohibited.
pub const V6_PROHIBITED: u8 = 1;
/// ICMPv6 unreachable: port.
pub const V6_PORT: u8 = 4;
/// ICMPv6 parameter problem: unrecognised next header.
pub const V6_NEXT_HEADER: u8 = 1;

/// What a message is to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An echo request.
    Echo,
    /// An error about a packet: the packet cannot reach its destination.
    Unreachable,
    /// An error about a packet: too large, too old, or malformed.
    OtherError,
    /// Nothing that a proxy handles.
    Ignored,
}

/// What a message with these numbers is.
#[must_use]
pub const fn message(v6: bool, kind: u8, code: u8) -> Message {
    match (v6, kind, code) {
        (false, V4_ECHO, 0) | (true, V6_ECHO, 0) => Message::Echo,
        (false, V4_UNREACHABLE, V4_FRAGMENTATION_NEEDED)
        | (false, V4_TIME_EXCEEDED | V4_PARAMETER, _)
        | (true, V6_TOO_BIG | V6_TIME_EXCEEDED | V6_PARAMETER, _) => Message::OtherError,
        (false, V4_UNREACHABLE, _) | (true, V6_UNREACHABLE, _) => Message::Unreachable,
        _ => Message::Ignored,
    }
}

/// Whether an error may never be sent about a message of this kind: it is an error itself
/// (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e.1), or a redirect.
#[must_use]
pub const fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { kind < 128 || kind == 137 } else { !matches!(kind, 0 | 8 | 13..=18) }
}
