//! Which flows a mate is told of, so that it can go on with them.
//!
//! ```text
//!   established ──► young ──(a second)──┐
//!   changed, or old and just answered ──┼──► told ──► changed ──► told again, or ended
//!   sweep: every flow again in a minute ┘
//! ```
//! While the proxy drains no flow waits for its second: routing takes its packets to the mate.
//! The lists hold handles; what is told is what the flow is by then. What finds a list full is told
//! by the sweep, and what the mate does not hear has ended, it forgets.

use std::collections::VecDeque;

use pias_protocol::{
    flow::FlowRecord,
    hash::FlowKey,
    ids::ProxyId,
    limits::{MAX_FLOWS_PER_MESSAGE, MAX_GONE_PER_MESSAGE},
    time::Time,
};

use super::nat::{Flows, NatFlow};
use crate::{
    limits::{MAX_ENDED, REPLICATED_AFTER, REPLICATED_EVERY, RETOLD_PER_TICK, engine::TICK},
    slots::Handle,
};

/// What the mate has heard of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// Nothing yet.
    Queued,
    /// What it is.
    All,
    /// What it was before a change, which it will hear of.
    Stale,
}

/// Flows to tell the mate of, and flows that have ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// At most [`MAX_FLOWS_PER_MESSAGE`].
    pub records: Vec<FlowRecord>,
    /// At most [`MAX_GONE_PER_MESSAGE`].
    pub ended: Vec<FlowKey>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records.len() >= MAX_FLOWS_PER_MESSAGE || self.ended.len() >= MAX_GONE_PER_MESSAGE
    }
}

/// What is still to be told.
#[derive(Debug)]
pub(super) struct Replica {
    wanted: bool,
    /// Whether flows are told of before they are a second old.
    at_once: bool,
    /// Established flows, and when they are a second older.
    young: VecDeque<(Time, Handle)>,
    changed: VecDeque<Handle>,
    ended: VecDeque<FlowKey>,
    /// Most flows of `young` and `changed` each: as many as the table has.
    limit: usize,
    /// The slot to be told next in turn.
    cursor: usize,
    /// What is left of earlier ticks' turns, in parts of a slot: as many to one as there are turns in a
    /// round.
    owed: usize,
    /// Slots left of this tick's turn.
    turn: usize,
    /// Slots left of a whole round that is told as fast as it may.
    round: usize,
}

impl Replica {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            wanted: false,
            at_once: false,
            young: VecDeque::new(),
            changed: VecDeque::new(),
            ended: VecDeque::new(),
            limit,
            cursor: 0,
            owed: 0,
            turn: 0,
            round: 0,
        }
    }

    /// Whether a mate listens; if so, it shall hear all anew. Whether it hears of young flows, too.
    pub(super) fn want(&mut self, wanted: bool, young: bool, slots: usize) {
        self.wanted = wanted;
        self.at_once = young;
        self.round = if wanted { slots } else { 0 };
        if !wanted {
            self.ended.clear();
        }
    }

    /// Whether a mate is told of such a flow.
    pub(super) fn tells(&self, flow: &NatFlow, now: Time) -> bool {
        self.wanted && worth(flow, self.at_once, now)
    }

    /// A flow is another than the mate has heard: what is to be noted of that, if it is new.
    #[cold]
    pub(super) fn changed(&mut self, handle: Handle, flow: &NatFlow, now: Time) -> Option<Told> {
        if !self.wanted {
            return None;
        }
        let old = self.at_once || flow.is_old(now);
        match flow.told {
            Told::All if self.changed.len() < self.limit => {
                self.changed.push_back(handle);
                Some(Told::Stale)
            }
            Told::Nothing if !flow.is_established() => None,
            Told::Nothing if old && self.changed.len() < self.limit => {
                self.changed.push_back(handle);
                Some(Told::Queued)
            }
            Told::Nothing if !old && self.young.len() < self.limit => {
                // From now on, so that the list is in the order of time.
                self.young.push_back((now + REPLICATED_AFTER, handle));
                Some(Told::Queued)
            }
            _ => None,
        }
    }

    /// A flow has ended.
    pub(super) fn ended(&mut self, flow: &NatFlow) {
        let heard = matches!(flow.told, Told::All | Told::Stale);
        if heard && self.wanted && self.ended.len() < MAX_ENDED {
            self.ended.push_back(flow.key);
        }
    }

    /// A tick begins: another part of the sweep is due.
    pub(super) fn tick(&mut self, slots: usize) {
        let turns = (REPLICATED_EVERY.as_millis() / TICK.as_millis()).max(1) as usize;
        self.owed += slots;
        self.turn = self.owed / turns;
        self.owed %= turns;
        if self.round > 0 {
            self.turn = self.turn.max(RETOLD_PER_TICK).min(self.round);
        }
    }

    /// The next batch of this tick; empty when there is nothing more to tell.
    pub(super) fn next(
        &mut self,
        flows: &Flows,
        now: Time,
        id: impl Fn(Handle) -> Option<ProxyId> + Copy,
    ) -> Batch {
        let mut batch = Batch::default();
        if !self.wanted {
            self.young.clear();
            self.changed.clear();
            return batch;
        }
        while !batch.is_full()
            && let Some(ended) = self.ended.pop_front()
        {
            batch.ended.push(ended);
        }
        while !batch.is_full()
            && let Some(handle) = self.due(now)
        {
            tell(flows, handle, self.at_once, now, id, &mut batch);
        }
        while !batch.is_full() && self.turn > 0 && flows.slots() > 0 {
            self.turn -= 1;
            self.round = self.round.saturating_sub(1);
            self.cursor = (self.cursor + 1) % flows.slots();
            // Those that wait for their second are told then.
            if let Some((handle, flow)) = flows.at(self.cursor)
                && (flow.told != Told::Queued || self.at_once || flow.is_old(now))
            {
                tell(flows, handle, self.at_once, now, id, &mut batch);
            }
        }
        batch
    }

    fn due(&mut self, now: Time) -> Option<Handle> {
        if let Some(&(due, handle)) = self.young.front()
            && (due <= now || self.at_once)
        {
            self.young.pop_front();
            return Some(handle);
        }
        self.changed.pop_front()
    }
}

/// Whether a flow is worth telling of; if `at_once`, however young it is.
fn worth(flow: &NatFlow, at_once: bool, now: Time) -> bool {
    flow.is_established() && (at_once || flow.outlasts(now))
}

/// What has become of a flow; `id` names its ingress.
fn tell(
    flows: &Flows,
    handle: Handle,
    at_once: bool,
    now: Time,
    id: impl Fn(Handle) -> Option<ProxyId>,
    batch: &mut Batch,
) {
    let Some(flow) = flows.get(handle) else { return };
    if worth(&flow, at_once, now) {
        flows.tell(handle, Told::All);
        batch.records.push(flow.record(flow.ingress.and_then(id)));
        return;
    }
    if matches!(flow.told, Told::All | Told::Stale) {
        batch.ended.push(flow.key);
    }
    flows.tell(handle, Told::Nothing);
}
