//! The node: one proxy's brain, wired together.

use std::collections::BTreeMap;

use pias_protocol::{
    agent::AgentMessage,
    forwarding::ForwardingUpdate,
    ids::{ClusterId, ProxyId},
    overlay::{AgentLink, MemberState, OverlayMessage},
    time::Time,
};

use crate::{
    config::NodeConfig,
    effect::{AgentId, Deadline, Effect, Timer},
    flows::Flows,
    ingress::Ingress,
    join::Join,
    leases::Leases,
    limits::MAX_LOOPBACK,
    membership::{MemberEvent, MembersSnapshot, Membership, Shelf},
    notice::Notice,
    outbox::{Outbox, Queued},
    proximity::Distances,
    random::Random,
    rendezvous::Rendezvous,
    ring::Ring,
    timing::{HAND_BACK_WAIT, OWN_PAUSE, READY_CHECK, READY_GRACE, READY_MOST},
    world::World,
};

/// One proxy's brain: fed by `handle_*` and the like, drained by [`Node::poll_effect`] after each.
///
/// ```text
///           driver: piasd, or the simulator
///   handle_message, handle_event, agent_*,      ▲ poll_effect until None
///   peer_unreachable, undelivered,              │ next_timeout
///   handle_timeout, drain                       │
///                      ▼                        │
///                              Node
/// ```
#[derive(Debug)]
pub struct Node {
    pub(crate) world: World,
    pub(crate) rendezvous: Rendezvous,
    pub(crate) ingress: Ingress,
    pub(crate) join: Join,
    pub(crate) leases: Leases,
    /// What this proxy and its cluster had denied when it last looked.
    denials: (u64, u32),
    pub(crate) flows: Flows,
    pub(crate) out: Outbox,
    start: Time,
    /// When to be ready without having heard of anybody; `None` once it was said.
    ready_by: Option<Time>,
    /// When mates that have not handed back its flows are waited for no longer.
    hand_back_by: Option<Time>,
    pub(crate) ready: bool,
}

impl Node {
    /// A node that starts `now`. `seed` feeds the jitter of its timers, and nothing else.
    #[must_use]
    pub fn new(config: NodeConfig, seed: u64, now: Time) -> Self {
        Self::with_members(config, &MembersSnapshot::from_updates(&[]), seed, now)
    }

    /// A node that starts `now` and knows others already. It need not ask for them; what changed
    /// meanwhile it learns as any proxy that was cut off for a while. See also
    /// [`Node::tell_peers`].
    #[must_use]
    pub fn with_members(config: NodeConfig, known: &MembersSnapshot, seed: u64, now: Time) -> Self {
        let mut random = Random::new(seed);
        let mut split = || Random::new(random.next());
        let (own, cluster) = (ProxyId::of(&config.name), ClusterId::of(&config.cluster));
        let members = Membership::with_table(&config, known.table.clone(), split(), now);
        let distances = Distances::new(split(), now);
        let join = Join::new(config.anycast, config.drain_wait, split(), now);
        let leases = Leases::new(split());
        let denials = members.denials();
        let mut ring = Ring::from_points(&known.ring);
        ring.insert(own, cluster);
        Self {
            world: World {
                own,
                cluster,
                members,
                ring,
                distances,
                policies: config.policies,
                heirs: BTreeMap::new(),
            },
            rendezvous: Rendezvous::new(now),
            ingress: Ingress::default(),
            join,
            leases,
            denials,
            flows: Flows::new(config.nat),
            out: Outbox::new(own),
            start: now,
            ready_by: Some(now + READY_GRACE),
            hand_back_by: None,
            ready: false,
        }
    }

    /// What this node knows of all proxies, for another node to start with.
    #[must_use]
    pub fn snapshot(&self) -> MembersSnapshot {
        MembersSnapshot::new(self.world.members.table().clone(), &self.world.ring)
    }

    /// Tells the datapath all live proxies: once, by a driver whose datapath starts anew with a node
    /// that knows others from the start.
    pub fn tell_peers(&mut self) {
        let world = &self.world;
        for (id, _) in world.members.alive().filter(|&(id, _)| id != world.own) {
            if let Some((_, tunnel)) = world.members.contact(id) {
                self.out.forward(ForwardingUpdate::Peer { id, tunnel });
            }
        }
    }

    /// Uses memory that other nodes of this process hold, where theirs is equal to this one's, and
    /// puts its own down for them. It makes no other difference; simulations call it now and then.
    pub fn share(&mut self, shelf: &mut Shelf) {
        self.world.members.share(shelf);
        shelf.ring(&mut self.world.ring);
    }

    /// A message from another proxy, whose certificate proved that it is `from`.
    pub fn handle_message(&mut self, from: ProxyId, message: OverlayMessage, now: Time) {
        if from == self.world.own {
            // Nobody else can prove to be this proxy: two machines were given one name.
            self.out.counters.strangers += 1;
            return;
        }
        self.dispatch(from, message, now);
        self.settle(now);
    }

    /// An agent opened its stream.
    pub fn agent_connected(&mut self, agent: AgentId, link: AgentLink, now: Time) {
        self.join.connected(agent, link, &self.world, now, &mut self.out);
        self.settle(now);
    }

    /// What an agent says.
    pub fn agent_message(&mut self, agent: AgentId, message: AgentMessage, now: Time) {
        self.join.message(agent, message, &self.world, now, &mut self.out);
        self.settle(now);
    }

    /// An agent's connection is closed or lost: its targets are gone, except those that left before
    /// and keep their flows for a while.
    pub fn agent_closed(&mut self, agent: AgentId, now: Time) {
        self.look_at_the_clock(now);
        self.join.closed(agent, &self.world, now, &mut self.out);
        self.settle(now);
    }

    /// A proxy could not be connected to: a hint, upon which its silence is borne for a shorter time.
    pub fn peer_unreachable(&mut self, peer: ProxyId, now: Time) {
        self.world.members.unreachable(peer, now);
    }

    /// What was said to a proxy may not have arrived: the connection to it ended, or another one took
    /// its place. What the proxy has not acknowledged is said again.
    pub fn undelivered(&mut self, peer: ProxyId, now: Time) {
        self.join.undelivered(peer, now);
        self.leases.undelivered(peer, &self.join, &self.world, now);
    }

    /// Does what is due. Call it when [`Node::next_timeout`] has come; calls too early do nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.has_left() {
            return;
        }
        self.look_at_the_clock(now);
        if self.world.members.next() <= now {
            let events = self.world.members.tick(now, &mut self.out);
            self.members_changed(events, now);
        }
        self.world.distances.tick(&mut self.world.members, now);
        self.rendezvous.tick(&self.world, now, &mut self.out);
        self.ingress.tick(&self.world, now, &mut self.out);
        self.join.tick(&self.world, now, &mut self.out);
        self.leases.tick(&mut self.join, &self.world, now, &mut self.out);
        if self.ready_by.is_some_and(|by| now >= by) {
            // Who has just found others waits a little longer for all they know.
            let members = &self.world.members;
            if members.in_touch() && !members.synced() && now - self.start < READY_MOST {
                self.ready_by = Some(now + READY_CHECK);
            } else {
                self.become_ready();
            }
        }
        self.settle(now);
    }

    /// When [`Node::handle_timeout`] should be called next. Who has left has nothing to do, and judges
    /// nobody by a silence that is its own doing.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Deadline> {
        if self.has_left() {
            return None;
        }
        let (targets, reports) = self.join.next();
        let timers = [
            (self.ready_by, Timer::Ready),
            (Some(self.world.members.next()), Timer::Membership),
            (Some(self.world.distances.next()), Timer::Proximity),
            (self.rendezvous.next(), Timer::Rendezvous),
            (self.ingress.next(), Timer::Ingress),
            (targets, Timer::Targets),
            (reports, Timer::Reports),
            (self.leases.next(), Timer::Leases),
        ];
        let set = timers.into_iter().filter_map(|(at, why)| Some(Deadline { at: at?, why }));
        set.min_by_key(|deadline| (deadline.at, deadline.why))
    }

    /// Begins to drain: the routes are withdrawn, agents are told to join elsewhere, joins are
    /// refused, other proxies give this one no new flows.
    pub fn drain(&mut self, now: Time) {
        if self.is_draining() {
            return;
        }
        self.ready_by = None;
        self.ready = false;
        self.out.announce(false);
        self.out.notice(Notice::Draining);
        self.world.members.become_state(MemberState::Draining, now, &mut self.out);
        self.world.ring.remove(self.world.own);
        self.join.drain(&mut self.out);
        self.join.ring_changed(now);
        self.ingress.draining(self.world.own, &mut self.out);
        self.flows.drain(&self.world, &mut self.out);
        self.settle(now);
    }

    /// Says goodbye to the others. The last call before a driver stops: drain the effects once more
    /// and flush the connections.
    pub fn leave(&mut self, now: Time) {
        self.drain(now);
        self.world.members.become_state(MemberState::Left, now, &mut self.out);
    }

    /// The next thing to do, until `None`.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        loop {
            match self.out.pop()? {
                Queued::Effect(effect) => return Some(effect),
                Queued::Message { to, delivery, message } => {
                    if let Some((name, address)) = self.world.members.contact(to) {
                        return Some(Effect::Send { to, name, address, delivery, message });
                    }
                    self.out.counters.unsendable += 1;
                }
            }
        }
    }

    /// Whether it has not announced itself yet.
    pub(crate) const fn is_starting(&self) -> bool {
        self.ready_by.is_some()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.world.members.own().state != MemberState::Up
    }

    fn has_left(&self) -> bool {
        self.world.members.own().state == MemberState::Left
    }

    /// One message, of another proxy or of this one to itself.
    fn dispatch(&mut self, from: ProxyId, message: OverlayMessage, now: Time) {
        let (world, out) = (&mut self.world, &mut self.out);
        match message {
            OverlayMessage::Heartbeat(_)
            | OverlayMessage::HeartbeatAck(_)
            | OverlayMessage::MemberUpdate(_)
            | OverlayMessage::Word(_)
            | OverlayMessage::ClusterWord(_)
            | OverlayMessage::Have(_)
            | OverlayMessage::Want(_)
            | OverlayMessage::Prune(_)
            | OverlayMessage::Compare(_)
            | OverlayMessage::Buckets(_)
            | OverlayMessage::Differ(_)
            | OverlayMessage::Keys(_) => {
                let events = world.members.message(from, message, now, out);
                self.members_changed(events, now);
                self.maybe_ready(now);
            }
            // What follows is of use only from a proxy that takes part.
            _ if !world.members.is_alive(from) => {
                out.counters.strangers += 1;
                world.members.heard(from, now, out);
            }
            OverlayMessage::CountReport(report) => {
                self.rendezvous.report(from, &report, world, now, out);
            }
            OverlayMessage::CountsWanted(_) => self.join.counts_wanted(from, now),
            OverlayMessage::CountAck(ack) => self.join.acknowledged(from, &ack, out),
            OverlayMessage::Resolve(wish) => {
                self.rendezvous.resolve(from, wish.group, world, now, out);
            }
            OverlayMessage::CandidateList(list) => self.ingress.list(from, list, world, now, out),
            OverlayMessage::NoTarget(message) => {
                self.ingress.no_target(from, message.group, world, now, out);
            }
            OverlayMessage::LeaseReplica(batch) => self.leases.replica(from, batch, world, out),
            OverlayMessage::LeaseAck(ack) => self.leases.acknowledged(from, &ack, &self.join, now),
            OverlayMessage::LeaseTaken(message) => {
                self.leases.taken(from, &message, &mut self.join, world, now, out);
            }
            OverlayMessage::FlowRecords(flows) => {
                self.flows.records(from, flows.records, world, out);
            }
            OverlayMessage::FlowsGone(ended) => self.flows.ended(from, ended.flows, world, out),
            OverlayMessage::FlowsWanted(_) => self.flows.wanted(from, world, now, out),
            OverlayMessage::FlowsHanded(_) => {
                self.flows.handed(from);
                self.maybe_ready(now);
            }
        }
    }

    /// Handles what this node said to itself.
    pub(crate) fn settle(&mut self, now: Time) {
        self.look_at_itself(now);
        for _ in 0..MAX_LOOPBACK {
            let Some(message) = self.out.pop_loopback() else { break };
            self.dispatch(self.world.own, message, now);
        }
        self.leases.follow(&mut self.join, now);
    }

    /// Whether this proxy has not run for a while: what it did not hear says nothing of others.
    fn look_at_the_clock(&mut self, now: Time) {
        if self.world.members.late_by(now) >= OWN_PAUSE {
            self.join.was_away(now);
            self.rendezvous.was_away(now);
        }
    }

    /// Whether this proxy had to deny that it is dead: then mates have served in its place, and the
    /// RAPs have forgotten it.
    fn look_at_itself(&mut self, now: Time) {
        let denials = self.world.members.denials();
        if std::mem::replace(&mut self.denials, denials) != denials {
            self.join.revived(now);
            self.rendezvous.was_away(now);
        }
    }

    /// Once it knows what others know, and mates have handed back what was this proxy's, it is ready: had they
    /// not, routing would take their flows away from them.
    fn maybe_ready(&mut self, now: Time) {
        if self.ready_by.is_none() || !self.world.members.synced() {
            return;
        }
        if self.flows.awaits() {
            self.hand_back_by.get_or_insert(now + HAND_BACK_WAIT);
            self.ready_by = self.hand_back_by;
        } else {
            self.become_ready();
        }
    }

    pub(crate) fn become_ready(&mut self) {
        self.ready_by = None;
        self.ready = true;
        self.flows.deliver_waiting(&mut self.out);
        self.out.notice(Notice::Ready { alone: !self.world.members.in_touch() });
        self.out.announce(true);
    }

    /// Proxies came or went: the ring, the datapath and all roles follow.
    fn members_changed(&mut self, events: Vec<MemberEvent>, now: Time) {
        if events.is_empty() {
            return;
        }
        let (mut mates, mut came) = (false, false);
        for event in events {
            let (world, out) = (&mut self.world, &mut self.out);
            let mate = world.members.cluster(event.proxy()) == Some(world.cluster);
            mates |= mate;
            match event {
                MemberEvent::Up(id) => {
                    came = true;
                    world.heirs.remove(&id);
                    if let Some((_, tunnel)) = world.members.contact(id) {
                        out.forward(ForwardingUpdate::Peer { id, tunnel });
                    }
                    if let Some(cluster) = world.members.cluster(id) {
                        world.ring.insert(id, cluster);
                    }
                    self.rendezvous.back(id, out);
                    if mate {
                        self.leases.up(id, &self.join, now);
                        self.flows.up(id, self.ready_by.is_none(), out);
                    }
                }
                MemberEvent::Draining(id) => {
                    let cluster = world.members.cluster(id).unwrap_or(world.cluster);
                    world.ring.remove(id);
                    self.rendezvous.draining((id, cluster), now);
                    self.join.left_ring(id, now);
                    self.ingress.draining(id, out);
                }
                MemberEvent::Gone(id) => {
                    let cluster = world.members.cluster(id).unwrap_or(world.cluster);
                    world.ring.remove(id);
                    let heir = world.died(id, now);
                    out.forward(ForwardingUpdate::PeerGone { id, heir });
                    self.rendezvous.gone((id, cluster), heir, now);
                    self.join.gone(id, now);
                    if mate {
                        self.leases.gone(id, heir, &mut self.join, world, now, out);
                        self.flows.gone(id, heir, world, now, out);
                    }
                    self.ingress.gone(id, &self.world, now, out);
                }
            }
        }
        if mates {
            self.leases.mates_changed(&self.join, &self.world, now);
            self.flows.settle(&self.world, &mut self.out);
        }
        if came {
            self.join.ring_changed(now);
        }
    }
}
