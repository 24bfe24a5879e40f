//! The flows that a pipeline knows, for the pipeline of the process that comes after it.
//!
//! ```text
//!   Pipeline ──hand_over──► Tables ──(a socket)──► take_over──► Pipeline
//! ```
//! All else that a pipeline knows, the overlay tells the next one as it told this one. A handed flow
//! begins its idle time anew.

use std::net::IpAddr;

use pias_protocol::{flow::FlowRecord, ids::ProxyId, time::Time};

use super::Pipeline;
use crate::{
    flow::ingress::PinRecord,
    slots::Handle,
    table::Place,
    xdp::kept::{Former, FormerTarget},
};

/// The flows that a pipeline knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The flows translated here, those that dead mates began among them.
    pub flows: Vec<FlowRecord>,
    /// The flows that live mates translate, and which mate does.
    pub standby: Vec<(ProxyId, FlowRecord)>,
    /// The flows that enter here, and go to another proxy.
    pub pins: Vec<PinRecord>,
    /// Mates that are being handed back their flows, and their NAT addresses.
    pub returns: Vec<(ProxyId, Vec<IpAddr>)>,
}

/// What the process has that another one's flows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has {
    /// Tables of its own.
    Nothing,
    /// The very tables of the other one, with all flows that are pinned or translated there.
    Tables,
}

/// How many flows were taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Flows translated here.
    pub flows: usize,
    /// Flows held for mates.
    pub standby: usize,
    /// Flows pinned here.
    pub pins: usize,
    /// Flows of any kind that were not: another one has their place, their JAP is gone, or there is
    /// no room.
    pub lost: usize,
}

impl Pipeline {
    /// All flows that are known now; for a process that has the very tables of this one, those beside them.
    #[must_use]
    pub fn hand_over(&self, has: Has) -> Tables {
        let mut tables = self.flows_beside();
        if has == Has::Nothing {
            let id = |peer| self.table.peer(peer).map(|peer| peer.id);
            let (mut translated, _) = self.nat.records(0, usize::MAX, |_| true, id);
            translated.append(&mut tables.flows);
            tables.flows = translated;
            let jap = |peer: Handle| match self.table.heir_of(peer) {
                Some(Place::Join(heir)) => id(heir),
                _ => id(peer),
            };
            tables.pins = self.pins.records(jap).collect();
        }
        tables
    }

    /// What is known of flows that mates translate, or translated.
    fn flows_beside(&self) -> Tables {
        let (mut flows, mut standby) = (Vec::new(), Vec::new());
        for held in self.standby.iter() {
            match self.standby.holder(held, |id| self.table.stand_in(id)) {
                Some(holder) if holder != self.config.self_id => {
                    standby.push((holder, held.record));
                }
                // Its turn to be gone on with comes in a moment.
                _ => flows.push(held.record),
            }
        }
        let returns = self.returns.iter().map(|back| (back.to, back.nat.clone())).collect();
        Tables { flows, standby, pins: Vec::new(), returns }
    }

    /// Goes on with the flows that another pipeline of this proxy knew. It has been told of proxies
    /// and targets before.
    pub fn take_over(&mut self, tables: Tables, now: Time) -> Adopted {
        let mut adopted = Adopted::default();
        let mut tally = |taken, kind: fn(&mut Adopted) -> &mut usize| {
            *if taken { kind(&mut adopted) } else { &mut adopted.lost } += 1;
        };
        for record in &tables.flows {
            tally(self.go_on_with(record, now), |adopted| &mut adopted.flows);
        }
        for (of, record) in tables.standby {
            tally(self.standby.hold(of, record, now), |adopted| &mut adopted.standby);
        }
        for record in &tables.pins {
            let peer = self.table.peer_of(record.proxy);
            let evicted = peer.is_none_or(|peer| self.pins.pin(&record.pinned(peer, now)));
            tally(!evicted, |adopted| &mut adopted.pins);
        }
        for (to, nat) in tables.returns {
            self.hand_back(to, nat);
        }
        adopted
    }

    /// The proxies and targets that flows in the tables are named by, which another process knew. To be called
    /// before this one is told of any.
    pub fn recall(&mut self, peers: &[Former], targets: &[FormerTarget]) {
        peers.iter().for_each(|peer| self.table.restore_peer(peer));
        targets.iter().for_each(|target| self.table.reserve_target(target));
    }

    /// Goes on with the flows of another process that are in the tables, by the targets that are registered
    /// here by now. XDP may begin more as that process did, until [`Self::settle`].
    pub fn go_on(&mut self) {
        self.table.release_targets();
        if self.succeeds {
            let table = &self.table;
            self.nat.go_on(|group, address| table.target_at(group, address));
        }
    }

    /// Another process may go on with the flows in the tables: if this one does after all, it is as if it
    /// came after that one.
    pub fn lend(&mut self) {
        self.succeeds = true;
    }

    /// The program of the other process has ended: no more of its flows come.
    pub fn settle(&mut self) {
        self.go_on();
        self.succeeds = false;
    }

    /// Whether there was room and no other flow in its place, or it is in the tables already.
    fn go_on_with(&mut self, record: &FlowRecord, now: Time) -> bool {
        let known = self.nat.forward(&record.key).and_then(|flow| self.nat.get(flow));
        if known.is_some_and(|known| (known.address, known.nat) == (record.target, record.nat)) {
            return true;
        }
        let flow = match self.adopt(record, now) {
            Ok(flow) => flow,
            Err(reason) => {
                self.counters.count_drop(reason);
                None
            }
        };
        let own = self.config.nat.contains(&record.nat.ip());
        if let Some(flow) = flow.filter(|_| own)
            && self.nat.get(flow).is_some_and(|flow| flow.target != Handle::NONE)
        {
            // With its target it ends here, unless that was registered elsewhere already.
            self.nat.own(flow);
        }
        flow.is_some()
    }
}
