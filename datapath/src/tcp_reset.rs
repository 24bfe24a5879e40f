//! Resets on behalf of a closed port (RFC 9293 section 3.10.7.1).

use crate::{
    classify::Transport,
    packet::Packet,
    wire::{build, double_word, ip::Ip, set_double_word, set_word, tcp},
};

/// The reset that answers a segment; `None` for a reset.
///
/// ```text
/// the segment has an ACK     <SEQ=SEG.ACK><CTL=RST>
/// it has none                <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
/// ```
#[must_use]
pub fn answer(packet: &[u8], ip: &Ip, transport: &Transport) -> Option<Packet> {
    if transport.has(tcp::RST) {
        return None;
    }
    let segment = &packet[ip.payload..ip.end];
    let (sequence, acknowledgement, flags) = if transport.has(tcp::ACK) {
        (double_word(segment, tcp::ACKNOWLEDGEMENT), 0, tcp::RST)
    } else {
        let controls = u32::from(transport.has(tcp::SYN)) + u32::from(transport.has(tcp::FIN));
        let length = (segment.len() - transport.header) as u32 + controls;
        let end = double_word(segment, tcp::SEQUENCE).wrapping_add(length);
        (0, end, tcp::RST | tcp::ACK)
    };
    let (from, to) = (transport.destination, transport.source);
    Some(segment_between(from, to, sequence, acknowledgement, flags))
}

/// A bare segment with a full life and no window.
#[must_use]
pub fn segment_between(
    source: std::net::SocketAddr,
    destination: std::net::SocketAddr,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
) -> Packet {
    let mut header = [0; tcp::HEADER];
    set_word(&mut header, 0, source.port());
    set_word(&mut header, 2, destination.port());
    set_double_word(&mut header, tcp::SEQUENCE, sequence);
    set_double_word(&mut header, tcp::ACKNOWLEDGEMENT, acknowledgement);
    header[tcp::DATA_OFFSET] = 5 << 4;
    header[tcp::FLAGS] = flags;
    if flags & tcp::RST == 0 {
        set_word(&mut header, tcp::WINDOW, 1024);
    }
    build::ip_packet(source.ip(), destination.ip(), 6, &header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        classify::{Kind, View},
        testing::{self, sock},
    };

    fn reset(packet: &Packet) -> Option<Packet> {
        let View { ip, kind: Kind::Transport(transport) } = View::parse(packet.bytes()).unwrap()
        else {
            panic!("no transport");
        };
        answer(packet.bytes(), &ip, &transport)
    }

    #[test]
    fn a_syn_is_answered_with_its_acknowledgement() {
        let answer = reset(&testing::syn("192.0.2.1:9", "203.0.113.1:80")).unwrap();
        testing::assert_checksums(answer.bytes());
        let tcp = &answer.bytes()[20..];
        assert_eq!(tcp[tcp::FLAGS], tcp::RST | tcp::ACK);
        assert_eq!(double_word(tcp, tcp::SEQUENCE), 0);
        assert_eq!(double_word(tcp, tcp::ACKNOWLEDGEMENT), testing::SEQUENCE + 1);
    }

    #[test]
    fn data_with_an_ack_is_answered_at_the_number_it_acknowledges() {
        let (a, b) = (sock("[2001:db8::1]:9"), sock("[2001:db8:a::1]:80"));
        let answer = reset(&testing::tcp_between(a, b, tcp::ACK, b"data")).unwrap();
        testing::assert_checksums(answer.bytes());
        let tcp = &answer.bytes()[40..];
        assert_eq!(tcp[tcp::FLAGS], tcp::RST);
        assert_eq!(double_word(tcp, tcp::SEQUENCE), testing::ACKNOWLEDGEMENT);
    }

    #[test]
    fn a_reset_is_never_answered() {
        let (a, b) = (sock("192.0.2.1:9"), sock("203.0.113.1:80"));
        assert_eq!(reset(&testing::tcp_between(a, b, tcp::RST, b"")), None);
    }
}
