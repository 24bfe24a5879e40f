//! What foca is given to work with: who a member is, and where its chance comes from.

use std::convert::Infallible;

use rand::TryRng;
use serde::{Deserialize, Serialize};

use crate::random::Draws;

/// The first member's IPv4 address, 10.0.0.0: it decides how many octets an address takes.
const FIRST: u32 = 0x0A00_0000;

/// A member: the least that SWIM needs. A proxy's name, cluster and further addresses are left
/// out, and so are not in foca's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Id {
    address: u32,
    /// How often it had to come back under a new identity, because it was declared down.
    pub(super) generation: u16,
}

impl Id {
    /// The member of a number, as it starts.
    pub(super) const fn of(member: usize) -> Self {
        Self { address: FIRST + member as u32, generation: 0 }
    }

    /// Its number.
    pub(super) const fn member(self) -> usize {
        (self.address - FIRST) as usize
    }
}

impl foca::Identity for Id {
    type Addr = u32;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> u32 {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// The simulator's chance in the form that foca takes it.
#[derive(Debug)]
pub(super) struct Chance(pub(super) Draws);

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
