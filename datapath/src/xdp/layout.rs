//! What this process shares with the programs, to the octet: `bpf/layout.h` in Rust.

use std::net::IpAddr;

use ipnet::IpNet;
use pias_protocol::{group::GroupKey, hash::mapped};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::{counters::Path, drop_reason::DropReason};

/// Most candidates of a group.
pub const MAX_CANDIDATES: usize = pias_protocol::limits::MAX_CANDIDATES;
/// Most targets of a group that the programs draw among.
pub const TARGETS_DRAWN: usize = 1_024;
/// Most anycast prefixes.
pub const MAX_PREFIXES: usize = 16;
/// Indexes of interfaces are smaller.
pub const DEVICES: usize = 65_536;
/// Source ports of tunnel packets in each family.
pub const SOURCE_PORTS: usize = crate::limits::engine::SOURCE_PORTS;

/// An address in 16 octets, IPv4 in its IPv6-mapped form.
pub type Address = [u8; 16];

/// What is set once, before the programs are loaded: `struct config`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// Spreads flows over the buckets of pins.
    pub seed: u64,
    /// How many prefixes there are.
    pub prefixes: u32,
    /// What a jiffy takes, in nanoseconds.
    pub jiffy: u32,
    /// Anycast prefixes.
    pub network: [Address; MAX_PREFIXES],
    /// Their masks.
    pub mask: [Address; MAX_PREFIXES],
    /// NAT addresses of this proxy; unspecified where there is none.
    pub nat: [Address; 2],
    /// Ports that tunnel packets are sent from over IPv4 and IPv6, big-endian; 0: family unused.
    pub source_port: [[[u8; 2]; SOURCE_PORTS]; 2],
    /// This proxy's tunnel endpoints over IPv4 and IPv6; unspecified where there is none.
    pub unicast: [Address; 2],
    /// Slots of the table of translated flows.
    pub nat_flows: u32,
    /// Most embryonic flows.
    pub nat_embryonic: u32,
    /// Buckets of cells of translated flows, less one.
    pub nat_buckets_mask: u32,
    /// Places of their ring of free slots, less one.
    pub nat_free_mask: u32,
    /// Octets that the tunnel to an ingress that is this proxy would leave room for.
    pub own_inner_mtu: u32,
    /// 0.
    pub zero_too: u32,
}

/// The key of a group: `struct group_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key {
    /// Its anycast address.
    pub address: Address,
    /// Its port, big-endian.
    pub port: [u8; 2],
    /// Its protocol's number.
    pub protocol: u8,
    /// 0.
    pub zero: u8,
    /// Of the targets of one group, as many as fit stand in each part.
    pub part: u32,
}

impl From<&GroupKey> for Key {
    fn from(group: &GroupKey) -> Self {
        Self {
            address: mapped(group.address),
            port: group.port.to_be_bytes(),
            protocol: group.protocol.number(),
            zero: 0,
            part: 0,
        }
    }
}

/// A candidate of a group: `struct candidate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct Candidate {
    /// By which flows are drawn.
    pub id: u64,
    /// Its weight, at least 1.
    pub weight: u32,
    /// The index of its peer's handle, or [`HERE`].
    pub peer: u32,
    /// The generation of its peer's handle.
    pub generation: u32,
    /// 0.
    pub zero: u32,
}

/// In place of a peer: this proxy.
pub const HERE: u32 = u32::MAX;

/// The candidates that a group's flows are drawn from: `struct group`.
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct Group {
    /// How many there are.
    pub count: u32,
    /// When its use was last told, in ticks; written by the programs.
    pub used: u32,
    /// The candidates.
    pub candidates: [Candidate; MAX_CANDIDATES],
}

/// How the programs are attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// In its driver: frames that leave need a driver that takes them.
    Native = 1,
    /// In the kernel's networking, which sends frames like any others: slower, and everywhere.
    Generic = 2,
}

impl Mode {
    /// As in the log and in `piasctl`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// An interface that the programs are attached to: `struct device`, one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its address.
    pub mac: [u8; 6],
    /// How.
    pub mode: Mode,
    /// Whether frames that came in there can leave by `XDP_TX`.
    pub bounces: bool,
    /// Whether frames, wherever they came in, can leave by `XDP_REDIRECT`.
    pub takes: bool,
}

impl Device {
    /// The word in the table.
    #[must_use]
    pub const fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        let sends = self.bounces as u8 | (self.takes as u8) << 1;
        u64::from_le_bytes([a, b, c, d, e, f, self.mode as u8, sends])
    }
}

/// Frames of one VLAN on an interface, or what has no tag: `struct port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Port {
    /// The interface.
    pub index: u32,
    /// The tag, big-endian; 0 where there is none.
    pub tag: [u8; 2],
    /// 0.
    pub zero: [u8; 2],
}

impl Port {
    /// Frames with this tag, 0 for those without.
    #[must_use]
    pub const fn new(index: u32, tag: u16) -> Self {
        Self { index, tag: tag.to_be_bytes(), zero: [0; 2] }
    }
}

/// Words of `struct state`, and where its parts are.
pub mod state {
    /// All of it; the first and the third stand beside the table of pins
    /// ([`pins`](crate::flow::pins)).
    pub const WORDS: usize = 16;
    /// Now, and above it the epoch of next hops.
    pub const NOW: usize = 1;
    /// Until when the tables may be used, in nanoseconds of the kernel's coarse clock.
    pub const UNTIL: usize = 3;
    /// By which flows are spread over the table of pins, and whose the tables are: see [`kept`](crate::xdp::kept).
    pub const SEED: usize = 8;
    /// See there.
    pub const FINGERPRINT: usize = 9;
}
/// Words of `struct peer`, and where its parts are.
pub mod peer {
    /// All of it.
    pub const WORDS: usize = 16;
    /// The generation in the lower half; whether it lives, whether it is IPv6, and its MTU above.
    pub const LIFE: usize = 0;
    /// Its tunnel endpoint.
    pub const TUNNEL: usize = 1;
    /// This proxy's.
    pub const OWN: usize = 3;
    /// The epoch of the next hop, and its interface.
    pub const HOP: usize = 5;
    /// Destination and source of frames, 12 octets.
    pub const MACS: usize = 6;
    /// Which proxy it is.
    pub const ID: usize = 8;
}
/// Words of `struct target`, and where its parts are.
pub mod target {
    /// All of it.
    pub const WORDS: usize = 8;
    /// The generation in the lower half; whether its flows go on, whether it is IPv6, and its port above.
    pub const LIFE: usize = 0;
    /// Its address.
    pub const ADDRESS: usize = 1;
    /// The id of its lease.
    pub const LEASE: usize = 3;
    /// The epoch of the next hop, and its interface.
    pub const HOP: usize = 5;
}
/// What is told of a translated flow beside its handle: it was just answered for the first time.
pub const NEWS_ANSWERED: u64 = 1 << 63;
/// NAT addresses of mates.
pub const STOOD_FOR_MOST: usize = 1024;
/// Words of a bucket of pins.
pub const BUCKET_WORDS: usize = crate::flow::pins::BUCKET_WORDS;
/// The counters of flows that are known beside the pins are 2 to the power of this.
pub const ELSEWHERE_BITS: u32 = crate::flow::elsewhere::BITS;
/// Counters of the programs: those of [`Path`], and behind them those of [`DropReason`].
pub const COUNTERS: u32 = 128;

/// The counter of a reason.
#[must_use]
pub const fn drop_counter(reason: DropReason) -> u32 {
    Path::ALL.len() as u32 + reason as u32
}

/// A prefix as network and mask.
#[must_use]
pub fn prefix(net: &IpNet) -> (Address, Address) {
    let mask = match net.netmask() {
        // Of the mapped form all octets in front count.
        IpAddr::V4(mask) => (u128::MAX << 32 | u128::from(mask.to_bits())).to_be_bytes(),
        IpAddr::V6(mask) => mask.octets(),
    };
    (mapped(net.network()), mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        counters::Path,
        drop_reason::DropReason,
        flow::nat,
        limits::{self, rates},
    };

    const HEADER: &str = include_str!("../../bpf/layout.h");

    /// The value that the header gives a name.
    fn defined(name: &str) -> u64 {
        let at = HEADER.find(&format!(" {name} = ")).expect(name) + name.len() + 4;
        let text: String = HEADER[at..].chars().take_while(char::is_ascii_alphanumeric).collect();
        text.strip_prefix("0x")
            .map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16))
            .expect(name)
    }

    fn drops(reason: DropReason) -> u64 {
        drop_counter(reason).into()
    }

    #[test]
    fn the_header_and_this_file_name_the_same_numbers() {
        for (name, here) in [
            ("MAX_CANDIDATES", MAX_CANDIDATES as u64),
            ("TARGETS_DRAWN", TARGETS_DRAWN as u64),
            ("MAX_PREFIXES", MAX_PREFIXES as u64),
            ("SOURCE_PORTS", SOURCE_PORTS as u64),
            ("HERE", u64::from(HERE)),
            ("DEVICES", DEVICES as u64),
            ("NATIVE", Mode::Native as u64),
            ("GENERIC", Mode::Generic as u64),
            ("ELSEWHERE_BITS", u64::from(ELSEWHERE_BITS)),
            ("COUNTERS", u64::from(COUNTERS)),
            ("PATH_INGRESS_DIRECT", Path::IngressDirect as u64),
            ("PATH_ECHO", Path::Echo as u64),
            ("PATH_FLOW_EVICTED", Path::FlowEvicted as u64),
            ("PATH_INGRESS_LOCAL", Path::IngressLocal as u64),
            ("PATH_JOIN_DELIVER", Path::JoinDeliver as u64),
            ("PATH_JOIN_RETURN", Path::JoinReturn as u64),
            ("FIRST_FLOW_PORT", u64::from(*limits::FLOW_PORTS.start())),
            ("FLOW_PORTS", limits::FLOW_PORTS.len() as u64),
            ("PORT_SAMPLE", u64::from(limits::PORT_SAMPLE)),
            ("EVICTION_LOOK", limits::EVICTION_LOOK as u64),
            ("EVICTION_SAMPLE", limits::EVICTION_SAMPLE as u64),
            ("CELLS", nat::CELLS as u64),
            ("STOOD_FOR_MOST", STOOD_FOR_MOST as u64),
            ("DROP_MALFORMED", drops(DropReason::Malformed)),
            ("DROP_BAD_SOURCE", drops(DropReason::BadSource)),
            ("DROP_PORT_ZERO", drops(DropReason::PortZero)),
            ("DROP_RATE_LIMITED", drops(DropReason::RateLimited)),
            ("DROP_ICMP_IGNORED", drops(DropReason::IcmpIgnored)),
            ("ECHO_RATE", rates::ECHO.0),
            ("ECHO_BURST", rates::ECHO.1),
            ("PIAS_PORT", u64::from(pias_protocol::PIAS_PORT)),
            ("GENEVE_PORT", u64::from(pias_protocol::GENEVE_PORT)),
        ] {
            assert_eq!(defined(name), here, "{name}");
        }
        assert!(drop_counter(*DropReason::ALL.last().unwrap()) < COUNTERS);
    }

    #[test]
    fn structures_are_as_long_as_in_c() {
        assert_eq!(size_of::<Config>(), 872);
        assert_eq!(size_of::<Key>(), 24);
        assert_eq!(size_of::<Port>(), 8);
        assert_eq!(size_of::<Candidate>(), 24);
        assert_eq!(size_of::<Group>(), 1544);
    }

    #[test]
    fn a_device_is_a_word_whose_first_octets_are_its_address() {
        let mac = [2, 0, 0, 0, 0, 1];
        let device = Device { mac, mode: Mode::Native, bounces: false, takes: true };
        assert_eq!(device.word().to_ne_bytes(), [2, 0, 0, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn prefixes_match_the_mapped_form() {
        let (network, mask) = prefix(&"203.0.113.0/24".parse().unwrap());
        let within = mapped("203.0.113.77".parse().unwrap());
        let masked: Vec<u8> = within.iter().zip(mask).map(|(octet, mask)| octet & mask).collect();
        assert_eq!(masked, network);
        let outside = mapped("203.0.114.77".parse().unwrap());
        assert!(
            outside.iter().zip(mask).zip(network).any(|((octet, mask), net)| octet & mask != net)
        );
    }
}
