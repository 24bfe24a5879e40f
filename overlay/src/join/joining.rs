//! How a target becomes a member: its agent's wish, and the answer to it.

use pias_protocol::{
    agent::{Join as Wish, Joined, Refused},
    group::GroupKey,
    ids::TargetId,
    time::Time,
};

use super::{
    Due, Join,
    admission::{JoinError, admit},
    agent::Terms,
    target::{Registered, Service},
};
use crate::{
    effect::AgentId,
    limits::{MAX_TARGETS, MAX_TARGETS_PER_AGENT},
    notice::Notice,
    outbox::Outbox,
    timing::GRANTED_WAIT,
    world::World,
};

impl Join {
    /// A wish to join: grants it, or says why not.
    pub(super) fn wish(
        &mut self,
        id: AgentId,
        wish: &Wish,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let Some(agent) = self.agents.get(&id) else { return };
        let known = self.by_address.get(&(wish.group, wish.target)).copied();
        let admitted = admit(wish, &self.anycast).and_then(|()| match known {
            _ if self.draining => Err(JoinError::Draining),
            Some(target) if agent.targets.contains(&target) => Ok(()),
            _ if agent.targets.len() >= MAX_TARGETS_PER_AGENT => Err(JoinError::ConnectionFull),
            None if self.targets.len() >= MAX_TARGETS => Err(JoinError::ProxyFull),
            _ => Ok(()),
        });
        if let Err(error) = admitted {
            out.counters.joins_refused += 1;
            let (group, agent, why) = (wish.group, agent.link.remote, error.to_string());
            out.notice(Notice::JoinRefused { group, agent, why: why.clone() });
            out.agent(id, Refused { request: wish.request, code: error.code(), reason: why });
            return;
        }
        let target = known.unwrap_or_else(|| self.next_target());
        self.register(target, id, wish, world, now, out);
    }

    pub(super) const fn next_target(&mut self) -> TargetId {
        self.last_target += 1;
        TargetId(self.last_target)
    }

    /// Makes the target a member, or an agent that came back its owner again: the flows of a target
    /// whose agent restarted go on.
    fn register(
        &mut self,
        target: TargetId,
        id: AgentId,
        wish: &Wish,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        let terms = Terms::with(self.targets.len() + 1);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let link = agent.link;
        agent.targets.insert(target);
        agent.terms = terms;
        self.timers.set(Due::Lease(id), agent.lapses());
        let fresh = Registered::new(target, wish.group, wish.target, Some(id), link, now);
        let entry = self.targets.entry(target).or_insert(fresh);
        let former = entry.agent.replace(id);
        let former_link = std::mem::replace(&mut entry.link, link);
        (entry.since, entry.taken) = (now, false);
        entry.weight = wish.weight;
        entry.healthy = wish.healthy;
        entry.leaving = false;
        if entry.service != Service::Answers {
            entry.believe(Service::Answers, now);
        }
        match former {
            Some(former) if former != id => {
                if let Some(former) = self.agents.get_mut(&former) {
                    former.targets.remove(&target);
                }
            }
            Some(_) => {}
            None => self.orphans.remove(former_link, target),
        }
        self.joined.insert(target);
        self.by_address.insert((wish.group, wish.target), target);
        self.timers.cancel(Due::Gone(target));
        out.counters.joins += 1;
        out.notice(Notice::TargetJoined {
            target,
            group: wish.group,
            address: wish.target,
            agent: link.remote,
        });
        let joined = Joined {
            request: wish.request,
            lease: target,
            keep_alive_ms: terms.keep_alive.as_millis() as u32,
            lease_ms: terms.lease.as_millis() as u32,
        };
        self.granted.keep(wish.group, id, joined);
        self.timers.set_by(Due::Granted(wish.group), now + GRANTED_WAIT);
        self.publish(target, world, now, out);
        self.say_granted(wish.group, out);
    }

    /// Tells the agents of a group that they are members, if the RAPs know by now.
    pub(super) fn say_granted(&mut self, group: GroupKey, out: &mut Outbox) {
        if self.reports.known(group) {
            self.timers.cancel(Due::Granted(group));
            self.granted.say(group, out);
        }
    }
}
