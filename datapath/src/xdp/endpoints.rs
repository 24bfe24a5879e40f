//! By what the programs know who sent a packet in the tunnel, kept equal to the forwarding table.

use std::{collections::HashMap as Known, net::IpAddr};

use aya::maps::{HashMap, MapData};
use pias_protocol::{hash::mapped, ids::ProxyId};

use super::tables::{WriteError, removed};
use crate::table::Table;

/// The tunnel endpoints of live proxies, and their handles.
pub(super) struct Endpoints {
    handles: HashMap<MapData, [u8; 16], u64>,
    /// What the programs were told.
    told: Known<ProxyId, IpAddr>,
}

impl Endpoints {
    pub(super) fn new(handles: HashMap<MapData, [u8; 16], u64>) -> Self {
        Self { handles, told: Known::new() }
    }

    /// Makes what stands of a proxy equal to the forwarding table again.
    pub(super) fn follow(&mut self, id: ProxyId, table: &Table) -> Result<(), WriteError> {
        let now = table.peer_of(id).and_then(|handle| Some(table.peer(handle)?.tunnel));
        let before = match now {
            Some(endpoint) => self.told.insert(id, endpoint),
            None => self.told.remove(&id),
        };
        // Two proxies may have had one address, one after the other.
        for endpoint in before.into_iter().chain(now) {
            let key = mapped(endpoint);
            match table.peer_at(endpoint) {
                Some(handle) => self.handles.insert(key, handle.to_bits(), 0)?,
                None => {
                    removed(self.handles.remove(&key))?;
                }
            }
        }
        Ok(())
    }
}
