//! Flows that enter here, pinned to their JAP.
//!
//! The table is a cache: a flow that is lost from it is placed by its hash, which gives the same
//! JAP while the group's list stays the same.

use hashbrown::HashTable;
use pias_protocol::{
    hash::{FlowHash, FlowKey},
    ids::ProxyId,
    time::Time,
};
use serde::{Deserialize, Serialize};

use super::{Dice, Phase, Sweep, expired, table_hash};
use crate::{
    slots::{Handle, Slots},
    wire::tcp,
};

/// A flow and its JAP.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// The flow.
    pub key: FlowKey,
    /// Its hash on the wire, which chooses the tunnel's source port.
    pub hash: FlowHash,
    /// Its JAP, a peer.
    pub peer: Handle,
    /// How far it has come, as far as one direction tells: a flow of one packet may be forged, and
    /// is never open.
    pub phase: Phase,
    /// When it began here.
    pub created: Time,
    /// When its last packet came.
    pub last: Time,
}

impl Pinned {
    /// A packet with these TCP flags came.
    pub fn touch(&mut self, flags: u8, now: Time) {
        self.last = now;
        if self.phase == Phase::Datagrams {
            return;
        }
        if flags & (tcp::FIN | tcp::RST) != 0 {
            self.phase = Phase::Closing;
        } else if flags & tcp::SYN != 0 {
            self.phase = Phase::Opening;
        } else if self.phase == Phase::Opening {
            self.phase = Phase::Open;
        }
    }
}

/// A pinned flow as another process is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The flow.
    pub key: FlowKey,
    /// Its JAP.
    pub proxy: ProxyId,
    /// How far it has come.
    pub phase: Phase,
}

impl PinRecord {
    /// The flow, with its JAP's handle here.
    #[must_use]
    pub fn pinned(&self, peer: Handle, now: Time) -> Pinned {
        let &Self { key, phase, .. } = self;
        Pinned { key, hash: key.hash(), peer, phase, created: now, last: now }
    }
}

/// The pinned flows of one ingress.
#[derive(Debug)]
pub struct IngressTable {
    flows: Slots<Pinned>,
    index: HashTable<Handle>,
    limit: usize,
    seed: u64,
    dice: Dice,
    sweep: Sweep,
}

impl IngressTable {
    /// A table of at most `limit` flows.
    #[must_use]
    pub fn new(limit: usize, seed: u64) -> Self {
        Self {
            flows: Slots::default(),
            index: HashTable::new(),
            limit,
            seed,
            dice: Dice::new(seed),
            sweep: Sweep::default(),
        }
    }

    /// How many flows are pinned.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flows.count()
    }

    /// A flow's pin.
    #[must_use]
    pub fn get(&self, key: &FlowKey) -> Option<&Pinned> {
        let hash = table_hash(key, self.seed);
        let handle = self.index.find(hash, |&handle| self.is(handle, key))?;
        self.flows.get(*handle)
    }

    /// A flow's pin, to be touched.
    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut Pinned> {
        let hash = table_hash(key, self.seed);
        let handle = *self.index.find(hash, |&handle| self.is(handle, key))?;
        self.flows.get_mut(handle)
    }

    fn is(&self, handle: Handle, key: &FlowKey) -> bool {
        self.flows.get(handle).is_some_and(|flow| flow.key == *key)
    }

    /// Pins a flow, or moves its pin. `true` if another flow had to go for it.
    pub fn pin(&mut self, new: Pinned) -> bool {
        if let Some(known) = self.get_mut(&new.key) {
            known.peer = new.peer;
            known.last = new.last;
            return false;
        }
        let full = self.flows.count() >= self.limit;
        if full {
            self.evict(new.last);
        }
        let hash = table_hash(&new.key, self.seed);
        let handle = self.flows.insert(new);
        let (flows, seed) = (&self.flows, self.seed);
        self.index.insert_unique(hash, handle, |&other| {
            flows.get(other).map_or(0, |flow| table_hash(&flow.key, seed))
        });
        full
    }

    /// Forgets a flow.
    pub fn remove(&mut self, key: &FlowKey) {
        let hash = table_hash(key, self.seed);
        let flows = &self.flows;
        let is = |handle: &Handle| flows.get(*handle).is_some_and(|flow| flow.key == *key);
        if let Ok(entry) = self.index.find_entry(hash, is) {
            let (handle, _) = entry.remove();
            self.flows.remove(handle);
        }
    }

    /// Of a few flows the one that will be missed least: closing or opening before others, then
    /// the longest idle.
    fn evict(&mut self, now: Time) {
        let victim = self.dice.sample(&self.flows).max_by_key(|(_, flow)| {
            let transitory = matches!(flow.phase, Phase::Opening | Phase::Closing);
            (transitory, now.since(flow.last))
        });
        if let Some((_, &Pinned { key, .. })) = victim {
            self.remove(&key);
        }
    }

    /// Forgets flows that have outlived their phase, a bounded number of slots at a time.
    pub fn age(&mut self, now: Time) {
        for old in self.sweep.next(&self.flows, |flow| expired(flow.phase, flow.last, now)) {
            if let Some(&Pinned { key, .. }) = self.flows.get(old) {
                self.remove(&key);
            }
        }
    }

    /// All pinned flows, but those whose JAP `id` does not name.
    pub fn records(
        &self,
        id: impl Fn(Handle) -> Option<ProxyId>,
    ) -> impl Iterator<Item = PinRecord> {
        let record = move |&Pinned { key, peer, phase, .. }: &Pinned| {
            Some(PinRecord { key, proxy: id(peer)?, phase })
        };
        self.iter().filter_map(record)
    }

    /// All pinned flows.
    pub fn iter(&self) -> impl Iterator<Item = &Pinned> {
        self.flows.iter().map(|(_, flow)| flow)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pinned(port: u16, phase: Phase, last: Time) -> Pinned {
        let key = FlowKey {
            client: std::net::SocketAddr::new("192.0.2.1".parse().unwrap(), port),
            group: "203.0.113.1:80/tcp".parse().unwrap(),
        };
        let peer = Slots::default().insert(());
        Pinned { key, hash: key.hash(), peer, phase, created: last, last }
    }

    #[test]
    fn a_full_table_gives_up_what_never_opened() {
        let mut table = IngressTable::new(8, 1);
        let start = Time::from_micros(1);
        for port in 1..8 {
            assert!(!table.pin(pinned(port, Phase::Open, start)));
        }
        for port in 100..200 {
            table.pin(pinned(port, Phase::Opening, start + Duration::from_secs(1)));
        }
        assert_eq!(table.count(), 8);
        assert!((1..8).all(|port| table.get(&pinned(port, Phase::Open, start).key).is_some()));
    }

    #[test]
    fn flows_go_when_their_phase_is_over() {
        let mut table = IngressTable::new(8, 1);
        let start = Time::from_micros(1);
        table.pin(pinned(1, Phase::Open, start));
        table.pin(pinned(2, Phase::Opening, start));
        table.age(start + TCP_OPENING_AND_MORE);
        assert_eq!(table.count(), 1);
        table.age(start + Duration::from_secs(3 * 3600));
        assert_eq!(table.count(), 0);
    }

    const TCP_OPENING_AND_MORE: Duration = Duration::from_secs(31);
}
