//! The header between proxies: Geneve (RFC 8926) with at most one option of ours.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! ├───┬───────────┬─┬─┬───────────┬───────────────────────────────┤
//! │Ver│  Opt len  │O│C│ Reserved  │  Protocol type 0x0800, 0x86DD │
//! ├───┴───────────┴─┴─┴───────────┴───────────────┬───────────────┤
//! │  VNI, 0                                       │  Reserved     │
//! ├───────────────────────────────┬───────────────┼─────┬─────────┤
//! │  Class 0xFF50 (experimental)  │  Type 0x81    │  R  │ Length 5│   the option, if any:
//! ├───────────────┬───────────────┼───────────────┴─────┴─────────┤
//! │  Flags        │  Hops         │  Reserved, 0                  │
//! ├───────────────┴───────────────┴───────────────────────────────┤
//! │  Address of the ingress proxy, IPv4 in its IPv6-mapped form   │
//! │  (16 octets)                                                  │
//! └───────────────────────────────────────────────────────────────┘
//! ```
//! The option's type has the critical bit: a receiver that does not know it must drop the packet.
//! Options of other classes are skipped unless they are critical (RFC 8926 section 3.5).

use std::net::{IpAddr, Ipv6Addr};

use crate::hash::mapped;

/// Octets of the fixed header.
pub const BASE_LEN: usize = 8;
/// Octets of our option with its header.
pub const OPTION_LEN: usize = 24;
/// Octets of a header with our option.
pub const MAX_LEN: usize = BASE_LEN + OPTION_LEN;

/// The option's class, of the range for experimental use (RFC 8926 section 7).
pub const OPTION_CLASS: u16 = 0xFF50;
/// The option's type, with the critical bit.
pub const OPTION_TYPE: u8 = 0x81;

const CRITICAL: u8 = 0x80;
const FLAG_OAM: u8 = 0x80;
const FLAG_CRITICAL: u8 = 0x40;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;

/// The family of the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Protocol type 0x0800.
    Ipv4,
    /// Protocol type 0x86DD.
    Ipv6,
}

/// What the option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PiasOption {
    /// What is wanted.
    pub flags: Flags,
    /// How many proxies the packet has visited, the ingress being the first.
    pub hops: u8,
    /// The tunnel address of the ingress proxy.
    pub ingress: IpAddr,
}

/// The flags of the option. Unknown bits are kept and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// To a RAP: resolve the group for the ingress, and pass the packet on.
    pub const RESOLVE: Self = Self(0x01);
    /// The sender is a JAP that could not take the packet: pass it to the candidate after it.
    pub const SECOND_CHANCE: Self = Self(0x02);
    /// To an ingress: the flow of the inner packet (its first octets only) lives at the sender.
    pub const PIN: Self = Self(0x04);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

/// A Geneve header of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The family of what follows.
    pub inner: Inner,
    /// The option; packets straight from an ingress to a JAP carry none.
    pub option: Option<PiasOption>,
}

/// Why a datagram to port 6081 is not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than its header says.
    #[error("truncated")]
    Truncated,
    /// Another version than 0.
    #[error("version is not 0")]
    Version,
    /// A control packet (O bit): none are defined here.
    #[error("control packet")]
    Control,
    /// Neither IPv4 nor IPv6 inside.
    #[error("inner packet is neither IPv4 nor IPv6")]
    InnerType,
    /// A critical option that is not ours.
    #[error("unknown critical option")]
    CriticalOption,
    /// Our option with a wrong length, or twice.
    #[error("malformed option")]
    Option,
}

impl Header {
    /// Octets of the header.
    #[must_use]
    pub const fn len(&self) -> usize {
        if self.option.is_some() { MAX_LEN } else { BASE_LEN }
    }

    /// Never: a header has at least [`BASE_LEN`] octets.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header, and returns how many octets it took.
    pub fn write(&self, out: &mut [u8; MAX_LEN]) -> usize {
        let ethertype = match self.inner {
            Inner::Ipv4 => ETHERTYPE_IPV4,
            Inner::Ipv6 => ETHERTYPE_IPV6,
        };
        out.fill(0);
        out[2..4].copy_from_slice(&ethertype.to_be_bytes());
        if let Some(option) = self.option {
            out[0] = (OPTION_LEN / 4) as u8;
            out[1] = FLAG_CRITICAL;
            out[8..10].copy_from_slice(&OPTION_CLASS.to_be_bytes());
            out[10] = OPTION_TYPE;
            out[11] = (OPTION_LEN / 4 - 1) as u8;
            out[12] = option.flags.0;
            out[13] = option.hops;
            out[16..32].copy_from_slice(&mapped(option.ingress));
        }
        self.len()
    }

    /// Reads the header at the start of a datagram, and returns it with the inner packet. Total.
    ///
    /// # Errors
    /// As [`HeaderError`] tells.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let (base, rest) =
            datagram.split_first_chunk::<BASE_LEN>().ok_or(HeaderError::Truncated)?;
        if base[0] >> 6 != 0 {
            return Err(HeaderError::Version);
        }
        if base[1] & FLAG_OAM != 0 {
            return Err(HeaderError::Control);
        }
        let inner = match u16::from_be_bytes([base[2], base[3]]) {
            ETHERTYPE_IPV4 => Inner::Ipv4,
            ETHERTYPE_IPV6 => Inner::Ipv6,
            _ => return Err(HeaderError::InnerType),
        };
        let options_len = usize::from(base[0] & 0x3F) * 4;
        let (options, packet) = rest.split_at_checked(options_len).ok_or(HeaderError::Truncated)?;
        Ok((Self { inner, option: parse_options(options)? }, packet))
    }
}

fn parse_options(mut options: &[u8]) -> Result<Option<PiasOption>, HeaderError> {
    let mut ours = None;
    while let Some((head, rest)) = options.split_first_chunk::<4>() {
        let length = usize::from(head[3] & 0x1F) * 4;
        let (data, behind) = rest.split_at_checked(length).ok_or(HeaderError::Option)?;
        if u16::from_be_bytes([head[0], head[1]]) == OPTION_CLASS && head[2] == OPTION_TYPE {
            if ours.is_some() {
                return Err(HeaderError::Option);
            }
            ours = Some(parse_option(data)?);
        } else if head[2] & CRITICAL != 0 {
            return Err(HeaderError::CriticalOption);
        }
        options = behind;
    }
    Ok(ours)
}

fn parse_option(data: &[u8]) -> Result<PiasOption, HeaderError> {
    let data: &[u8; OPTION_LEN - 4] = data.try_into().map_err(|_| HeaderError::Option)?;
    let [flags, hops, _, _, address @ ..] = *data;
    let ingress = Ipv6Addr::from(address).to_canonical();
    Ok(PiasOption { flags: Flags(flags), hops, ingress })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve() -> Header {
        Header {
            inner: Inner::Ipv6,
            option: Some(PiasOption {
                flags: Flags::RESOLVE.with(Flags::SECOND_CHANCE),
                hops: 2,
                ingress: "198.51.100.11".parse().unwrap(),
            }),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_picture() {
        let mut out = [0; MAX_LEN];
        assert_eq!(resolve().write(&mut out), 32);
        assert_eq!(out[..16], [6, 0x40, 0x86, 0xDD, 0, 0, 0, 0, 0xFF, 0x50, 0x81, 5, 3, 2, 0, 0]);
        assert_eq!(out[16..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 198, 51, 100, 11]);

        let direct = Header { inner: Inner::Ipv4, option: None };
        assert_eq!(direct.write(&mut out), 8);
        assert_eq!(out[..8], [0, 0, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut out = [0; MAX_LEN];
        let length = resolve().write(&mut out);
        let mut datagram = out[..length].to_vec();
        datagram.extend([1, 2, 3]);
        assert_eq!(Header::parse(&datagram), Ok((resolve(), &[1, 2, 3][..])));
    }

    #[test]
    fn foreign_options_are_skipped_unless_critical() {
        let foreign = |kind: u8| [2, 0, 8, 0, 0, 0, 0, 0, 1, 2, kind, 1, 9, 9, 9, 9, 0x45];
        let (header, packet) = Header::parse(&foreign(0x01)).map(|(h, p)| (h, p.to_vec())).unwrap();
        assert_eq!((header.option, packet), (None, vec![0x45]));
        assert_eq!(Header::parse(&foreign(0x81)), Err(HeaderError::CriticalOption));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = Header::parse(&bytes);
        }

        #[test]
        fn what_parses_is_written_and_read_alike(bytes in proptest::collection::vec(any::<u8>(), 20..21)) {
            let mut datagram = vec![6, 0x40, 8, 0, 0, 0, 0, 0, 0xFF, 0x50, 0x81, 5];
            datagram.extend(bytes);
            let (header, _) = Header::parse(&datagram).unwrap();
            let mut out = [0; MAX_LEN];
            let length = header.write(&mut out);
            prop_assert_eq!(Header::parse(&out[..length]).unwrap().0, header);
        }
    }
}
