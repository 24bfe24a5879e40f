//! How a target ends: it leaves and its flows have some time, it goes to another proxy and its flows
//! have all the time they like, or it is gone and they are reset.

use pias_protocol::{forwarding::ForwardingUpdate, ids::TargetId, overlay::AgentLink, time::Time};

use super::{Due, Join};
use crate::{
    effect::AgentId,
    notice::Notice,
    outbox::Outbox,
    timing::{LEAVING, MOVED},
    world::World,
};

impl Join {
    /// A target leaves: no new flows; the agent may close, its flows have some time.
    pub(super) fn leave(
        &mut self,
        id: TargetId,
        why: &'static str,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        (target.leaving, target.probing) = (true, None);
        let (agent, link) = (target.agent, target.link);
        self.let_go(id, agent, link);
        let Some(target) = self.targets.get(&id) else { return };
        self.timers.cancel(Due::Probe(id));
        self.timers.set(Due::Gone(id), now + LEAVING);
        let (group, address) = (target.group, target.address);
        out.notice(Notice::TargetGone { target: id, group, address, why });
        self.publish(id, world, now, out);
    }

    /// A target leaves for another proxy: its flows stay for as long as they like.
    fn move_away(
        &mut self,
        id: TargetId,
        why: &'static str,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        self.leave(id, why, world, now, out);
        self.timers.set(Due::Gone(id), now + MOVED);
    }

    /// A target is its agent's no more, nor one that waits for its agent.
    fn let_go(&mut self, id: TargetId, agent: Option<AgentId>, link: AgentLink) {
        match agent {
            Some(agent) => {
                if let Some(agent) = self.agents.get_mut(&agent) {
                    agent.targets.remove(&id);
                }
            }
            None => self.orphans.remove(link, id),
        }
    }

    /// The flows of a target that left had their time; or the agent of an inherited one did not come:
    /// that is at another proxy, as far as anybody can tell.
    pub(super) fn time_is_over(
        &mut self,
        id: TargetId,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.get(&id) else { return };
        if target.leaving {
            self.remove(id, "it left long ago", world, now, out);
        } else if target.taken {
            self.move_away(id, "it joined at another proxy", world, now, out);
        } else {
            self.move_away(id, "its agent did not come back", world, now, out);
        }
    }

    /// A target is no more.
    fn remove(
        &mut self,
        id: TargetId,
        why: &'static str,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(target) = self.targets.remove(&id) else { return };
        self.by_address.remove(&(target.group, target.address));
        self.let_go(id, target.agent, target.link);
        self.changed.insert(id);
        self.joined.remove(&id);
        for due in [Due::Probe(id), Due::Gone(id)] {
            self.timers.cancel(due);
        }
        out.forward(ForwardingUpdate::TargetGone(id));
        if !target.leaving {
            let (group, address) = (target.group, target.address);
            out.notice(Notice::TargetGone { target: id, group, address, why });
        }
        self.count(target.group, world, now, out);
    }

    /// Ends an agent's memberships, but for those that it left in good order. Flows may go on until
    /// `until`.
    pub(super) fn drop_agent(
        &mut self,
        id: AgentId,
        why: &'static str,
        until: Time,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(agent) = self.agents.remove(&id) else { return };
        if self.by_remote.get(&agent.link.remote) == Some(&id) {
            self.by_remote.remove(&agent.link.remote);
        }
        let suspect = self.suspects.lives(id);
        for due in [Due::Lease(id), Due::Ping(id)] {
            self.timers.cancel(due);
        }
        self.granted.forget(id);
        for target in agent.targets {
            if self.targets.get(&target).is_some_and(|target| target.taken) {
                self.move_away(target, "it joined at another proxy", world, now, out);
            } else if suspect {
                let why = "its agent went elsewhere while this proxy was away";
                self.move_away(target, why, world, now, out);
            } else if until > now {
                self.leave(target, why, world, now, out);
                self.timers.set(Due::Gone(target), until);
            } else {
                self.remove(target, why, world, now, out);
            }
        }
    }
}
