//! Packets for tests, built and checked by etherparse rather than by the code under test.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, TcpOptionElement};

use crate::{
    checksum,
    packet::{Checksum, Packet},
    wire::{ip::Ip, tcp, udp, word},
};

/// The sequence number of segments here.
pub(crate) const SEQUENCE: u32 = 1_000;
/// The number that segments with an ACK acknowledge.
pub(crate) const ACKNOWLEDGEMENT: u32 = 77_000;

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(from: IpAddr, to: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = etherparse::Ipv4Header::new(
                0,
                60,
                etherparse::IpNumber::UDP,
                from.octets(),
                to.octets(),
            )
            .unwrap();
            header.dont_fragment = false;
            header.identification = 0x1234;
            PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
                header,
                etherparse::Ipv4Extensions::default(),
            ))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ip(etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                hop_limit: 60,
                source: from.octets(),
                destination: to.octets(),
                ..etherparse::Ipv6Header::default()
            },
            etherparse::Ipv6Extensions::default(),
        )),
        _ => panic!("one family"),
    }
}

pub(crate) fn udp(from: &str, to: &str, payload: &[u8]) -> Packet {
    udp_between(sock(from), sock(to), payload)
}

pub(crate) fn udp_between(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Packet {
    let mut bytes = Vec::new();
    ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut bytes, payload).unwrap();
    Packet::from_bytes(&bytes)
}

pub(crate) fn syn(from: &str, to: &str) -> Packet {
    syn_with_mss(sock(from), sock(to), 1460, 0)
}

pub(crate) fn syn_with_mss(from: SocketAddr, to: SocketAddr, mss: u16, shift: usize) -> Packet {
    let mut options = vec![TcpOptionElement::Noop; shift];
    options.push(TcpOptionElement::MaximumSegmentSize(mss));
    let mut bytes = Vec::new();
    let step = ip(from.ip(), to.ip()).tcp(from.port(), to.port(), SEQUENCE, 64_000).syn();
    step.options(&options).unwrap().write(&mut bytes, &[]).unwrap();
    Packet::from_bytes(&bytes)
}

pub(crate) fn tcp(from: &str, to: &str, flags: u8, payload: &[u8]) -> Packet {
    tcp_between(sock(from), sock(to), flags, payload)
}

pub(crate) fn tcp_between(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Packet {
    let mut header = etherparse::TcpHeader::new(from.port(), to.port(), SEQUENCE, 64_000);
    header.syn = flags & tcp::SYN != 0;
    header.fin = flags & tcp::FIN != 0;
    header.rst = flags & tcp::RST != 0;
    header.ack = flags & tcp::ACK != 0;
    header.acknowledgment_number = if header.ack { ACKNOWLEDGEMENT } else { 0 };
    let mut bytes = Vec::new();
    ip(from.ip(), to.ip()).tcp_header(header).write(&mut bytes, payload).unwrap();
    Packet::from_bytes(&bytes)
}

pub(crate) fn echo(from: &str, to: &str, payload: &[u8]) -> Packet {
    let (from, to) = (addr(from), addr(to));
    let mut bytes = Vec::new();
    if from.is_ipv4() {
        ip(from, to).icmpv4_echo_request(1, 2).write(&mut bytes, payload).unwrap();
    } else {
        ip(from, to).icmpv6_echo_request(1, 2).write(&mut bytes, payload).unwrap();
    }
    Packet::from_bytes(&bytes)
}

/// Turns a complete transport checksum into a partial one, as a kernel leaves it.
pub(crate) fn make_partial(packet: &mut Packet) {
    let ip = Ip::parse(packet.bytes()).unwrap();
    let offset = if ip.protocol == 6 { tcp::CHECKSUM } else { udp::CHECKSUM };
    let pseudo =
        checksum::pseudo_header(ip.source, ip.destination, ip.protocol, ip.end - ip.payload);
    let field = checksum::fold(pseudo);
    packet.bytes_mut()[ip.payload + offset..][..2].copy_from_slice(&field.to_be_bytes());
    packet.offload.checksum = Checksum::Partial { start: ip.payload as u16, offset: offset as u16 };
}

/// Checks the IPv4 header checksum word by word.
pub(crate) fn assert_header_checksum(bytes: &[u8]) {
    if bytes[0] >> 4 == 4 {
        let header = usize::from(bytes[0] & 15) * 4;
        assert_eq!(naive(&bytes[..header], &[]), 0, "IPv4 header checksum");
    }
}

/// Checks the checksums of a whole packet word by word.
pub(crate) fn assert_checksums(bytes: &[u8]) {
    assert_header_checksum(bytes);
    let ip = Ip::parse(bytes).unwrap();
    let upper = &bytes[ip.payload..ip.end];
    if ip.protocol == 17 && word(upper, udp::CHECKSUM) == 0 {
        assert!(!ip.is_v6(), "UDP over IPv6 needs a checksum");
        return;
    }
    let mut pseudo = Vec::new();
    if ip.protocol != 1 {
        for address in [ip.source, ip.destination] {
            match address {
                IpAddr::V4(v4) => pseudo.extend(v4.octets()),
                IpAddr::V6(v6) => pseudo.extend(v6.octets()),
            }
        }
        pseudo.extend((upper.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, ip.protocol]);
    }
    assert_eq!(naive(&pseudo, upper), 0, "transport checksum");
}

fn naive(pseudo: &[u8], bytes: &[u8]) -> u16 {
    let mut total = 0_u64;
    for pair in pseudo.chunks(2).chain(bytes.chunks(2)) {
        total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while total >> 16 != 0 {
        total = (total & 0xFFFF) + (total >> 16);
    }
    !(total as u16)
}
