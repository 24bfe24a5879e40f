//! What the programs know of interfaces.

use std::sync::atomic::Ordering;

use aya::maps::{HashMap, MapData, MapError};

use super::{
    attach::Vlan,
    layout::{Device, Port},
    tables::removed,
};
use crate::mapped::Words;

const PORT: usize = size_of::<Port>();

/// Interfaces and VLANs' devices by their indexes.
pub struct Devices {
    words: Words,
    vlans: HashMap<MapData, [u8; PORT], [u8; PORT]>,
}

impl Devices {
    pub(super) const fn new(words: Words, vlans: HashMap<MapData, [u8; PORT], [u8; PORT]>) -> Self {
        Self { words, vlans }
    }

    /// Tells the programs of an interface that they are attached to, or are not any more. One whose
    /// index is [`DEVICES`](super::layout::DEVICES) or more is not told of: its packets are passed up.
    pub fn set(&self, index: u32, device: Option<Device>) {
        if let Some(word) = self.words.get(index as usize) {
            word.store(device.map_or(0, Device::word), Ordering::Release);
        }
    }

    /// The same of a VLAN's device on the interface `below`; what it is attached to, is that. Where there
    /// is no room for more VLANs, packets of this one are passed up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_vlan(
        &mut self,
        below: u32,
        vlan: &Vlan,
        device: Option<Device>,
    ) -> Result<(), MapError> {
        let mac = vlan.mac;
        self.set(vlan.index, device.map(|device| Device { mac, ..device }));
        let frames: [u8; PORT] = zerocopy::transmute!(Port::new(below, vlan.tag));
        let own: [u8; PORT] = zerocopy::transmute!(Port::new(vlan.index, 0));
        for (from, to) in [(frames, own), (own, frames)] {
            if device.is_some() {
                self.vlans.insert(from, to, 0)?;
            } else {
                removed(self.vlans.remove(&from))?;
            }
        }
        Ok(())
    }
}
