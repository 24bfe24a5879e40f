//! Flows that mates translate, held to go on with them when their proxy is gone.
//!
//! A flow is *orphaned* when its proxy is gone, or was gone after it told of the flow: then its
//! proxy, though it may be back, does not know the flow any more. The heir goes on with it: of those
//! that hold it, that is one alone, since the proxy may have told another before.

use std::net::SocketAddr;

use hashbrown::HashMap;
use pias_protocol::{flow::FlowRecord, group::Protocol, hash::FlowKey, ids::ProxyId, time::Time};

use super::{
    elsewhere::Elsewhere,
    sides::{Ends, Sides},
};
use crate::{
    limits::{AGED_PER_TICK, STANDBY_FOR, TCP_IDLE},
    slots::Handle,
};

/// A mate's flow.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The flow.
    pub record: FlowRecord,
    /// Whose it is.
    pub of: ProxyId,
    /// When that last told of it.
    pub told: Time,
}

impl Ends for Held {
    fn key(&self) -> &FlowKey {
        &self.record.key
    }

    fn target(&self) -> SocketAddr {
        self.record.target
    }

    fn nat(&self) -> SocketAddr {
        self.record.nat
    }
}

/// A mate that has flows here.
#[derive(Debug, Default)]
struct Owner {
    flows: usize,
    /// When it was last gone, and who was its heir then.
    gone: Option<(Time, ProxyId)>,
}

/// The flows of mates.
#[derive(Debug)]
pub struct Standby {
    flows: Sides<Held>,
    owners: HashMap<ProxyId, Owner>,
    limit: usize,
    cursor: usize,
}

impl Standby {
    /// A table of at most `limit` flows.
    #[must_use]
    pub fn new(limit: usize, seed: u64) -> Self {
        Self { flows: Sides::new(seed), owners: HashMap::new(), limit, cursor: 0 }
    }

    /// Tells XDP of all flows that are held, or no more, from now on.
    pub fn tell(&mut self, told: Elsewhere) {
        self.flows.tell(told);
    }

    /// How many flows are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flows.count()
    }

    /// Holds a flow of the mate `of`, in place of what was told of it before. `false` where there
    /// is no room.
    pub fn hold(&mut self, of: ProxyId, record: FlowRecord, now: Time) -> bool {
        // A client's port and a target's have one flow at a time: what they had before is over.
        let before = [self.forward(&record.key), self.reverse_of(&record)];
        for handle in before.into_iter().flatten() {
            self.remove(handle);
        }
        if self.flows.count() >= self.limit {
            return false;
        }
        self.flows.insert(Held { record, of, told: now });
        self.owners.entry(of).or_default().flows += 1;
        true
    }

    /// A mate's flow has ended.
    pub fn end(&mut self, of: ProxyId, key: &FlowKey) {
        if let Some(handle) = self.forward(key)
            && self.flows.get(handle).is_some_and(|held| held.of == of)
        {
            self.remove(handle);
        }
    }

    /// A mate is gone, now or for a moment: what it told until now it does not know any more, and its
    /// heir goes on with. Returns whether anything is held for it.
    pub fn gone(&mut self, of: ProxyId, heir: ProxyId, now: Time) -> bool {
        let owner = self.owners.get_mut(&of);
        owner.map(|owner| owner.gone = Some((now, heir))).is_some()
    }

    /// The flow of a client's packet.
    #[must_use]
    pub fn forward(&self, key: &FlowKey) -> Option<Handle> {
        if self.flows.count() == 0 { None } else { self.flows.forward(key) }
    }

    /// The flow of a target's packet to a NAT address and port.
    #[must_use]
    pub fn reverse(
        &self,
        protocol: Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        self.flows.reverse(protocol, target, nat)
    }

    fn reverse_of(&self, record: &FlowRecord) -> Option<Handle> {
        self.reverse(record.key.group.protocol, record.target, record.nat)
    }

    /// A flow, while it is held.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<&Held> {
        self.flows.get(handle)
    }

    /// Who has a flow: its proxy, or of an orphan who goes on with it. `stand_in` names for each
    /// proxy that itself while it lives, else who stands in for it.
    pub fn holder(
        &self,
        held: &Held,
        stand_in: impl Fn(ProxyId) -> Option<ProxyId>,
    ) -> Option<ProxyId> {
        match self.owners.get(&held.of).and_then(|owner| owner.gone) {
            Some((gone, heir)) if held.told <= gone => stand_in(heir),
            _ => stand_in(held.of),
        }
    }

    /// Holds a flow no longer.
    pub fn remove(&mut self, handle: Handle) -> Option<Held> {
        let held = self.flows.remove(handle)?;
        if let Some(owner) = self.owners.get_mut(&held.of) {
            owner.flows -= 1;
            if owner.flows == 0 {
                self.owners.remove(&held.of);
            }
        }
        Some(held)
    }

    /// Forgets what has not been told of for long, in a bounded number of slots at a time; the
    /// flows among them that are `ours` to go on with.
    pub fn age(&mut self, now: Time, ours: impl Fn(&Self, &Held) -> bool) -> Vec<Handle> {
        let slots = self.flows.as_slots().slots();
        let (mut old, mut inherited) = (Vec::new(), Vec::new());
        for _ in 0..AGED_PER_TICK.min(slots) {
            self.cursor = (self.cursor + 1) % slots;
            let Some((handle, held)) = self.flows.as_slots().at(self.cursor) else { continue };
            let ours = ours(self, held);
            // Nobody tells of those any more.
            let patience = if ours { TCP_IDLE } else { STANDBY_FOR };
            if now.since(held.told) >= patience {
                old.push(handle);
            } else if ours {
                inherited.push(handle);
            }
        }
        for handle in old {
            self.remove(handle);
        }
        inherited
    }

    /// The records in up to `slots` slots from the slot `from` on that are `wanted`, and the slot to
    /// go on with.
    #[must_use]
    pub fn records(
        &self,
        from: usize,
        slots: usize,
        wanted: impl Fn(&Held) -> bool,
    ) -> (Vec<FlowRecord>, Option<usize>) {
        let (held, rest) = self.flows.some(from, slots);
        (held.filter(|held| wanted(held)).map(|held| held.record).collect(), rest)
    }

    /// All flows that are held.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.flows.iter()
    }
}
