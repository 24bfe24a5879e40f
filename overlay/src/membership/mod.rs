//! Who takes part: which proxies there are, and which of them are alive.
//!
//! ```text
//!   mates ◄─beats─► observe ──dead──┐                    ┌──► spread ──► neighbours
//!                   (tier one)      ▼                    │    (Plumtree)
//!  clusters ◄─beats─► watch ──down─► learn ──► table ──news
//!                   (tier two)      ▲            │       │
//!                  MemberUpdate ────┘        compare     └──► MemberEvents: ring, roles, datapath
//!                                          (exchange) ◄────► any proxy
//! ```
//! The proxies of a cluster watch each other ([`observe`]), clusters watch clusters ([`watch`]), what
//! is found out is broadcast ([`spread`]) and compared ([`exchange`]), and the wrongly accused deny
//! it with a higher incarnation ([`learn`]).
//!
//! The rest of the brain sees [`MemberEvent`]s and the lookups of [`Membership`], nothing else.

mod clusters;
mod digest;
mod doubt;
mod duty;
mod exchange;
mod forget;
mod learn;
mod lifeguard;
mod lookup;
mod merge;
mod neighbours;
mod observe;
mod partners;
mod peer;
mod records;
mod share;
mod speak;
mod spread;
mod table;
mod watch;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    overlay::{
        ClusterWord, Coordinate, Heartbeat, MemberRecord, MemberUpdate, OverlayMessage, Word,
    },
    time::Time,
};

pub use self::share::{MembersSnapshot, Shelf};
use self::{
    doubt::Doubts, forget::Forget, neighbours::Neighbours, observe::Observe, partners::Partners,
    peer::Peers, spread::Spread, table::Addresses, watch::Watch,
};
pub(crate) use self::{merge::REFUTATION_BITS, table::Table};
use crate::{
    config::NodeConfig,
    outbox::Outbox,
    paced::Paced,
    random::Random,
    timers::Timers,
    timing::{CALL_INTERVAL, EXCHANGE_INTERVAL, FORGET_CHECK, NEIGHBOUR_BEAT, WATCH_BEAT},
};

/// What the rest of the brain learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberEvent {
    /// A proxy takes part, or has new addresses.
    Up(ProxyId),
    /// A proxy takes part, but takes no new groups and targets.
    Draining(ProxyId),
    /// A proxy takes no part any more; all that it knew is lost.
    Gone(ProxyId),
}

impl MemberEvent {
    /// Whom it is about.
    pub(crate) const fn proxy(self) -> ProxyId {
        let (Self::Up(id) | Self::Draining(id) | Self::Gone(id)) = self;
        id
    }
}

/// What is due now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Call seeds that are missed, and mates that are dead.
    Call,
    /// Compare tables with somebody.
    Exchange,
    /// Look after the neighbours.
    Tend,
    /// Believe what nobody denied.
    Doubt,
    /// Tell the world what this proxy alone found out, if it is not cut off.
    Speak,
    /// Forget the long dead.
    Forget,
}

/// Who takes part.
#[derive(Debug)]
pub(crate) struct Membership {
    /// What this proxy says of itself; the table has the same.
    own: MemberRecord,
    own_id: ProxyId,
    cluster: ClusterId,
    addresses: Addresses,
    /// Where this proxy sees itself at the moment.
    coordinate: Coordinate,
    /// Seeds that are not this proxy itself.
    seeds: BTreeMap<ProxyId, (Arc<str>, IpAddr)>,
    table: Arc<Table>,
    /// Whether the table may have changed since it was shared.
    unshared: bool,
    peers: Peers,
    observe: Observe,
    watch: Watch,
    neighbours: Neighbours,
    spread: Spread,
    doubts: Doubts,
    forget: Forget,
    /// Mates that are dead by this proxy's word alone, and since when.
    unspoken: BTreeMap<ProxyId, Time>,
    /// Who was told that it is held for dead, or was called.
    told: Paced,
    /// Who was told all that is known.
    filled: Paced,
    timers: Timers<Due>,
    /// Exchanges, and calls of dead mates, so far.
    rounds: usize,
    /// Whom a newcomer learns from, until both know the same.
    teacher: Option<ProxyId>,
    partners: Partners,
    in_touch: bool,
    synced: bool,
    random: Random,
}

impl Membership {
    /// Starts with what is known already, which may be nothing.
    pub(crate) fn with_table(
        config: &NodeConfig,
        table: Arc<Table>,
        mut random: Random,
        now: Time,
    ) -> Self {
        let own_id = ProxyId::of(&config.name);
        let cluster = ClusterId::of(&config.cluster);
        let seeds = config.seeds.iter();
        let seeds = seeds.map(|s| (ProxyId::of(&s.name), (s.name.as_str().into(), s.address)));
        // Proxies that started together do not beat together.
        let mut phase = |period: std::time::Duration| {
            now + period.mul_f64(random.below(1_000) as f64 / 1_000.0)
        };
        let (first_beat, first_watch) = (phase(config.heartbeat), phase(WATCH_BEAT));
        let mut timers = Timers::default();
        timers.set(Due::Call, now);
        timers.set(Due::Exchange, phase(EXCHANGE_INTERVAL));
        timers.set(Due::Tend, now);
        timers.set(Due::Forget, phase(FORGET_CHECK));
        let partners = Partners::new(table.living() > 1, &mut random, now);
        let mut membership = Self {
            own: config.record(),
            own_id,
            cluster,
            addresses: Addresses::of(&config.unicast),
            coordinate: Coordinate::default(),
            seeds: seeds.filter(|(id, _)| *id != own_id).collect(),
            synced: table.living() > 1,
            in_touch: table.living() > 1,
            table,
            unshared: false,
            peers: Peers::new(),
            observe: Observe::new(own_id, config.heartbeat, first_beat),
            watch: Watch::new(own_id, cluster, first_watch),
            neighbours: Neighbours::new(own_id, cluster),
            spread: Spread::default(),
            doubts: Doubts::default(),
            forget: Forget::default(),
            unspoken: BTreeMap::new(),
            told: Paced::new(CALL_INTERVAL),
            filled: Paced::new(CALL_INTERVAL),
            timers,
            rounds: 0,
            teacher: None,
            partners,
            random,
        };
        membership.begin(now);
        membership
    }

    /// A message about membership.
    pub(crate) fn message(
        &mut self,
        from: ProxyId,
        message: OverlayMessage,
        now: Time,
        out: &mut Outbox,
    ) -> Vec<MemberEvent> {
        let mut events = Vec::new();
        match message {
            OverlayMessage::Heartbeat(beat) => self.heartbeat(from, &beat, now, out),
            OverlayMessage::HeartbeatAck(ack) => self.heartbeat_ack(from, &ack, now, out),
            OverlayMessage::MemberUpdate(update) => {
                self.update(from, &update, now, &mut events, out);
            }
            OverlayMessage::Word(word) => self.word(from, &word, now, &mut events, out),
            OverlayMessage::ClusterWord(word) => {
                self.cluster_word(from, &word, now, &mut events, out);
            }
            OverlayMessage::Have(have) => self.have(from, &have, now, &mut events, out),
            OverlayMessage::Want(want) => self.want(from, &want, now, out),
            OverlayMessage::Prune(_) => self.neighbours.set_eager(from, false),
            OverlayMessage::Compare(compare) => self.compared(from, compare, now, out),
            OverlayMessage::Buckets(buckets) => self.buckets(from, &buckets, out),
            OverlayMessage::Differ(differ) => exchange::differ(from, &differ, &self.table, out),
            OverlayMessage::Keys(keys) => exchange::keys(from, &keys, &self.table, out),
            // The roles' messages are not handed in here.
            _ => {}
        }
        self.changed(&events, now);
        events
    }

    /// A mate's word about another one.
    fn word(
        &mut self,
        from: ProxyId,
        word: &Word,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        self.heard(from, now, out);
        let mate = self.peers.get(&from).and_then(|peer| peer.mate.as_ref());
        if !mate.is_some_and(|mate| mate.alive) {
            // Others do not beat each other as mates do: they are no witnesses.
            out.counters.strangers += 1;
            return;
        }
        if let Some(verdict) = self.observe.word(from, word, &mut self.peers, now, out) {
            self.declare(verdict, now, events, out);
        }
    }

    /// A watcher's word about a cluster.
    fn cluster_word(
        &mut self,
        from: ProxyId,
        word: &ClusterWord,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        self.heard(from, now, out);
        let of = self.table.cluster_of(from).filter(|_| self.table.is_alive(from));
        // Mates share the fate of this proxy, and nobody is a witness of its own death.
        let Some(of) = of.filter(|&of| of != self.cluster && of != word.cluster) else {
            out.counters.strangers += 1;
            return;
        };
        let verdict = self.watch.word((from, of), word, &self.table, now, out);
        if let Some(verdict) = verdict.filter(|_| !self.observe.away(now)) {
            self.declare_cluster(verdict, now, events, out);
        }
    }

    /// The driver says that it cannot reach a proxy: half the patience with a mate is left.
    pub(crate) fn unreachable(&mut self, id: ProxyId, now: Time) {
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some(mate) = peer.mate.as_mut().filter(|mate| mate.alive && mate.met)
        {
            self.observe.unreachable(mate, peer.rtt, now);
        }
    }

    /// For how long this proxy has not run, as far as its heartbeats tell.
    pub(crate) fn late_by(&self, now: Time) -> Duration {
        self.observe.late_by(now)
    }

    /// When [`Membership::tick`] is due.
    pub(crate) fn next(&self) -> Time {
        let next = self.observe.next().min(self.watch.next());
        let next = self.spread.next().map_or(next, |at| at.min(next));
        self.timers.next().map_or(next, |at| at.min(next))
    }

    /// Beats, judges, spreads, compares and forgets what is due.
    pub(crate) fn tick(&mut self, now: Time, out: &mut Outbox) -> Vec<MemberEvent> {
        let mut events = Vec::new();
        if self.observe.next() <= now {
            let (away, verdicts) = self.observe.tick(&mut self.peers, now, out);
            if away {
                self.watch.was_away(now);
                self.neighbours.was_away(now);
                self.partners.stir(&mut self.random, now);
            }
            for verdict in verdicts {
                self.declare(verdict, now, &mut events, out);
            }
        }
        if self.watch.next() <= now {
            let verdicts = self.watch.tick(&self.table, &self.peers, &mut self.random, now, out);
            self.regroup();
            for verdict in verdicts {
                self.declare_cluster(verdict, now, &mut events, out);
            }
        }
        if self.spread.next().is_some_and(|at| at <= now) {
            self.spread.tick(&self.table, &mut self.neighbours, now, out);
        }
        while let Some(due) = self.timers.pop(now) {
            self.due(due, now, &mut events, out);
        }
        self.changed(&events, now);
        events
    }

    /// Others may know more of what has changed.
    fn changed(&mut self, events: &[MemberEvent], now: Time) {
        if !events.is_empty() {
            self.partners.stir(&mut self.random, now);
        }
    }

    fn due(&mut self, due: Due, now: Time, events: &mut Vec<MemberEvent>, out: &mut Outbox) {
        match due {
            Due::Call => {
                self.call_the_lost(now, out);
                self.timers.set(Due::Call, now + self.random.around(CALL_INTERVAL));
            }
            Due::Exchange => self.exchange(now, out),
            Due::Tend => {
                self.neighbours.tend(&self.table, &self.peers, now, out);
                self.regroup();
                self.timers.set(Due::Tend, now + self.random.around(NEIGHBOUR_BEAT));
            }
            Due::Doubt => self.believe(now, events, out),
            Due::Speak => self.speak_alone(now, out),
            Due::Forget => {
                let before = self.table.known();
                for id in self.forget.tick(&mut self.table, now) {
                    self.peers.remove(&id);
                    self.observe.settled(id);
                }
                if self.table.known() != before {
                    self.unshared = true;
                    self.watch.reconsider(now);
                }
                self.timers.set(Due::Forget, now + self.random.around(FORGET_CHECK));
            }
        }
    }

    /// Changes the table.
    fn change(&mut self) -> &mut Table {
        self.unshared = true;
        Arc::make_mut(&mut self.table)
    }
}

/// Asks a proxy for a sign of life. Its answer tells when it was asked, so nothing is kept of it.
fn ask(id: ProxyId, now: Time, out: &mut Outbox) {
    out.send_datagram(id, Heartbeat { sequence: now.as_micros(), asks: true });
}

/// Sends one update to several proxies.
fn tell(to: &[ProxyId], update: &MemberUpdate, out: &mut Outbox) {
    for &id in to {
        out.send(id, update.clone());
    }
}
