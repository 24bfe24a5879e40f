//! Translated flows in shared memory, found by either of their sides.

use std::{hint::spin_loop, net::SocketAddr};

use pias_protocol::{
    group::{GroupKey, Protocol},
    hash::{FlowHash, FlowKey},
    ids::TargetId,
};

use super::{
    NatMemory,
    cells::{Cells, Place, Refused},
    entry::{Ends, Entry, Notes, Written},
    flow::NatFlow,
    meta::Meta,
    room::Room,
};
use crate::{
    flow::{pins::Coarse, replica::Told},
    limits::{EVICTION_LOOK, EVICTION_SAMPLE, NAT_TRIES},
    mapped::Words,
    slots::Handle,
    wire::tcp,
};

/// The entries, and how they are found.
#[derive(Debug)]
pub(in crate::flow) struct Flows {
    entries: Words,
    forward: Cells,
    reverse: Cells,
    pub(super) room: Room,
    /// Odd.
    pub(super) seed: u64,
}

/// A packet that came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent {
    /// From the client, with these TCP flags.
    Client(u8),
    /// From the target, with these.
    Target(u8),
}

impl Flows {
    pub(super) fn on(memory: NatMemory, limit: usize, seed: u64) -> Self {
        let NatMemory { flows, forward, reverse, free, beside } = memory;
        Self {
            entries: flows,
            forward: Cells::new(forward),
            reverse: Cells::new(reverse),
            room: Room::new(free, beside, limit, seed as u32),
            seed: seed | 1,
        }
    }

    /// Slots that are, or were, used.
    pub(in crate::flow) fn slots(&self) -> usize {
        self.room.fresh()
    }

    pub(super) fn entry(&self, slot: usize) -> Option<Entry<'_>> {
        Entry::of(&self.entries, slot)
    }

    /// The flow in a slot.
    pub(in crate::flow) fn at(&self, slot: usize) -> Option<(Handle, NatFlow)> {
        self.entry(slot)?.read()
    }

    /// A flow, while it lives.
    pub(in crate::flow) fn get(&self, handle: Handle) -> Option<NatFlow> {
        let (found, flow) = self.at(slot_of(handle))?;
        (found == handle).then_some(flow)
    }

    /// The flow of a client's packet.
    pub(super) fn of_client(&self, key: &FlowKey, hash: FlowHash) -> Option<Handle> {
        let place = Place::of_client(hash, self.seed);
        self.forward.slots(place).find_map(|slot| self.settled(slot)?.is_of_client(key))
    }

    /// The flow of a target's packet.
    pub(super) fn of_target(
        &self,
        protocol: Protocol,
        target: SocketAddr,
        nat: SocketAddr,
    ) -> Option<Handle> {
        let place = Place::of_target(protocol, target, nat.port(), self.seed);
        let is = |entry: Entry<'_>| entry.is_of_target(protocol, target, nat);
        self.reverse.slots(place).find_map(|slot| is(self.settled(slot)?))
    }

    /// The first flow whose target's side may be this one's, whatever its NAT address is.
    pub(super) fn near(&self, place: Place) -> Option<(Handle, NatFlow)> {
        self.reverse.slots(place).find_map(|slot| self.at(slot))
    }

    /// An entry, after whoever writes it on another processor is done: it takes less than a microsecond.
    fn settled(&self, slot: usize) -> Option<Entry<'_>> {
        let entry = self.entry(slot)?;
        for _ in 0..NAT_TRIES {
            if !entry.meta().is_being_written() {
                break;
            }
            spin_loop();
        }
        Some(entry)
    }

    /// Takes what a packet does into the flow's entry: its meta before and after. `None` where the flow is
    /// gone.
    pub(super) fn hear(&self, handle: Handle, sent: Sent, now: Coarse) -> Option<(Meta, Meta)> {
        let entry = self.entry(slot_of(handle))?;
        for _ in 0..NAT_TRIES {
            let before = entry.meta();
            if entry.handle(before) != handle || before.phase().is_none() {
                return None;
            }
            let (after, flags) = match sent {
                Sent::Client(flags) => (before.client_sent(flags), flags),
                Sent::Target(flags) => (before.target_sent(flags), flags),
            };
            if after != before && !entry.exchange(before, after) {
                continue;
            }
            if after.settled() && !before.settled() {
                self.room.one_less_embryonic();
            }
            // RFC 7857 section 7.1: a reset that only answers the other side keeps nothing alive.
            if before.phase() != Some(crate::flow::Phase::Closing) || flags & tcp::RST == 0 {
                entry.packet_at(now);
            }
            return Some((before, after));
        }
        None
    }

    /// What the mate has heard of a flow.
    pub(in crate::flow) fn tell(&self, handle: Handle, told: Told) {
        self.with(handle, |entry| entry.note(|notes| notes.telling(told)));
    }

    /// Does something with the entry of a flow that lives.
    pub(super) fn with<T>(&self, handle: Handle, act: impl FnOnce(Entry<'_>) -> T) -> Option<T> {
        let entry = self.entry(slot_of(handle))?;
        let meta = entry.meta();
        let lives = entry.handle(meta) == handle && meta.phase().is_some();
        lives.then(|| act(entry))
    }

    /// A slot that nobody uses, claimed: a free one, or that of a flow that is given up. Whether it was.
    pub(super) fn claim_room(
        &self,
        product: u64,
        most_embryonic: usize,
        now: Coarse,
    ) -> Option<(usize, Meta, bool)> {
        let flooded = self.room.embryonic() >= most_embryonic;
        let free = if flooded { None } else { self.room.take() };
        if let Some(slot) = free {
            let entry = self.entry(slot)?;
            return Some((slot, entry.claim(entry.meta())?, false));
        }
        let (slot, claimed) = self.claim_victim(product, flooded, now)?;
        Some((slot, claimed, true))
    }

    /// Claims the entry of the flow of a few that will be missed least; of `embryonic` ones alone, or any
    /// but established TCP flows.
    fn claim_victim(&self, product: u64, embryonic: bool, now: Coarse) -> Option<(usize, Meta)> {
        let used = self.slots();
        let start = (product >> 8) as usize % used.max(1);
        let mut most: Option<((u8, u32), usize)> = None;
        let candidates = (0..EVICTION_LOOK.min(used))
            .map(|step| (start + step) % used)
            .filter_map(|slot| {
                let (_, flow) = self.at(slot)?;
                let missed = flow.expendable(now)?;
                (!embryonic || !flow.settled).then_some((missed, slot))
            })
            .take(EVICTION_SAMPLE);
        for candidate in candidates {
            if most.is_none_or(|(missed, _)| candidate.0 > missed) {
                most = Some(candidate);
            }
        }
        let (_, slot) = most?;
        let (handle, flow) = self.at(slot)?;
        Some((slot, self.end(handle, &flow)?))
    }

    /// Ends a flow; its entry is claimed then. `None` where it is not as it was seen.
    fn end(&self, handle: Handle, flow: &NatFlow) -> Option<Meta> {
        let slot = slot_of(handle);
        let entry = self.entry(slot)?;
        for _ in 0..NAT_TRIES {
            let seen = entry.meta();
            if entry.handle(seen) != handle || seen.phase().is_none() {
                return None;
            }
            if let Some(claimed) = entry.claim(seen) {
                self.unlink(&flow.ends(), slot);
                if !seen.settled() {
                    self.room.one_less_embryonic();
                }
                return Some(claimed);
            }
        }
        None
    }

    fn unlink(&self, ends: &Ends, slot: usize) {
        let [forward, reverse] = ends.places(self.seed);
        self.forward.take_out(forward, slot);
        self.reverse.take_out(reverse, slot);
    }

    /// Ends a flow, and gives its slot back.
    pub(super) fn remove(&self, handle: Handle) -> Option<NatFlow> {
        let flow = self.get(handle)?;
        let claimed = self.end(handle, &flow)?;
        self.give_back(slot_of(handle), claimed);
        Some(flow)
    }

    /// Gives back a slot whose entry is claimed.
    pub(super) fn give_back(&self, slot: usize, claimed: Meta) {
        if let Some(entry) = self.entry(slot) {
            entry.publish(claimed.freed());
            self.room.give(slot);
        }
    }

    /// Gives flows of another process the targets that are `registered` here, and what it had told a mate
    /// of them is forgotten. What that process was writing when it ended is given up.
    pub(super) fn go_on(
        &self,
        registered: impl Fn(&GroupKey, SocketAddr) -> Option<(Handle, TargetId)>,
    ) {
        for slot in 0..self.slots() {
            let Some(entry) = self.settled(slot) else { continue };
            let meta = entry.meta();
            if meta.is_being_written() {
                entry.publish(meta.given_up());
            } else if let Some((_, flow)) = entry.read() {
                let target = registered(&flow.key.group, flow.address);
                let (handle, lease) = target.unwrap_or((Handle::NONE, flow.lease));
                entry.set_target(handle, lease);
                let waits = flow.adopted || target.is_none();
                entry.note(|notes| notes.with(Notes::ADOPTED, waits).telling(Told::Nothing));
            }
        }
    }

    /// Gives back a slot whose flow XDP could not begin.
    pub(super) fn take_back(&self, slot: usize) {
        if let Some(entry) = self.entry(slot)
            && entry.meta().is_returned()
            && let Some(claimed) = entry.claim(entry.meta())
        {
            self.give_back(slot, claimed);
        }
    }

    /// Puts the target's side of a claimed entry where it is found, if the port is `free`: where no flow,
    /// or none of those, is near.
    pub(super) fn put_target(
        &self,
        place: Place,
        slot: usize,
        excludes: impl Fn(usize) -> bool,
    ) -> Result<(), Refused> {
        self.reverse.put(place, slot, excludes)
    }

    /// Whether another flow has this target's side.
    pub(super) fn is_target(&self, slot: usize, ends: &Ends) -> bool {
        let protocol = ends.key.group.protocol;
        self.settled(slot)
            .is_some_and(|entry| entry.is_of_target(protocol, ends.target, ends.nat).is_some())
    }

    /// Begins a flow whose target's side is in place, in a claimed entry that is written. `false`, and all is
    /// taken back, where its client's side has no room, or another flow.
    pub(super) fn begin(&self, slot: usize, claimed: Meta, next: Meta, written: &Written) -> bool {
        let [forward, reverse] = written.ends.places(self.seed);
        let key = &written.ends.key;
        let is_it =
            |other| self.settled(other).is_some_and(|entry| entry.is_of_client(key).is_some());
        let (Some(entry), Ok(())) = (self.entry(slot), self.forward.put(forward, slot, is_it))
        else {
            self.reverse.take_out(reverse, slot);
            self.give_back(slot, claimed);
            return false;
        };
        if !next.settled() {
            self.room.one_more_embryonic();
        }
        entry.publish(next);
        true
    }
}

/// The slot of a handle.
pub(super) const fn slot_of(handle: Handle) -> usize {
    handle.to_bits() as u32 as usize
}
