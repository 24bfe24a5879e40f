//! Leases inside a cluster: each JAP tells its heir what it holds, so that the heir serves it the
//! moment the JAP dies; and all mates what joined, so that no two hold one lease for long.
//!
//! ```text
//!   join ──changes──► Told ──LeaseReplica──► the heir's Replicas
//!     │                                           │ the JAP dies
//!     └──joins──► Announced ──LeaseTaken──► mates ▼
//!                                              Takeover ──► the heir's join
//! ```
//! What is not told by the time of death (the last 20 ms; all of the dead, where it died together
//! with its heir) is left to the agents: they notice by their keep-alives, as after the loss of a
//! whole cluster.

mod announced;
mod replicas;
mod takeover;
mod told;

use std::collections::BTreeMap;

use pias_protocol::{
    group::GroupKey,
    ids::ProxyId,
    overlay::{Lease, LeaseAck, LeaseReplica, LeaseTaken},
    time::Time,
};

use self::{announced::Announced, replicas::Replicas, takeover::Takeover, told::Told};
use crate::{
    join::Join,
    notice::Notice,
    outbox::Outbox,
    random::Random,
    timing::{MATE_MEMORY, ORPHAN_MIN},
    world::World,
};

/// The leases that this proxy tells, and those that it was told.
#[derive(Debug)]
pub(crate) struct Leases {
    told: Told,
    announced: Announced,
    replicas: Replicas,
    takeover: Takeover,
    /// Mates that died, and when: what joined here since, they do not know.
    dead: BTreeMap<ProxyId, Time>,
}

impl Leases {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            told: Told::new(random),
            announced: Announced::default(),
            replicas: Replicas::default(),
            takeover: Takeover::default(),
            dead: BTreeMap::new(),
        }
    }

    /// Looks what changed of this proxy's own targets.
    pub(crate) fn follow(&mut self, join: &mut Join, now: Time) {
        if let Some((changed, joined)) = join.take_news() {
            self.told.changed(changed, now);
            self.announced.joined(joined, now);
        }
    }

    /// Mates came or went: maybe there is another heir.
    pub(crate) fn mates_changed(&mut self, join: &Join, world: &World, now: Time) {
        self.told.heir_is(world.heir(world.own), join, now);
        self.replicas.keep(|mate| world.heir(mate) == Some(world.own));
    }

    /// A mate is here (again): what it does not know yet, it is told.
    pub(crate) fn up(&mut self, mate: ProxyId, join: &Join, now: Time) {
        if let Some(died) = self.dead.remove(&mate) {
            self.announced.missed(mate, join.joined_within(now - died, now), now);
        }
    }

    /// A mate died. Whether this proxy is its heir, and serves its targets from now on.
    pub(crate) fn gone(
        &mut self,
        mate: ProxyId,
        heir: Option<ProxyId>,
        join: &mut Join,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        self.dead.retain(|_, &mut died| now - died < MATE_MEMORY);
        self.dead.insert(mate, now);
        self.announced.gone(mate);
        self.told.gone(mate);
        let leases = self.replicas.take(mate);
        if heir != Some(world.own) || leases.is_empty() {
            return;
        }
        let (name, targets) = (world.name(mate), leases.len());
        out.notice(Notice::Inherited { name, targets });
        self.takeover.begin(leases, |group| join.serves(group), now);
        self.takeover.tick(join, world, now, out);
    }

    /// A packet came for a group: if its leases are still to be taken over, they are now. Whether
    /// there were any.
    pub(crate) fn wanted(
        &mut self,
        group: GroupKey,
        join: &mut Join,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) -> bool {
        self.takeover.wanted(group, join, world, now, out)
    }

    /// A mate tells its leases.
    pub(crate) fn replica(
        &mut self,
        from: ProxyId,
        message: LeaseReplica,
        world: &World,
        out: &mut Outbox,
    ) {
        if world.members.cluster(from) != Some(world.cluster) {
            out.counters.strangers += 1;
            return;
        }
        let (epoch, sequence) = (message.epoch, message.sequence);
        let known = self.replicas.update(from, message, out);
        out.send(from, LeaseAck { epoch, sequence, known });
    }

    /// The heir heard.
    pub(crate) fn acknowledged(&mut self, from: ProxyId, ack: &LeaseAck, join: &Join, now: Time) {
        self.told.acknowledged(from, ack, join, now);
    }

    /// A mate has leases that may be here.
    pub(crate) fn taken(
        &mut self,
        from: ProxyId,
        message: &LeaseTaken,
        join: &mut Join,
        world: &World,
        now: Time,
        out: &mut Outbox,
    ) {
        if world.members.cluster(from) != Some(world.cluster) {
            out.counters.strangers += 1;
            return;
        }
        for &(group, target) in &message.leases {
            self.replicas.taken(from, group, target);
            self.takeover.taken(group, target);
            join.taken(group, target, now, out);
        }
    }

    /// What was said to a proxy may be lost: nobody acknowledges what joined, so a mate hears that again.
    pub(crate) fn undelivered(&mut self, proxy: ProxyId, join: &Join, world: &World, now: Time) {
        self.told.undelivered(proxy, now);
        if world.is_mate(proxy) {
            self.announced.missed(proxy, join.joined_within(ORPHAN_MIN, now), now);
        }
    }

    /// What mates told, and what is left to be taken over of dead ones.
    pub(crate) fn hand_over(&self) -> (Vec<(ProxyId, LeaseReplica)>, Vec<Lease>) {
        (self.replicas.batches(), self.takeover.rest().cloned().collect())
    }

    /// Goes on with what the process before was told. Whoever is `dead` does not know what joins here
    /// from now on.
    pub(crate) fn restore(
        &mut self,
        replicas: Vec<(ProxyId, LeaseReplica)>,
        inherited: Vec<Lease>,
        dead: impl Iterator<Item = ProxyId>,
        join: &Join,
        now: Time,
        out: &mut Outbox,
    ) {
        self.dead = dead.map(|mate| (mate, now)).collect();
        for (mate, batch) in replicas {
            self.replicas.update(mate, batch, out);
        }
        if !inherited.is_empty() {
            self.takeover.begin(inherited, |group| join.serves(group), now);
        }
    }

    /// When [`Leases::tick`] is due.
    pub(crate) fn next(&self) -> Option<Time> {
        let times = [self.told.next(), self.announced.next(), self.takeover.next()];
        times.into_iter().flatten().min()
    }

    pub(crate) fn tick(&mut self, join: &mut Join, world: &World, now: Time, out: &mut Outbox) {
        self.takeover.tick(join, world, now, out);
        self.told.tick(join, now, out);
        self.announced.tick(join, world, now, out);
    }
}
