//! ICMP errors of our own (RFC 1812 section 4.3, RFC 4443), and echo replies.

use std::net::IpAddr;

use crate::{
    checksum::Delta,
    classify::is_host,
    packet::Packet,
    wire::{
        build,
        icmp::{self, *},
        ip::Ip,
        ipv6, set_double_word, set_word, word,
    },
};

/// RFC 1812 section 4.3.2.3: as much of the packet as fits in 576 octets.
const MOST_V4: usize = 576;
/// RFC 4443 section 2.4 (c): as much as fits in the least IPv6 MTU.
const MOST_V6: usize = 1280;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Nobody serves the port.
    Port,
    /// The protocol is not served at all.
    Protocol,
    /// No new flow is let through (RFC 5508 REQ-8).
    Prohibited,
    /// The TTL or hop limit is used up.
    TimeExceeded,
    /// The packet must not be fragmented, and only packets of this many octets pass.
    TooBig(u16),
}

/// The error about `packet`, from `source` to the packet's source; `None` where no error may be
/// sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4): about errors, later fragments, and packets
/// from or to more than one host.
#[must_use]
pub fn about(packet: &[u8], ip: &Ip, problem: Problem, source: IpAddr) -> Option<Packet> {
    if ip.is_later_fragment() || !is_host(ip.source) || !is_host(ip.destination) {
        return None;
    }
    let protocol = if ip.is_v6() { PROTOCOL_V6 } else { PROTOCOL_V4 };
    if ip.protocol == protocol && icmp::is_error(ip.is_v6(), *packet.get(ip.payload)?) {
        return None;
    }
    let (most, header) = if ip.is_v6() { (MOST_V6, ipv6::HEADER) } else { (MOST_V4, 20) };
    let embedded = &packet[..ip.end.min(most - header - HEADER)];
    let mut upper = Vec::with_capacity(HEADER + embedded.len());
    upper.extend(header_of(ip, packet, problem));
    upper.extend_from_slice(embedded);
    Some(build::ip_packet(source, ip.source, protocol, &upper))
}

fn header_of(ip: &Ip, packet: &[u8], problem: Problem) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let (kind, code) = match (ip.is_v6(), problem) {
        (false, Problem::Port) => (V4_UNREACHABLE, V4_PORT),
        (false, Problem::Protocol) => (V4_UNREACHABLE, V4_PROTOCOL),
        (false, Problem::Prohibited) => (V4_UNREACHABLE, V4_PROHIBITED),
        (false, Problem::TimeExceeded) => (V4_TIME_EXCEEDED, 0),
        (false, Problem::TooBig(_)) => (V4_UNREACHABLE, V4_FRAGMENTATION_NEEDED),
        (true, Problem::Port) => (V6_UNREACHABLE, V6_PORT),
        (true, Problem::Protocol) => (V6_PARAMETER, V6_NEXT_HEADER),
        (true, Problem::Prohibited) => (V6_UNREACHABLE, V6_PROHIBITED),
        (true, Problem::TimeExceeded) => (V6_TIME_EXCEEDED, 0),
        (true, Problem::TooBig(_)) => (V6_TOO_BIG, 0),
    };
    (header[0], header[1]) = (kind, code);
    match (ip.is_v6(), problem) {
        (false, Problem::TooBig(mtu)) => set_word(&mut header, 6, mtu),
        (true, Problem::TooBig(mtu)) => set_double_word(&mut header, 4, u32::from(mtu)),
        // The pointer names the field that named the protocol.
        (true, Problem::Protocol) => {
            let at = ipv6::walk(packet, ip.end).map_or(ipv6::NEXT_HEADER, |walk| walk.named_at);
            set_double_word(&mut header, 4, at as u32);
        }
        _ => {}
    }
    header
}

/// Makes an echo request, or its first fragment, its reply in place. The identification stays, so
/// that later fragments with swapped addresses follow it.
pub fn echo_reply(bytes: &mut [u8], ip: &Ip) {
    crate::rewrite::addresses(bytes, ip, ip.destination, ip.source);
    set_ttl(bytes, ip);
    let old = word(bytes, ip.payload);
    bytes[ip.payload] = if ip.is_v6() { V6_ECHO_REPLY } else { V4_ECHO_REPLY };
    // Swapped addresses add up to the same pseudo-header.
    let delta = Delta::default().word(old, word(bytes, ip.payload));
    let at = ip.payload + icmp::CHECKSUM;
    let updated = delta.complete(word(bytes, at));
    set_word(bytes, at, updated);
}

/// Gives a packet that is sent anew its full life.
pub fn set_ttl(bytes: &mut [u8], ip: &Ip) {
    if ip.is_v6() {
        bytes[ipv6::HOP_LIMIT] = build::TTL;
    } else {
        let at = crate::wire::ipv4::TTL;
        let old = word(bytes, at);
        bytes[at] = build::TTL;
        let delta = Delta::default().word(old, word(bytes, at));
        let updated = delta.complete(word(bytes, crate::wire::ipv4::CHECKSUM));
        set_word(bytes, crate::wire::ipv4::CHECKSUM, updated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, addr};

    fn error(packet: &Packet, problem: Problem) -> Option<Packet> {
        let ip = Ip::parse(packet.bytes()).unwrap();
        about(packet.bytes(), &ip, problem, ip.destination)
    }

    #[test]
    fn an_error_carries_as_much_as_fits() {
        let packet = testing::udp("192.0.2.1:9", "203.0.113.1:53", &[7; 1400]);
        let answer = error(&packet, Problem::TooBig(1400)).unwrap();
        testing::assert_checksums(answer.bytes());
        assert_eq!(answer.len(), 576);
        assert_eq!(
            answer.bytes()[20..28],
            [3, 4, answer.bytes()[22], answer.bytes()[23], 0, 0, 5, 120]
        );
        assert_eq!(answer.bytes()[28..], packet.bytes()[..548]);

        let packet = testing::udp("[2001:db8::1]:9", "[2001:db8:a::1]:53", &[7; 1400]);
        let answer = error(&packet, Problem::TooBig(1400)).unwrap();
        testing::assert_checksums(answer.bytes());
        assert_eq!(answer.len(), 1280);
        assert_eq!(Ip::parse(answer.bytes()).unwrap().destination, addr("2001:db8::1"));
    }

    #[test]
    fn no_error_is_sent_about_an_error() {
        let packet = testing::udp("192.0.2.1:9", "203.0.113.1:53", b"x");
        let first = error(&packet, Problem::Port).unwrap();
        assert_eq!(error(&first, Problem::TimeExceeded), None);
    }

    #[test]
    fn an_echo_comes_back_as_it_was_sent() {
        for (client, anycast) in [("192.0.2.1", "203.0.113.1"), ("2001:db8::1", "2001:db8:a::1")] {
            let mut packet = testing::echo(client, anycast, b"payload");
            let ip = Ip::parse(packet.bytes()).unwrap();
            echo_reply(packet.bytes_mut(), &ip);
            testing::assert_checksums(packet.bytes());
            let reply = Ip::parse(packet.bytes()).unwrap();
            assert_eq!((reply.source, reply.destination), (ip.destination, ip.source));
            assert!(packet.bytes().ends_with(b"payload"));
        }
    }
}
