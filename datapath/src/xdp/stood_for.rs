//! The NAT addresses of mates that targets' packets may come to here, kept equal to what the overlay says.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData};
use pias_protocol::hash::mapped;

use super::{
    layout::STOOD_FOR_MOST,
    tables::{WriteError, removed},
};

/// The addresses. What is sent to one of them is XDP's if its flow is translated here, and else user space's.
pub(super) struct StoodFor {
    addresses: HashMap<MapData, [u8; 16], u64>,
    /// What the programs were told.
    told: Vec<IpAddr>,
}

impl StoodFor {
    pub(super) const fn new(addresses: HashMap<MapData, [u8; 16], u64>) -> Self {
        Self { addresses, told: Vec::new() }
    }

    /// Makes what stands there equal to these; of more than there is room for, the rest is user space's.
    pub(super) fn follow(&mut self, now: impl Iterator<Item = IpAddr>) -> Result<(), WriteError> {
        let now: Vec<_> = now.take(STOOD_FOR_MOST).collect();
        for gone in self.told.iter().filter(|told| !now.contains(told)) {
            removed(self.addresses.remove(&mapped(*gone)))?;
        }
        self.told.retain(|told| now.contains(told));
        for new in now {
            if !self.told.contains(&new) {
                self.addresses.insert(mapped(new), 1, 0)?;
                self.told.push(new);
            }
        }
        Ok(())
    }
}
