//! What a proxy says and hears of its own accord: beats, calls, comparisons, its own record.

use std::collections::BTreeSet;

use pias_protocol::{
    ids::ProxyId,
    overlay::{Buckets, Compare, Heartbeat, HeartbeatAck, MemberState, MemberUpdate, Want},
    time::Time,
};

use super::{
    Due, Membership, ask, exchange,
    merge::alive,
    peer::{Mate, Peer},
    spread::Subject,
    table::Member,
    tell,
};
use crate::{
    limits::{CALLERS_OF_A_SEED, CALLS_PER_ROUND},
    outbox::Outbox,
    timing::{CALL_INTERVAL, EXCHANGE_INTERVAL, LEARN_INTERVAL, MAX_RTT, TEND_SOON},
};

impl Membership {
    /// Takes the own record into the table, and mates in the table as such.
    pub(super) fn begin(&mut self, now: Time) {
        if let Some((_, member)) = self.table.get(self.own_id)
            && member.incarnation > self.own.incarnation
        {
            self.own.incarnation = member.incarnation.saturating_add(1);
        }
        let same = self.table.get(self.own_id).is_some_and(|(cluster, member)| {
            cluster.id == self.cluster && *member == Member::of(&self.own)
        });
        if !same {
            self.put_own();
            self.spread.push_later(Subject::Member(self.own_id), self.own_id, now);
        }
        self.meet_mates(now);
    }

    fn put_own(&mut self) {
        let (cluster, member) = (self.own.cluster.clone(), Member::of(&self.own));
        self.change().put(&cluster, vec![member]);
    }

    /// Watches mates that are in the table already.
    fn meet_mates(&mut self, now: Time) {
        let Some(cluster) = self.table.cluster(self.cluster) else { return };
        for member in cluster.alive().filter(|member| member.id != self.own_id) {
            let mut peer = Peer::new();
            let mate = Mate::new(now);
            self.observe.look_at(mate.silent_at);
            peer.mate = Some(mate);
            self.peers.insert(member.id, peer);
        }
    }

    /// This proxy changes its own state, and says so.
    pub(crate) fn become_state(&mut self, state: MemberState, now: Time, out: &mut Outbox) {
        self.own.state = state;
        self.say_own(None, now, out);
    }

    /// Tells all mates, eager neighbours and `also` what this proxy says of itself now, and announces
    /// it.
    pub(super) fn say_own(&mut self, also: Option<ProxyId>, now: Time, out: &mut Outbox) {
        self.put_own();
        let mut to: BTreeSet<_> = self.neighbours.of(true, self.own_id).collect();
        to.extend(self.mates().chain(also));
        let to: Vec<_> = to.into_iter().collect();
        let members = vec![self.own.clone()];
        tell(&to, &MemberUpdate { pushed: true, clusters: vec![], members }, out);
        self.spread.announce(&[Subject::Member(self.own_id)], self.own_id, now, out);
    }

    /// A heartbeat came.
    pub(super) fn heartbeat(
        &mut self,
        from: ProxyId,
        beat: &Heartbeat,
        now: Time,
        out: &mut Outbox,
    ) {
        if beat.asks {
            let coordinate = self.coordinate;
            out.send_datagram(from, HeartbeatAck { sequence: beat.sequence, coordinate });
        }
        self.heard(from, now, out);
    }

    /// A heartbeat was answered. Its sequence is the time it was sent at: no table of beats is
    /// needed, and a wrong answer only makes its sender look far or near.
    pub(super) fn heartbeat_ack(
        &mut self,
        from: ProxyId,
        ack: &HeartbeatAck,
        now: Time,
        out: &mut Outbox,
    ) {
        // An answer after a pause, of this proxy or of the other one, tells the length of the pause.
        let rtt = now - Time::from_micros(ack.sequence);
        if ack.sequence <= now.as_micros()
            && rtt <= MAX_RTT
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.measure(rtt);
            peer.locate(ack.coordinate);
            if let Some(mate) = &mut peer.mate {
                mate.answered = true;
            }
        }
        self.heard(from, now, out);
    }

    /// Anything came from a proxy: it lives.
    pub(crate) fn heard(&mut self, from: ProxyId, now: Time, out: &mut Outbox) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.heard = Some(now);
            match &mut peer.mate {
                Some(mate) if mate.alive => {
                    self.observe.heard(from, mate, peer.rtt, now);
                    return;
                }
                Some(_) => return self.wrong(from, now, out),
                None => {}
            }
        }
        let Some((cluster, member)) = self.table.get(from) else {
            // It does not know that it is a stranger. Those in the configuration can be called.
            if self.seeds.contains_key(&from) {
                self.call(from, now, out);
            } else {
                out.counters.strangers += 1;
            }
            return;
        };
        self.watch.heard(cluster.id, now);
        if cluster.down || !alive(member.state) {
            self.wrong(from, now, out);
        } else {
            self.neighbours.heard(from, now);
        }
    }

    /// Somebody lives who is held for dead: it is told so, to deny it, and tables are compared, as
    /// there may be more that is wrong.
    fn wrong(&mut self, id: ProxyId, now: Time, out: &mut Outbox) {
        if !self.told.allow(id, CALL_INTERVAL, now, out) {
            return;
        }
        let Some((cluster, member)) = self.table.get(id) else { return };
        let members = if alive(member.state) { Vec::new() } else { vec![member.record(cluster)] };
        let clusters = if cluster.down { vec![cluster.record()] } else { Vec::new() };
        out.send(id, MemberUpdate { pushed: false, clusters, members });
        exchange::compare(id, &self.table, out);
    }

    /// Calls seeds that are missed, and mates that are dead.
    pub(super) fn call_the_lost(&mut self, now: Time, out: &mut Outbox) {
        for id in self.missed_seeds().collect::<Vec<_>>() {
            if self.random.below(self.table.living().max(1)) < CALLERS_OF_A_SEED {
                self.call(id, now, out);
            }
        }
        let dead = |(&id, peer): (&ProxyId, &Peer)| {
            peer.mate.as_ref().is_some_and(|mate| !mate.alive).then_some(id)
        };
        let dead: Vec<_> = self.peers.iter().filter_map(dead).collect();
        let start = self.rounds % dead.len().max(1);
        for &id in dead[start..].iter().chain(&dead[..start]).take(CALLS_PER_ROUND) {
            // Those that left said so. One that starts anew may know nobody: it is told who calls.
            if self.table.get(id).is_some_and(|(_, member)| member.state == MemberState::Down) {
                let members = vec![self.own.clone()];
                out.send(id, MemberUpdate { pushed: true, clusters: vec![], members });
                ask(id, now, out);
            }
        }
        self.rounds = self.rounds.wrapping_add(1);
    }

    /// Seeds that are not known, and those that left. One that is back calls its own seeds; but where
    /// all of these left and came back at once they only find each other, and nobody else calls them:
    /// they are no dead that it would be looked for.
    fn missed_seeds(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.seeds.keys().copied().filter(|&id| {
            self.table.get(id).is_none_or(|(_, member)| member.state == MemberState::Left)
        })
    }

    /// Tells a proxy who this one is, and asks what it knows.
    fn call(&mut self, id: ProxyId, now: Time, out: &mut Outbox) {
        if !self.told.allow(id, CALL_INTERVAL / 2, now, out) {
            return;
        }
        let members = vec![self.own.clone()];
        out.send(id, MemberUpdate { pushed: true, clusters: vec![], members });
        exchange::compare(id, &self.table, out);
    }

    /// Compares tables with a neighbour, or with any proxy: see [`Partners`](super::partners).
    pub(super) fn exchange(&mut self, now: Time, out: &mut Outbox) {
        self.rounds = self.rounds.wrapping_add(1);
        let neighbours: Vec<_> = self.neighbours.all().collect();
        let with = match (self.teacher.take(), neighbours.len()) {
            (Some(teacher), _) => Some(teacher),
            (None, n) if self.partners.anybody_now(&mut self.random, now) || n == 0 => {
                let anybody = self.anybody();
                if let Some(id) = anybody {
                    self.partners.ask(id, now);
                }
                anybody
            }
            (None, n) => Some(neighbours[self.rounds % n]),
        };
        if let Some(with) = with {
            exchange::compare(with, &self.table, out);
        }
        let wait = if self.synced { EXCHANGE_INTERVAL } else { LEARN_INTERVAL };
        self.timers.set(Due::Exchange, now + self.random.around(wait));
    }

    /// Another proxy compares. One that knows little is told all, but not again and again: that is long,
    /// and the question is short.
    pub(super) fn compared(
        &mut self,
        from: ProxyId,
        compare: Compare,
        now: Time,
        out: &mut Outbox,
    ) {
        if exchange::knows_little(compare, &self.table)
            && self.filled.allow(from, CALL_INTERVAL, now, out)
        {
            exchange::fill(from, &self.table, out);
        } else {
            exchange::compared(from, compare, &self.table, out);
        }
    }

    /// A live proxy at random.
    fn anybody(&mut self) -> Option<ProxyId> {
        let index = self.table.index();
        let start = self.random.below(index.len());
        let around = index[start..].iter().chain(&index[..start]).map(|&(id, _)| id);
        around.take(64).find(|&id| id != self.own_id && self.table.is_alive(id))
    }

    /// The other's hashes: equal, or what to ask for.
    pub(super) fn buckets(&mut self, from: ProxyId, buckets: &Buckets, out: &mut Outbox) {
        self.in_touch = true;
        self.partners.answered(from);
        if buckets.digests.is_empty() {
            self.synced = true;
        } else {
            exchange::buckets(from, buckets, &self.table, out);
        }
    }

    /// A proxy wishes records, or to be a neighbour.
    pub(super) fn want(&mut self, from: ProxyId, want: &Want, now: Time, out: &mut Outbox) {
        let hello = want.members.is_empty() && want.clusters.is_empty();
        if (hello || want.eager)
            && self.table.is_alive(from)
            && !self.neighbours.called(from, want.eager, now)
        {
            out.counters.table_full += 1;
        }
        exchange::want(from, want, &self.table, out);
    }

    /// Looks after neighbours soon: some came or went.
    pub(super) fn tend_soon(&mut self, now: Time) {
        self.timers.set_by(Due::Tend, now + self.random.around(TEND_SOON));
    }

    /// Measures those that this proxy speaks to: mates, contacts, and chosen neighbours.
    pub(super) fn regroup(&mut self) {
        let wanted: BTreeSet<_> = self.watch.contacts().chain(self.neighbours.chosen()).collect();
        self.peers.retain(|id, peer| peer.mate.is_some() || wanted.contains(id));
        for id in wanted {
            self.peers.entry(id).or_insert_with(Peer::new);
        }
    }
}
