//! Flows: those that enter here ([`ingress`], in [`pins`]), those that are translated here ([`nat`]), and those
//! that a mate translates ([`standby`]).

pub mod buckets;
pub mod elsewhere;
pub mod ingress;
pub mod nat;
pub mod pins;
pub mod replica;
pub mod sides;
pub mod standby;

use std::{net::SocketAddr, time::Duration};

use pias_protocol::{
    group::Protocol,
    hash::{FlowKey, mapped},
    random::SplitMix,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits::{TCP_CLOSING, TCP_IDLE, TCP_OPENING, UDP_IDLE};

/// How far a flow has come, which says how long it lives without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// UDP.
    Datagrams,
    /// TCP, not established.
    Opening,
    /// TCP, established.
    Open,
    /// TCP, closed by both sides, or reset.
    Closing,
}

impl Phase {
    /// The phase of a flow of which one packet has been seen. Whatever its TCP flags say, it may
    /// be forged: the next ones show that it lives.
    #[must_use]
    pub const fn first(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Datagrams,
            Protocol::Tcp => Self::Opening,
        }
    }

    /// How long the flow lives without a packet.
    #[must_use]
    pub const fn idle(self) -> Duration {
        match self {
            Self::Datagrams => UDP_IDLE,
            Self::Opening => TCP_OPENING,
            Self::Open => TCP_IDLE,
            Self::Closing => TCP_CLOSING,
        }
    }
}

/// The hash of a flow in this process's tables: seeded, so that nobody can aim at one bucket.
#[must_use]
pub fn table_hash(key: &FlowKey, seed: u64) -> u64 {
    let mut bytes = [0_u8; 37];
    bytes[0] = key.group.protocol.number();
    write_socket(&mut bytes[1..19], key.client);
    write_socket(&mut bytes[19..37], key.group.socket());
    xxh3_64_with_seed(&bytes, seed)
}

/// The hash of a target's side of a flow.
#[must_use]
pub fn reverse_hash(protocol: Protocol, target: SocketAddr, nat_port: u16, seed: u64) -> u64 {
    let mut bytes = [0_u8; 21];
    bytes[0] = protocol.number();
    write_socket(&mut bytes[1..19], target);
    bytes[19..21].copy_from_slice(&nat_port.to_be_bytes());
    xxh3_64_with_seed(&bytes, seed)
}

fn write_socket(out: &mut [u8], socket: SocketAddr) {
    out[..16].copy_from_slice(&mapped(socket.ip()));
    out[16..18].copy_from_slice(&socket.port().to_be_bytes());
}

/// Numbers that need to be spread, not secret: which slots to sample.
#[derive(Clone, Copy, Debug)]
pub struct Dice(SplitMix);

impl Dice {
    /// Dice of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(SplitMix::new(seed))
    }

    /// A number below `bound`; 0 where that is 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }
}
