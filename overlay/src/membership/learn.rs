//! What a record of a proxy changes: whether it is believed, what follows from it, and who is told
//! next. Records of whole clusters: see [`clusters`](super::clusters).
//!
//! | what comes | what happens |
//! | --- | --- |
//! | the own death | denied with a higher incarnation |
//! | a death of one that was just heard | not believed; the accused is told |
//! | a death found by comparing tables, or heard after a pause | believed if the accused does not deny it in time |
//! | dead and unknown | not worth remembering |
//! | newer than what is known | believed, and passed on |

use pias_protocol::{
    hash,
    ids::{ClusterId, ProxyId},
    overlay::{Have, MemberKey, MemberRecord, MemberState, MemberUpdate},
    time::Time,
};

use super::{
    Due, MemberEvent, Membership, ask,
    doubt::Claim,
    merge::{Change, MAX_INCARNATION, REFUTATION_BITS, alive, change, implausible},
    observe::Verdict,
    peer::{Mate, Peer},
    records,
    spread::{Spread, Subject},
    table::{Member, Table},
};
use crate::{
    limits::{MAX_MEMBERS, PUSHERS},
    notice::{GoneWhy, Notice},
    outbox::Outbox,
    timing::{LEARN_INTERVAL, SPEAK_ALONE},
};

/// How a record came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// As news.
    Pushed,
    /// By comparing tables.
    Compared,
    /// By comparing tables, and nobody denied it.
    Undenied,
}

/// What came of a message.
#[derive(Debug, Default)]
pub(super) struct Learned {
    pub(super) news: Vec<Subject>,
    /// Records that were known already, but for those of mates: several observers speak of these.
    pub(super) known: usize,
    /// Records that were announced before, and are pushed for the first time.
    awaited: usize,
}

/// A record that is believed.
struct Accepted {
    id: ProxyId,
    change: Change,
    /// Whether it took part before, in another cluster.
    moved: bool,
}

impl Membership {
    /// Records came.
    pub(super) fn update(
        &mut self,
        from: ProxyId,
        update: &MemberUpdate,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let came = if update.pushed { Came::Pushed } else { Came::Compared };
        let mut learned = Learned::default();
        self.learn_members(from, &update.members, came, now, &mut learned, events, out);
        for record in &update.clusters {
            self.learn_cluster(from, *record, came, now, &mut learned, events, out);
        }
        self.in_touch = true;
        if !update.pushed {
            self.partners.answered(from);
            if self.synced {
                self.spread.announce(&learned.news, from, now, out);
            } else {
                self.teacher = Some(from);
                self.timers.set_by(Due::Exchange, now + LEARN_INTERVAL / 2);
            }
        } else if !learned.news.is_empty() {
            self.neighbours.set_eager(from, true);
            let (table, neighbours) = (&self.table, &self.neighbours);
            self.spread.push(&learned.news, from, table, neighbours, now, out);
        } else if learned.awaited > 0 {
            self.neighbours.set_eager(from, true);
        } else if learned.known > 0 && learned.known == update.members.len() + update.clusters.len()
        {
            Spread::duplicate(from, &mut self.neighbours, out);
        }
        self.heard(from, now, out);
    }

    /// A neighbour says what it has. What that says of a life that is known needs no record.
    pub(super) fn have(
        &mut self,
        from: ProxyId,
        have: &Have,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        Spread::lazy(from, &mut self.neighbours, out);
        let said: Vec<_> = have.members.iter().filter_map(|&key| said(&self.table, key)).collect();
        if !said.is_empty() {
            let mut learned = Learned::default();
            self.learn_members(from, &said, Came::Pushed, now, &mut learned, events, out);
            self.spread.announced(&learned.news, &self.table);
            let (table, neighbours) = (&self.table, &self.neighbours);
            self.spread.push(&learned.news, from, table, neighbours, now, out);
        }
        self.spread.have(from, have, &self.table, now, out);
    }

    /// Believes what nobody denied.
    pub(super) fn believe(&mut self, now: Time, events: &mut Vec<MemberEvent>, out: &mut Outbox) {
        let (mut members, mut learned) = (Vec::new(), Learned::default());
        for claim in self.doubts.ripe(now) {
            match claim {
                Claim::Member(record) => members.push(record),
                Claim::Cluster(record) => {
                    let came = Came::Undenied;
                    let from = self.own_id;
                    self.learn_cluster(from, record, came, now, &mut learned, events, out);
                }
            }
        }
        self.learn_members(self.own_id, &members, Came::Undenied, now, &mut learned, events, out);
        self.push_news(&learned.news, now, out);
        if let Some(at) = self.doubts.next() {
            self.timers.set_by(Due::Doubt, at);
        }
    }

    pub(super) fn push_news(&mut self, news: &[Subject], now: Time, out: &mut Outbox) {
        self.spread.push(news, self.own_id, &self.table, &self.neighbours, now, out);
    }

    #[expect(clippy::too_many_arguments, reason = "who says it, what, how, and what comes of it")]
    fn learn_members(
        &mut self,
        from: ProxyId,
        records: &[MemberRecord],
        came: Came,
        now: Time,
        learned: &mut Learned,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let mut clusters = Vec::new();
        let mut accepted = Vec::new();
        let mut room = MAX_MEMBERS.saturating_sub(self.table.known());
        for (_, records) in records::by_cluster(records) {
            let mut members = Vec::new();
            for record in &records {
                if let Some(what) = self.weigh(from, record, came, now, &mut room, learned, out) {
                    accepted.push(what);
                    members.push(Member::of(record));
                }
            }
            if let (Some(first), false) = (records.first(), members.is_empty()) {
                clusters.push((first.cluster.as_str(), members));
            }
        }
        if accepted.is_empty() {
            return;
        }
        let live_clusters = self.table.live_clusters();
        self.change().put_all(clusters);
        for what in accepted {
            learned.news.push(Subject::Member(what.id));
            let why = match self.table.get(what.id).map(|(_, member)| member.state) {
                Some(MemberState::Left) => GoneWhy::Left,
                _ => GoneWhy::Rumour,
            };
            self.follow(&what, why, now, events, out);
        }
        if self.table.live_clusters() != live_clusters {
            self.watch.reconsider(now);
        }
    }

    /// Whether a record of a member is news that is believed.
    #[expect(clippy::too_many_arguments, reason = "as the caller's")]
    fn weigh(
        &mut self,
        from: ProxyId,
        record: &MemberRecord,
        came: Came,
        now: Time,
        room: &mut usize,
        learned: &mut Learned,
        out: &mut Outbox,
    ) -> Option<Accepted> {
        let id = ProxyId::of(&record.name);
        let refuse = |why, out: &mut Outbox| {
            out.notice(Notice::RecordRefused { name: record.name.clone(), why });
            None
        };
        if record.incarnation >= MAX_INCARNATION {
            return refuse("no incarnation is left to deny it with", out);
        }
        if id == self.own_id {
            self.deny(from, record, now, out);
            return None;
        }
        if let Some(why) = implausible(self.addresses, record) {
            return refuse(why, out);
        }
        let of = ClusterId::of(&record.cluster);
        let Some((cluster, member)) = self.table.get(id) else {
            // The dead that nobody here knew are not worth remembering.
            if !alive(record.state) {
                return None;
            }
            if *room == 0 {
                out.counters.table_full += 1;
                return None;
            }
            *room -= 1;
            return Some(Accepted { id, change: Change::Up, moved: false });
        };
        if *member.who.name != *record.name {
            return refuse("its id is that of another name: rename it", out);
        }
        let old = (member.incarnation, member.state);
        let change = change(old, (record.incarnation, record.state));
        if change == Change::Stale {
            let same = old == (record.incarnation, record.state);
            if same && came == Came::Pushed && self.spread.awaited(id, old) {
                learned.awaited += 1;
            } else {
                learned.known += usize::from(same && of != self.cluster);
            }
            return None;
        }
        let moved = cluster.id != of && !cluster.down && alive(old.1);
        if record.state == MemberState::Down && !cluster.down && alive(old.1) {
            // Who lost its own way to a proxy must not take it from those who hear it. The proxy is
            // told, and denies it.
            let heard = self.observe.just_heard(&self.peers, id, now);
            if heard || (self.doubtful(came, now) && self.doubt_member(id, record, now, out)) {
                let members = vec![record.clone()];
                out.send(id, MemberUpdate { pushed: false, clusters: vec![], members });
                return None;
            }
        }
        Some(Accepted { id, change, moved })
    }

    /// Whether a death that came like this has to wait for the accused to deny it: the teller may
    /// have been cut off, or the news old, because this proxy did not run when it came.
    pub(super) fn doubtful(&self, came: Came, now: Time) -> bool {
        match came {
            Came::Compared => true,
            Came::Pushed => self.observe.catches_up(now),
            Came::Undenied => false,
        }
    }

    fn doubt_member(
        &mut self,
        id: ProxyId,
        record: &MemberRecord,
        now: Time,
        out: &mut Outbox,
    ) -> bool {
        let claim = Claim::Member(record.clone());
        let doubted = self.doubts.doubt(Subject::Member(id), claim, now, out);
        if let Some(at) = self.doubts.next() {
            self.timers.set_by(Due::Doubt, at);
        }
        doubted
    }

    /// What follows from a record that was taken into the table.
    fn follow(
        &mut self,
        what: &Accepted,
        why: GoneWhy,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let id = what.id;
        let Some((cluster, member)) = self.table.get(id) else { return };
        let (cluster_id, down, lives) = (cluster.id, cluster.down, alive(member.state));
        let (name, of, state) =
            (member.who.name.to_string(), cluster.name.to_string(), member.state);
        if cluster_id == self.cluster {
            self.mate_changed(id, lives, what.change, now);
        } else if self.peers.get(&id).is_some_and(|peer| peer.mate.is_some()) {
            self.peers.remove(&id);
            self.observe.settled(id);
        }
        if lives {
            self.forget.alive(id);
        } else {
            self.forget.dead(id, now);
        }
        if what.change != Change::Same && self.watch.concerns(cluster_id) {
            self.watch.reconsider(now);
        }
        if !lives && self.neighbours.contains(id) {
            if state == MemberState::Down {
                self.neighbours.silent(id);
            } else {
                self.neighbours.gone(id);
            }
            self.tend_soon(now);
        }
        if down {
            return;
        }
        let restarted = what.change == Change::Restarted || what.moved;
        if restarted || what.change == Change::Gone {
            let why = if restarted { GoneWhy::Restarted } else { why };
            out.notice(Notice::ProxyGone { name: name.clone(), why });
            events.push(MemberEvent::Gone(id));
        }
        if restarted || matches!(what.change, Change::Up | Change::Draining) {
            announce(id, name, of, state, events, out);
        }
    }

    /// A mate came, went, or denied something.
    fn mate_changed(&mut self, id: ProxyId, lives: bool, change: Change, now: Time) {
        if change == Change::Same {
            return;
        }
        self.observe.settled(id);
        let peer = self.peers.entry(id).or_insert_with(Peer::new);
        let known = peer.mate.is_some();
        let mate = peer.mate.get_or_insert_with(|| Mate::new(now));
        if !lives {
            mate.dead(now);
        } else if known && (change != Change::Draining || !mate.alive) {
            mate.expect(now);
        }
        self.observe.look_at(mate.silent_at);
        self.tend_soon(now);
    }

    /// Denies a wrong record of this proxy, also to who told it.
    fn deny(&mut self, from: ProxyId, rumour: &MemberRecord, now: Time, out: &mut Outbox) {
        let newer = rumour.incarnation > self.own.incarnation;
        let graver = rumour.incarnation == self.own.incarnation && rumour.state > self.own.state;
        if newer || graver {
            self.own.incarnation = rumour.incarnation.saturating_add(1);
            self.observe.accused();
            out.notice(Notice::Refuted { incarnation: self.own.incarnation });
            self.say_own(Some(from), now, out);
        }
    }

    /// A mate is dead, as this proxy found out itself.
    pub(super) fn declare(
        &mut self,
        verdict: Verdict,
        now: Time,
        events: &mut Vec<MemberEvent>,
        out: &mut Outbox,
    ) {
        let id = verdict.proxy;
        let Some((cluster, member)) = self.table.get(id).filter(|(_, m)| alive(m.state)) else {
            return;
        };
        let (name, dead) =
            (cluster.name.clone(), Member { state: MemberState::Down, ..member.clone() });
        self.change().put(&name, vec![dead]);
        let what = Accepted { id, change: Change::Gone, moved: false };
        self.follow(&what, GoneWhy::Silent, now, events, out);
        if !verdict.witnessed {
            return self.keep_quiet(id, now, out);
        }
        // All observers know by now; a few of them tell the world.
        let liking = |mate: ProxyId| hash::mix(id.0, mate.0);
        let own = liking(self.own_id);
        let news = [Subject::Member(id)];
        if self.mates().filter(|&mate| liking(mate) > own).count() < PUSHERS {
            self.push_news(&news, now, out);
        } else {
            self.spread.announce(&news, self.own_id, now, out);
        }
    }

    /// This proxy may be the one that is cut off: it speaks when it has heard somebody else.
    fn keep_quiet(&mut self, dead: ProxyId, now: Time, out: &mut Outbox) {
        for id in self.neighbours.chosen() {
            ask(id, now, out);
        }
        self.unspoken.insert(dead, now);
        self.timers.set_by(Due::Speak, now + SPEAK_ALONE);
    }

    /// Says what this proxy alone found out, if it has heard anybody since. Else those that compare
    /// tables with it hear of it, and doubt it.
    pub(super) fn speak_alone(&mut self, now: Time, out: &mut Outbox) {
        let far = self.peers.values().filter(|peer| peer.mate.is_none());
        let heard = far.filter_map(|peer| peer.heard).max();
        let dead = std::mem::take(&mut self.unspoken);
        let sure = dead.into_iter().filter(|&(id, since)| {
            heard.is_some_and(|heard| heard > since) && !self.table.is_alive(id)
        });
        let news: Vec<_> = sure.map(|(id, _)| Subject::Member(id)).collect();
        if !news.is_empty() {
            self.push_news(&news, now, out);
        }
    }
}

/// The record that an announcement stands for, if it is news: within one life of a proxy nothing
/// but its incarnation and its state change.
fn said(table: &Table, key: MemberKey) -> Option<MemberRecord> {
    let (cluster, member) = table.get(key.proxy)?;
    let same_life = key.incarnation >> REFUTATION_BITS == member.incarnation >> REFUTATION_BITS;
    let newer = (key.incarnation, key.state) > (member.incarnation, member.state);
    let said = Member { incarnation: key.incarnation, state: key.state, ..member.clone() };
    (same_life && newer).then(|| said.record(cluster))
}

/// A proxy takes part: says so inside and outside.
fn announce(
    id: ProxyId,
    name: String,
    cluster: String,
    state: MemberState,
    events: &mut Vec<MemberEvent>,
    out: &mut Outbox,
) {
    events.push(MemberEvent::Up(id));
    if state == MemberState::Draining {
        events.push(MemberEvent::Draining(id));
        out.notice(Notice::ProxyDraining { name });
    } else {
        out.notice(Notice::ProxyUp { name, cluster });
    }
}
