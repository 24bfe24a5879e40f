//! What flows show of the health of targets, without asking them.

use std::collections::VecDeque;

use pias_protocol::{forwarding::ForwardingEvent, time::Time};

use crate::{
    flow::nat::NatTable,
    limits::{ANSWER_WITHIN, MAX_WATCHED, PAIR_WITHIN, SILENT_AFTER},
    slots::Handle,
    table::Table,
};

/// New flows that wait for their first answer, oldest first.
#[derive(Debug, Default)]
pub struct Watch {
    flows: VecDeque<(Time, Handle)>,
}

impl Watch {
    /// Watches a new flow.
    pub fn watch(&mut self, flow: Handle, now: Time) {
        if self.flows.len() < MAX_WATCHED {
            self.flows.push_back((now + ANSWER_WITHIN, flow));
        }
    }

    /// The next watched flow whose time is over.
    pub fn due(&mut self, now: Time) -> Option<Handle> {
        let &(deadline, flow) = self.flows.front()?;
        if now < deadline {
            return None;
        }
        self.flows.pop_front();
        Some(flow)
    }
}

/// The client sent again: its flow stays unanswered, unless the packet is the twin of the first.
pub fn client_sent_again(
    nat: &mut NatTable,
    table: &mut Table,
    flow: Handle,
    now: Time,
) -> Option<ForwardingEvent> {
    let known = nat.get(flow)?;
    if known.answered || known.judged || known.created.age(now) < PAIR_WITHIN {
        return None;
    }
    unanswered(nat, table, flow, now)
}

/// A flow has stayed unanswered.
pub fn unanswered(
    nat: &mut NatTable,
    table: &mut Table,
    flow: Handle,
    now: Time,
) -> Option<ForwardingEvent> {
    let known = nat.get(flow)?;
    if !nat.judge(flow) {
        return None;
    }
    let entry = table.target_mut(known.target)?;
    entry.unanswered = entry.unanswered.saturating_add(1);
    if entry.unanswered < SILENT_AFTER || !entry.silent.allow(now) {
        return None;
    }
    entry.reported = true;
    Some(ForwardingEvent::TargetSilent { target: entry.target.id, unanswered: entry.unanswered })
}

/// A target answered a new flow, other than with a refusal.
pub fn answered(table: &mut Table, target: Handle) -> Option<ForwardingEvent> {
    let entry = table.target_mut(target)?;
    entry.unanswered = 0;
    std::mem::take(&mut entry.reported).then_some(ForwardingEvent::TargetAnswers(entry.target.id))
}

/// A target, or a router on the way to it, refused a flow.
pub fn refused(table: &mut Table, target: Handle, now: Time) -> Option<ForwardingEvent> {
    let entry = table.target_mut(target)?;
    if !entry.refuses.allow(now) {
        return None;
    }
    entry.reported = true;
    Some(ForwardingEvent::TargetRefuses(entry.target.id))
}

/// A new flow was placed on a target.
pub fn used(table: &mut Table, target: Handle, now: Time) -> Option<ForwardingEvent> {
    let entry = table.target_mut(target)?;
    entry.used.allow(now).then_some(ForwardingEvent::TargetUsed(entry.target.id))
}
