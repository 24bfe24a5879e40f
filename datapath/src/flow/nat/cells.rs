//! Finding the slots of flows: buckets of cells, shared with XDP.
//!
//! ```text
//! bucket   8 cells, a cache line                       N buckets, a power of two
//! cell     bits 63..32 tag, bits 31..0 slot + 1        0: free
//!
//! client's side   product = hash * (seed | 1)          bucket = (product >> 32) modulo N
//!                                                      first cell looked at = (product >> 16) & 7
//! target's side   a = fold(AT's octets 0 to 7 ^ s0, 8 to 15 ^ (seed | 1))
//!                 product = fold(a ^ s2, ends ^ s3)    bucket likewise, first cell 0
//!                 ends = AT's port | NAT port << 16 | protocol << 32
//! tag             the lower half of the product
//! ```
//! `fold` is the one half of a product of 128 bits and the other, exclusively or-ed; s0, s2 and s3 are words
//! of XXH3's secret. Ports and addresses are octets of a packet, in the machine's order. The NAT address is
//! not hashed: flows that differ in it alone are few.
//!
//! Who puts a slot in looks at the bucket again: of two that put in the same flow, or the same port, at
//! once, one at least sees the other, and takes its own out.

use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use pias_protocol::{group::Protocol, hash::FlowHash};

use crate::{
    flow::pins::{address_words, port_bits},
    mapped::Words,
};

/// Cells in a bucket.
pub(super) const CELLS: usize = 8;

const SECRET: [u64; 3] = [0xbe4b_a423_396c_feb8, 0xdb97_9083_e96d_d4de, 0x1f67_b3b7_a4a4_4072];

/// Where a side of a flow is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    product: u64,
    first: usize,
}

impl Place {
    /// Of a client's side; `seed` is odd.
    pub(super) const fn of_client(hash: FlowHash, seed: u64) -> Self {
        let product = hash.0.wrapping_mul(seed);
        Self { product, first: (product >> 16) as usize % CELLS }
    }

    /// Of a target's side.
    pub(super) fn of_target(
        protocol: Protocol,
        target: SocketAddr,
        nat_port: u16,
        seed: u64,
    ) -> Self {
        let [high, low] = address_words(target.ip());
        let ends = port_bits(target.port())
            | port_bits(nat_port) << 16
            | u64::from(protocol.number()) << 32;
        let address = fold(high ^ SECRET[0], low ^ seed);
        Self { product: fold(address ^ SECRET[1], ends ^ SECRET[2]), first: 0 }
    }

    /// Spread as the place is.
    pub(super) const fn product(self) -> u64 {
        self.product
    }

    const fn tag(self) -> u64 {
        self.product << 32
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

/// Why a slot was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// All cells of its bucket are taken.
    Full,
    /// A slot is there that excludes it.
    Taken,
}

/// The cells of one side.
#[derive(Debug)]
pub(super) struct Cells(Words);

impl Cells {
    /// `words` are those of a power of two of buckets.
    pub(super) const fn new(words: Words) -> Self {
        Self(words)
    }

    fn bucket(&self, place: Place) -> &[AtomicU64; CELLS] {
        let buckets = self.0.as_chunks().0;
        &buckets[(place.product >> 32) as usize % buckets.len()]
    }

    /// The slots that may have what is looked for, in the order of their cells.
    pub(super) fn slots(&self, place: Place) -> impl Iterator<Item = usize> + '_ {
        let bucket = self.bucket(place);
        (0..CELLS).filter_map(move |step| {
            let cell = bucket[(place.first + step) % CELLS].load(SeqCst);
            slot_in(cell, place)
        })
    }

    /// Puts a slot in, unless one is there, or comes at the same time, that `excludes` it.
    pub(super) fn put(
        &self,
        place: Place,
        slot: usize,
        excludes: impl Fn(usize) -> bool,
    ) -> Result<(), Refused> {
        if self.slots(place).any(&excludes) {
            return Err(Refused::Taken);
        }
        let cell = place.tag() | (slot as u64 + 1);
        let bucket = self.bucket(place);
        let taken = (0..CELLS).any(|step| {
            let free = &bucket[(place.first + step) % CELLS];
            free.load(Relaxed) == 0 && free.compare_exchange(0, cell, SeqCst, Relaxed).is_ok()
        });
        if !taken {
            return Err(Refused::Full);
        }
        if self.slots(place).any(|other| other != slot && excludes(other)) {
            self.take_out(place, slot);
            return Err(Refused::Taken);
        }
        Ok(())
    }

    /// Takes a slot out, if it is in.
    pub(super) fn take_out(&self, place: Place, slot: usize) {
        let cell = place.tag() | (slot as u64 + 1);
        for other in self.bucket(place) {
            if other.compare_exchange(cell, 0, SeqCst, Relaxed).is_ok() {
                return;
            }
        }
    }
}

fn slot_in(cell: u64, place: Place) -> Option<usize> {
    let slot = (cell as u32 as usize).checked_sub(1)?;
    (cell >> 32 == place.tag() >> 32).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(buckets: usize) -> Cells {
        Cells::new(Words::zeroed(buckets * CELLS).unwrap())
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn places_are_where_the_other_party_expects_them() {
        let hash = FlowHash(0x0123_4567_89ab_cdef);
        assert_eq!(Place::of_client(hash, 1).product, hash.0);
        assert_eq!(Place::of_client(hash, 3).product, hash.0.wrapping_mul(3));
        let target = "10.0.0.9:5000".parse().unwrap();
        let v4 = Place::of_target(Protocol::Udp, target, 1024, 7);
        let target = "[2001:db8:9::9]:80".parse().unwrap();
        let v6 = Place::of_target(Protocol::Tcp, target, 65_023, 7);
        assert_eq!([v4.product, v6.product], GOLDEN);
    }

    #[cfg(target_endian = "little")]
    const GOLDEN: [u64; 2] = [4_635_242_849_849_561_615, 17_670_722_063_556_918_362];

    #[test]
    fn a_slot_is_found_until_it_is_taken_out() {
        let cells = cells(4);
        let place = Place::of_client(FlowHash(0x3_0006_0001), 1);
        assert_eq!(cells.put(place, 0, |_| true), Ok(()));
        assert_eq!(cells.put(place, 9, |other| other == 0), Err(Refused::Taken));
        assert_eq!(cells.put(place, 9, |_| false), Ok(()), "another flow with its tag");
        assert_eq!(cells.slots(place).collect::<Vec<_>>(), [0, 9]);
        let neighbour = Place::of_client(FlowHash(0x3_0006_0002), 1);
        assert_eq!(cells.slots(neighbour).count(), 0, "another tag");
        cells.take_out(place, 0);
        assert_eq!(cells.slots(place).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn a_full_bucket_takes_no_more() {
        let cells = cells(1);
        let place = |n| Place::of_client(FlowHash(n), 1);
        for n in 0..CELLS as u64 {
            assert_eq!(cells.put(place(n), n as usize, |_| true), Ok(()));
        }
        assert_eq!(cells.put(place(99), 99, |_| true), Err(Refused::Full));
        cells.take_out(place(3), 3);
        assert_eq!(cells.put(place(99), 99, |_| true), Ok(()));
    }
}
