//! Flows that are found by either of their sides.
//!
//! ```text
//! forward   (protocol, AC:x, AA:g)     the client's
//! reverse   (protocol, AT:r, JAP:s)    the target's
//! ```

use std::net::SocketAddr;

use hashbrown::HashTable;
use pias_protocol::{group::Protocol, hash::FlowKey};

use super::{elsewhere::Elsewhere, reverse_hash, table_hash};
use crate::slots::{Handle, Slots};

/// What a flow is found by.
pub trait Ends: Copy {
    /// The client's side.
    fn key(&self) -> &FlowKey;
    /// Where the target is.
    fn target(&self) -> SocketAddr;
    /// What the target sees as the source.
    fn nat(&self) -> SocketAddr;
}

/// Flows, each of both sides its own. The user of it bounds how many.
#[derive(Debug)]
pub struct Sides<T> {
    flows: Slots<T>,
    forward: HashTable<Handle>,
    reverse: HashTable<Handle>,
    seed: u64,
    /// Who is told which flows there are.
    told: Option<Elsewhere>,
}

impl<T: Ends> Sides<T> {
    /// None, under hashes of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            flows: Slots::default(),
            forward: HashTable::new(),
            reverse: HashTable::new(),
            seed,
            told: None,
        }
    }

    /// Tells of all flows that are taken in or out from now on.
    pub fn tell(&mut self, told: Elsewhere) {
        self.told = Some(told);
    }

    /// How many flows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flows.count()
    }

    /// The flow of a client's packet.
    #[must_use]
    pub fn forward(&self, key: &FlowKey) -> Option<Handle> {
        let is = |&handle: &Handle| self.flows.get(handle).is_some_and(|flow| flow.key() == key);
        self.forward.find(table_hash(key, self.seed), is).copied()
    }

    /// The flow of a target's packet to a NAT address and port.
    #[must_use]
    pub fn reverse(
        &self,
        protocol: Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        let is = |&handle: &Handle| {
            self.flows.get(handle).is_some_and(|flow| {
                flow.nat() == nat
                    && flow.target() == target
                    && flow.key().group.protocol == protocol
            })
        };
        // Flows that differ in the NAT address alone are few.
        self.reverse.find(reverse_hash(protocol, target, nat.port(), self.seed), is).copied()
    }

    /// A flow, while it lives.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<&T> {
        self.flows.get(handle)
    }

    /// A flow, while it lives; what it is found by must stay.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        self.flows.get_mut(handle)
    }

    /// Takes a flow in, of which neither side has another.
    pub fn insert(&mut self, flow: T) -> Handle {
        if let Some(told) = &self.told {
            told.add(flow.key().hash());
        }
        let handle = self.flows.insert(flow);
        let (flows, seed) = (&self.flows, self.seed);
        self.forward.insert_unique(table_hash(flow.key(), seed), handle, |&other| {
            flows.get(other).map_or(0, |flow| table_hash(flow.key(), seed))
        });
        self.reverse.insert_unique(hash_of(&flow, seed), handle, |&other| {
            flows.get(other).map_or(0, |flow| hash_of(flow, seed))
        });
        handle
    }

    /// Takes a flow out.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let flow = self.flows.remove(handle)?;
        if let Some(told) = &self.told {
            told.remove(flow.key().hash());
        }
        let hash = table_hash(flow.key(), self.seed);
        if let Ok(entry) = self.forward.find_entry(hash, |&other| other == handle) {
            entry.remove();
        }
        let hash = hash_of(&flow, self.seed);
        if let Ok(entry) = self.reverse.find_entry(hash, |&other| other == handle) {
            entry.remove();
        }
        Some(flow)
    }

    /// The flows in up to `slots` slots from the slot `from` on, and the slot to go on with.
    pub fn some(&self, from: usize, slots: usize) -> (impl Iterator<Item = &T>, Option<usize>) {
        let end = from.saturating_add(slots);
        let all = self.flows.slots();
        let flows = (from..end.min(all)).filter_map(|slot| self.flows.at(slot));
        (flows.map(|(_, flow)| flow), (end < all).then_some(end))
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.flows.iter().map(|(_, flow)| flow)
    }

    /// The slots that they are in.
    #[must_use]
    pub const fn as_slots(&self) -> &Slots<T> {
        &self.flows
    }
}

fn hash_of(flow: &impl Ends, seed: u64) -> u64 {
    reverse_hash(flow.key().group.protocol, flow.target(), flow.nat().port(), seed)
}
