//! ICMP errors about translated packets (RFC 5508 section 4, RFC 4443).
//!
//! ```text
//! about JAP:s → AT:r     outer   any → JAP      becomes   AA → AC
//!                        inner   JAP:s → AT:r             AC:x → AA:g
//! about AA:g → AC:x      outer   any → AA       becomes   JAP → AT
//!                        inner   AA:g → AC:x              AT:r → JAP:s
//! ```
//! Type, code and the value of a packet-too-big carry over: both packets are of one size.

use std::net::{IpAddr, SocketAddr};

use pias_protocol::group::Protocol;

use crate::{
    checksum::Delta,
    drop_reason::DropReason,
    rewrite,
    wire::{build, embedded::Embedded, icmp, ip::Ip, ipv4, set_word, word},
};

/// The packet that an ICMP error is about, if the error is whole, its checksum right, and it went to
/// whoever that packet came from.
///
/// # Errors
/// [`DropReason::IcmpTruncated`], [`DropReason::IcmpUnrelated`] or [`DropReason::Malformed`].
pub fn subject(bytes: &[u8], ip: &Ip) -> Result<Embedded, DropReason> {
    if ip.fragment.is_some() {
        return Err(DropReason::IcmpTruncated);
    }
    let upper = &bytes[ip.payload..ip.end];
    if !build::checksum_holds(upper, ip.source, ip.destination, ip.protocol) {
        return Err(DropReason::Malformed);
    }
    let inner = upper.get(icmp::HEADER..).ok_or(DropReason::IcmpTruncated)?;
    let embedded = Embedded::parse(inner)?;
    if embedded.source.ip() == ip.destination {
        Ok(embedded)
    } else {
        Err(DropReason::IcmpUnrelated)
    }
}

/// Where a translated error goes, and what it is about from now on.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Outer source and destination.
    pub outer: (IpAddr, IpAddr),
    /// Inner source and destination.
    pub inner: (SocketAddr, SocketAddr),
}

/// Translates an error that [`subject`] has read, in place. All addresses are of one family.
pub fn translate(bytes: &mut [u8], ip: &Ip, embedded: &Embedded, to: Translation) {
    let at = ip.payload + icmp::HEADER;
    translate_embedded(&mut bytes[at..ip.end], embedded, to.inner);
    rewrite::addresses(bytes, ip, to.outer.0, to.outer.1);
    build::fill_checksum(&mut bytes[ip.payload..ip.end], to.outer.0, to.outer.1, ip.protocol);
}

fn translate_embedded(inner: &mut [u8], embedded: &Embedded, to: (SocketAddr, SocketAddr)) {
    let (source, destination) = embedded.addresses();
    let pseudo = Delta::default().address(source, to.0.ip()).address(destination, to.1.ip());
    let ports = Delta::default()
        .word(embedded.source.port(), to.0.port())
        .word(embedded.destination.port(), to.1.port());
    let v6 = source.is_ipv6();
    write_address(inner, v6, false, to.0.ip());
    write_address(inner, v6, true, to.1.ip());
    if !v6 {
        let updated = pseudo.complete(word(inner, ipv4::CHECKSUM));
        set_word(inner, ipv4::CHECKSUM, updated);
    }
    set_word(inner, embedded.transport, to.0.port());
    set_word(inner, embedded.transport + 2, to.1.port());
    if let Some(at) = embedded.checksum {
        let updated = match pseudo.and(ports).complete(word(inner, at)) {
            0 if embedded.protocol == Protocol::Udp => 0xFFFF,
            updated => updated,
        };
        set_word(inner, at, updated);
    }
}

fn write_address(inner: &mut [u8], v6: bool, destination: bool, address: IpAddr) {
    use crate::wire::ipv6;
    match (v6, destination, address) {
        (false, false, IpAddr::V4(v4)) => inner[ipv4::SOURCE..][..4].copy_from_slice(&v4.octets()),
        (false, true, IpAddr::V4(v4)) => {
            inner[ipv4::DESTINATION..][..4].copy_from_slice(&v4.octets());
        }
        (true, false, IpAddr::V6(v6)) => inner[ipv6::SOURCE..][..16].copy_from_slice(&v6.octets()),
        (true, true, IpAddr::V6(v6)) => {
            inner[ipv6::DESTINATION..][..16].copy_from_slice(&v6.octets());
        }
        _ => {}
    }
}
