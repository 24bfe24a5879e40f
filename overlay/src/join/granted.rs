//! Memberships that are granted, but not yet said to be: a service owner who reads "joined" asks the
//! service next, so the RAPs should know of it by then.
//!
//! ```text
//!   agent ──Join──► JAP ──CountReport──► RAPs
//!         ◄─Joined──    ◄──CountAck────    all but one of them, or half a second later
//! ```

use std::collections::BTreeMap;

use pias_protocol::{agent::Joined, group::GroupKey};

use crate::{effect::AgentId, outbox::Outbox};

/// What agents wait to hear, by group. As many as there are joins under way, so bounded by
/// [`MAX_TARGETS`](crate::limits::MAX_TARGETS).
#[derive(Debug, Default)]
pub(super) struct Granted {
    waiting: BTreeMap<GroupKey, Vec<(AgentId, Joined)>>,
}

impl Granted {
    /// Keeps a word for later. Instead of an earlier one for the same wish, if there is one.
    pub(super) fn keep(&mut self, group: GroupKey, agent: AgentId, joined: Joined) {
        let waiting = self.waiting.entry(group).or_default();
        waiting.retain(|(other, word)| (*other, word.lease) != (agent, joined.lease));
        waiting.push((agent, joined));
    }

    /// Says what waits for a group.
    pub(super) fn say(&mut self, group: GroupKey, out: &mut Outbox) {
        for (agent, joined) in self.waiting.remove(&group).unwrap_or_default() {
            out.agent(agent, joined);
        }
    }

    /// An agent is gone.
    pub(super) fn forget(&mut self, agent: AgentId) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|(other, _)| *other != agent);
            !waiting.is_empty()
        });
    }
}
