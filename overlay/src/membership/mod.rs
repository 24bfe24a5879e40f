//! Who takes part: which proxies there are, and which of them are alive.
//!
//! Every proxy hears every other: a heartbeat and its answer, in datagrams. One that is silent for
//! [`MISSED_HEARTBEATS`](crate::timing::MISSED_HEARTBEATS) is taken for dead, and all are told; if
//! it lives, it denies that with a higher incarnation. Who has just heard it does not believe the
//! news. Seeds and the dead are called now and then, so that a split heals from either side.
//!
//! The rest of the brain sees [`MemberEvent`]s and the lookups of [`Membership`], nothing else.

pub(crate) mod merge;
mod peer;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    limits::MAX_MEMBERS_PER_MESSAGE,
    overlay::{Heartbeat, HeartbeatAck, MemberRecord, MemberState, MemberUpdate},
    time::Time,
};

use self::{
    merge::{Change, REFUTATION_BITS, alive, change, implausible, reachable_at},
    peer::Peer,
};
use crate::{
    config::NodeConfig,
    limits::{GOSSIP_FANOUT, MAX_MEMBERS},
    notice::{GoneWhy, Notice},
    outbox::Outbox,
    random::Random,
    timing::{CALL_INTERVAL, EXCHANGE_INTERVAL, FORGET_DEAD, HEARSAY_BEATS},
    view::{ProxyView, member_state},
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

/// Who takes part.
#[derive(Debug)]
pub(crate) struct Membership {
    own: MemberRecord,
    own_id: ProxyId,
    heartbeat: Duration,
    /// Seeds that are not this proxy itself.
    seeds: BTreeMap<ProxyId, (String, IpAddr)>,
    peers: BTreeMap<ProxyId, Peer>,
    next_beat: Time,
    next_call: Time,
    next_exchange: Time,
    /// Whether any other proxy told what it knows.
    in_touch: bool,
    random: Random,
}

impl Membership {
    pub(crate) fn new(config: &NodeConfig, mut random: Random, now: Time) -> Self {
        let own_id = ProxyId::of(&config.name);
        let seeds =
            config.seeds.iter().map(|s| (ProxyId::of(&s.name), (s.name.clone(), s.address)));
        // Proxies that started together do not beat together.
        let phase = config.heartbeat.mul_f64(random.below(1_000) as f64 / 1_000.0);
        Self {
            own: MemberRecord {
                name: config.name.clone(),
                cluster: config.cluster.clone(),
                unicast: config.unicast.clone(),
                nat: config.nat.clone(),
                incarnation: config.incarnation << REFUTATION_BITS,
                state: MemberState::Up,
            },
            own_id,
            heartbeat: config.heartbeat,
            seeds: seeds.filter(|(id, _)| *id != own_id).collect(),
            peers: BTreeMap::new(),
            next_beat: now + phase,
            next_call: now,
            next_exchange: now + EXCHANGE_INTERVAL,
            in_touch: false,
            random,
        }
    }

    // Lookups.

    /// What this proxy says of itself.
    pub(crate) const fn own(&self) -> &MemberRecord {
        &self.own
    }

    /// Whether any other proxy told what it knows.
    pub(crate) const fn in_touch(&self) -> bool {
        self.in_touch
    }

    /// The live proxies but this one, with their clusters and round-trip times.
    pub(crate) fn alive(
        &self,
    ) -> impl Iterator<Item = (ProxyId, ClusterId, Option<Duration>)> + '_ {
        self.peers
            .iter()
            .filter(|(_, peer)| alive(peer.record.state))
            .map(|(&id, peer)| (id, peer.cluster, peer.rtt))
    }

    /// Whether a proxy takes part; this one does.
    pub(crate) fn is_alive(&self, id: ProxyId) -> bool {
        id == self.own_id || self.peers.get(&id).is_some_and(|peer| alive(peer.record.state))
    }

    /// Whether a proxy takes new groups and targets.
    pub(crate) fn is_up(&self, id: ProxyId) -> bool {
        self.record(id).is_some_and(|record| record.state == MemberState::Up)
    }

    /// The cluster of a known proxy.
    pub(crate) fn cluster(&self, id: ProxyId) -> Option<ClusterId> {
        if id == self.own_id {
            return Some(ClusterId::of(&self.own.cluster));
        }
        self.peers.get(&id).map(|peer| peer.cluster)
    }

    /// The measured round-trip time to a proxy.
    pub(crate) fn rtt(&self, id: ProxyId) -> Option<Duration> {
        self.peers.get(&id)?.rtt
    }

    /// The NAT addresses of a known proxy.
    pub(crate) fn nat(&self, id: ProxyId) -> &[IpAddr] {
        self.record(id).map_or(&[], |record| &record.nat)
    }

    /// Name and cluster of a known proxy, for people.
    pub(crate) fn names(&self, id: ProxyId) -> Option<(&str, &str)> {
        let record = self.record(id)?;
        Some((&record.name, &record.cluster))
    }

    fn record(&self, id: ProxyId) -> Option<&MemberRecord> {
        if id == self.own_id {
            return Some(&self.own);
        }
        self.peers.get(&id).map(|peer| &peer.record)
    }

    /// Where to send what is meant for a proxy: name and address.
    pub(crate) fn contact(&self, id: ProxyId) -> Option<(&str, IpAddr)> {
        if let Some(peer) = self.peers.get(&id) {
            return Some((&peer.record.name, peer.address));
        }
        self.seeds.get(&id).map(|(name, address)| (name.as_str(), *address))
    }

    /// How many proxies are known, this one among them.
    pub(crate) fn known(&self) -> usize {
        self.peers.len() + 1
    }

    /// All known proxies, by cluster and name.
    pub(crate) fn view(&self, now: Time) -> Vec<ProxyView> {
        let own = view_of(self.own_id, &self.own, None, None, true);
        let peers = self.peers.iter().map(|(&id, peer)| {
            view_of(id, &peer.record, peer.rtt, peer.heard.map(|heard| now - heard), false)
        });
        let mut views: Vec<_> = std::iter::once(own).chain(peers).collect();
        views.sort_by(|a, b| (&a.cluster, &a.name).cmp(&(&b.cluster, &b.name)));
        views
    }

    // What happens.

    /// A heartbeat came.
    pub(crate) fn heartbeat(
        &mut self,
        from: ProxyId,
        beat: &Heartbeat,
        now: Time,
        out: &mut Outbox,
    ) {
        out.send_datagram(from, HeartbeatAck { sequence: beat.sequence });
        self.heard(from, now, out);
    }

    /// A heartbeat was answered. Its sequence is the time it was sent at: no table of beats is
    /// needed, and a wrong answer only makes its sender look far or near.
    pub(crate) fn heartbeat_ack(
        &mut self,
        from: ProxyId,
        ack: &HeartbeatAck,
        now: Time,
        out: &mut Outbox,
    ) {
        if ack.sequence <= now.as_micros()
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.measure(now - Time::from_micros(ack.sequence));
        }
        self.heard(from, now, out);
    }

    /// Anything came from a proxy: it lives.
    pub(crate) fn heard(&mut self, from: ProxyId, now: Time, out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&from) else {
            // It does not know that it is a stranger: it told its name only once, and that was
            // lost. Those in the configuration can be called.
            if self.seeds.contains_key(&from) {
                self.call(from, now, out);
            } else {
                out.counters.strangers += 1;
            }
            return;
        };
        peer.hear(self.heartbeat, now);
        let wrong = !alive(peer.record.state);
        if (!peer.met && !wrong)
            || (wrong && peer.told.is_none_or(|told| now - told >= CALL_INTERVAL))
        {
            peer.met = !wrong;
            peer.told = Some(now);
            self.tell_all(from, out);
        }
    }

    /// News came.
    pub(crate) fn update(
        &mut self,
        from: ProxyId,
        update: MemberUpdate,
        now: Time,
        out: &mut Outbox,
    ) -> Vec<MemberEvent> {
        let (mut events, mut news) = (Vec::new(), Vec::new());
        for record in update.members {
            if self.merge(&record, now, &mut events, out) {
                news.push(record);
            }
        }
        self.in_touch = true;
        if !news.is_empty() {
            let to = self.some_others(from);
            tell(&to, &news, out);
        }
        self.heard(from, now, out);
        events
    }

    /// The driver says that it cannot reach a proxy: half the patience is left.
    pub(crate) fn unreachable(&mut self, id: ProxyId, now: Time, out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if alive(peer.record.state) && peer.met {
            let patience = self.heartbeat * 2 + peer.rtt.unwrap_or_default();
            peer.silent_at = peer.silent_at.min(now + patience);
            out.send_datagram(id, Heartbeat { sequence: now.as_micros() });
        }
    }

    /// This proxy changes its own state, and says so.
    pub(crate) fn become_state(&mut self, state: MemberState, out: &mut Outbox) {
        self.own.state = state;
        let to: Vec<_> = self.alive().map(|(id, ..)| id).collect();
        tell(&to, std::slice::from_ref(&self.own), out);
    }

    /// When [`Membership::tick`] is due.
    pub(crate) fn next(&self) -> Time {
        self.next_beat.min(self.next_call).min(self.next_exchange)
    }

    /// Beats, calls, and judges the silent.
    pub(crate) fn tick(&mut self, now: Time, out: &mut Outbox) -> Vec<MemberEvent> {
        let mut events = Vec::new();
        if now >= self.next_beat {
            // A tick that comes late blames itself: nothing could be heard while nobody listened.
            if now - self.next_beat > self.heartbeat {
                for peer in self.peers.values_mut() {
                    peer.silent_at = peer.silent_at.max(now + self.heartbeat * 2);
                }
            }
            self.judge(now, &mut events, out);
            for (id, ..) in self.alive() {
                out.send_datagram(id, Heartbeat { sequence: now.as_micros() });
            }
            self.next_beat = (self.next_beat + self.heartbeat).max(now + self.heartbeat / 2);
        }
        if now >= self.next_call {
            self.call_the_lost(now, out);
            self.next_call = now + self.random.around(CALL_INTERVAL);
        }
        if now >= self.next_exchange {
            if let [one, ..] = self.some_others(self.own_id)[..] {
                self.tell_all(one, out);
            }
            self.next_exchange = now + self.random.around(EXCHANGE_INTERVAL);
        }
        events
    }

    /// Takes the silent for dead, and tells all others at once.
    fn judge(&mut self, now: Time, events: &mut Vec<MemberEvent>, out: &mut Outbox) {
        let mut dead = Vec::new();
        for (&id, peer) in &mut self.peers {
            if alive(peer.record.state) && now >= peer.silent_at {
                peer.record.state = MemberState::Down;
                peer.since = now;
                peer.misjudge();
                dead.push(peer.record.clone());
                events.push(MemberEvent::Gone(id));
                let name = peer.record.name.clone();
                out.notice(Notice::ProxyGone { name, why: GoneWhy::Silent });
            }
        }
        if !dead.is_empty() {
            let to: Vec<_> = self.alive().map(|(id, ..)| id).collect();
            tell(&to, &dead, out);
        }
    }

    /// Calls seeds that are not known and proxies that are dead, and forgets those dead for long.
    fn call_the_lost(&mut self, now: Time, out: &mut Outbox) {
        self.peers.retain(|_, peer| alive(peer.record.state) || now - peer.since < FORGET_DEAD);
        let seeds = self.seeds.keys().filter(|id| !self.peers.contains_key(id));
        let dead = self.peers.iter().filter(|(_, peer)| {
            peer.record.state == MemberState::Down || (alive(peer.record.state) && !peer.met)
        });
        let lost: Vec<_> = seeds.copied().chain(dead.map(|(&id, _)| id)).collect();
        for id in lost {
            self.call(id, now, out);
        }
    }

    /// Tells a proxy who this one is, and asks for a sign of life.
    fn call(&self, id: ProxyId, now: Time, out: &mut Outbox) {
        tell(&[id], std::slice::from_ref(&self.own), out);
        out.send_datagram(id, Heartbeat { sequence: now.as_micros() });
    }

    /// Tells a proxy all records.
    fn tell_all(&self, to: ProxyId, out: &mut Outbox) {
        let mut records: Vec<_> = vec![self.own.clone()];
        records.extend(self.peers.values().map(|peer| peer.record.clone()));
        tell(&[to], &records, out);
    }

    /// A few live proxies at random, but not `not`.
    fn some_others(&mut self, not: ProxyId) -> Vec<ProxyId> {
        let mut others: Vec<_> = self.alive().map(|(id, ..)| id).filter(|&id| id != not).collect();
        for n in 0..GOSSIP_FANOUT.min(others.len()) {
            let pick = n + self.random.below(others.len() - n);
            others.swap(n, pick);
        }
        others.truncate(GOSSIP_FANOUT);
        others
    }

    /// Takes in one record. Whether it is news worth passing on.
    fn merge(
        &mut self,
        record: &MemberRecord,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) -> bool {
        let id = ProxyId::of(&record.name);
        if id == self.own_id {
            self.refute(record, out);
            return false;
        }
        let refuse = |why, out: &mut Outbox| {
            out.notice(Notice::RecordRefused { name: record.name.clone(), why });
            false
        };
        if let Some(why) = implausible(&self.own.unicast, record) {
            return refuse(why, out);
        }
        let Some(address) = reachable_at(&self.own.unicast, &record.unicast) else { return false };
        let Some(peer) = self.peers.get_mut(&id) else {
            // The dead that nobody here knew are not worth remembering.
            if !alive(record.state) {
                return false;
            }
            if self.peers.len() >= MAX_MEMBERS {
                out.counters.table_full += 1;
                return false;
            }
            self.peers.insert(id, Peer::new(record.clone(), address, now));
            announce(id, record, events, out);
            return true;
        };
        if peer.record.name != record.name {
            return refuse("its id is that of another name: rename it", out);
        }
        let change = change(&peer.record, record);
        if change == Change::Stale {
            return false;
        }
        // Who lost its own way to a proxy must not take it from those who hear it. The proxy is
        // told, and denies it.
        if record.state == MemberState::Down
            && peer.heard_within(self.heartbeat.mul_f64(HEARSAY_BEATS), now)
        {
            tell(&[id], std::slice::from_ref(record), out);
            return false;
        }
        peer.record = record.clone();
        peer.cluster = ClusterId::of(&record.cluster);
        peer.address = address;
        peer.since = now;
        match change {
            Change::Stale | Change::Same => {}
            Change::Up | Change::Draining => {
                // A drain is no reason to greet a proxy anew.
                if change == Change::Up || !peer.met {
                    peer.expect(now);
                }
                announce(id, record, events, out);
            }
            Change::Gone => {
                let left = record.state == MemberState::Left;
                let why = if left { GoneWhy::Left } else { GoneWhy::Rumour };
                out.notice(Notice::ProxyGone { name: record.name.clone(), why });
                events.push(MemberEvent::Gone(id));
            }
            Change::Restarted => {
                peer.expect(now);
                let (name, why) = (record.name.clone(), GoneWhy::Restarted);
                out.notice(Notice::ProxyGone { name, why });
                events.push(MemberEvent::Gone(id));
                announce(id, record, events, out);
            }
        }
        true
    }

    /// Denies a wrong record of this proxy.
    fn refute(&mut self, rumour: &MemberRecord, out: &mut Outbox) {
        let newer = rumour.incarnation > self.own.incarnation;
        let graver = rumour.incarnation == self.own.incarnation && rumour.state > self.own.state;
        if newer || graver {
            self.own.incarnation = rumour.incarnation.saturating_add(1);
            out.notice(Notice::Refuted { incarnation: self.own.incarnation });
            self.become_state(self.own.state, out);
        }
    }
}

/// A proxy takes part: says so inside and outside.
fn announce(id: ProxyId, record: &MemberRecord, events: &mut Vec<MemberEvent>, out: &mut Outbox) {
    let name = record.name.clone();
    events.push(MemberEvent::Up(id));
    if record.state == MemberState::Draining {
        events.push(MemberEvent::Draining(id));
        out.notice(Notice::ProxyDraining { name });
    } else {
        out.notice(Notice::ProxyUp { name, cluster: record.cluster.clone() });
    }
}

/// Sends records, in as many messages as it takes.
fn tell(to: &[ProxyId], records: &[MemberRecord], out: &mut Outbox) {
    for members in records.chunks(MAX_MEMBERS_PER_MESSAGE) {
        for &id in to {
            out.send(id, MemberUpdate { members: members.to_vec() });
        }
    }
}

fn view_of(
    id: ProxyId,
    record: &MemberRecord,
    rtt: Option<Duration>,
    heard: Option<Duration>,
    own: bool,
) -> ProxyView {
    ProxyView {
        name: record.name.clone(),
        id: id.to_string(),
        cluster: record.cluster.clone(),
        state: member_state(record.state),
        unicast: record.unicast.clone(),
        incarnation: record.incarnation,
        rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        heard_ms: heard.map(|heard| heard.as_millis() as u64),
        own,
    }
}
