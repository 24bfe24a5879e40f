//! Epidemic broadcast trees: Plumtree (Leitão, Pereira and Rodrigues, SRDS 2007) over records.
//!
//! ```text
//!  news ──► pushed to eager neighbours at once          duplicate: Prune, the way becomes lazy
//!      └──► announced to lazy ones within 50 ms         says it all: passed on, as if it were pushed
//!                                                       not pushed 200 ms later: Want, it becomes eager
//! ```
//! Within one life of a proxy nothing but its incarnation and its state change, and an announcement
//! names both: deaths and denials go along every way, lazy or not, and no lost branch delays them.
//! A record is its own message id, and the table of members tells what was seen: nothing else is
//! kept. Two ways stay eager whatever happens, as news comes from many sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    limits::{MAX_CLUSTERS_PER_MESSAGE, MAX_KEYS_PER_MESSAGE},
    overlay::{ClusterKey, Have, MemberKey, MemberState, Prune, Want},
    time::Time,
};

use super::{merge::alive, neighbours::Neighbours, records, table::Table, tell};
use crate::{
    limits::{MAX_FRESH, MAX_MISSING, MIN_EAGER, WANT_ATTEMPTS},
    outbox::Outbox,
    timing::{ANNOUNCE, GRAFT, GRAFT_AGAIN, GRAFT_BATCH, PUSH_BATCH},
};

/// No proxy's id: its name would have to hash to zero.
const NOBODY: ProxyId = ProxyId(0);

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Cluster(ClusterId),
    Member(ProxyId),
}

/// A record that was announced, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Cluster(ClusterKey),
    Member(MemberKey),
}

#[derive(Clone, Debug)]
struct Missing {
    key: Key,
    due: Time,
    from: ProxyId,
    attempts: u8,
}

/// Broadcasts and their repair.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// What lazy neighbours are not told yet, and where it came from.
    fresh: BTreeMap<Subject, ProxyId>,
    /// What is pushed in batches, as nothing is urgent there, and where it came from: known clusters,
    /// and this proxy.
    batch: BTreeMap<Subject, ProxyId>,
    missing: BTreeMap<Subject, Missing>,
    /// What was believed as it was announced: the first push of it is no duplicate, so that the tree
    /// stays what it is.
    believed: BTreeMap<ProxyId, (u64, MemberState)>,
    announce_at: Option<Time>,
    batch_at: Option<Time>,
    graft_at: Option<Time>,
}

impl Spread {
    /// When [`Spread::tick`] is due.
    pub(super) fn next(&self) -> Option<Time> {
        [self.announce_at, self.batch_at, self.graft_at].into_iter().flatten().min()
    }

    /// News to be pushed on: `from` another proxy, or of the own making.
    pub(super) fn push(
        &mut self,
        news: &[Subject],
        from: ProxyId,
        table: &Table,
        neighbours: &Neighbours,
        now: Time,
        out: &mut Outbox,
    ) {
        let to: Vec<_> = neighbours.of(true, from).collect();
        for update in records::named(table, news, true) {
            tell(&to, &update, out);
        }
        self.announce(news, from, now, out);
    }

    /// News that is only announced: somebody else pushes it, or nobody needs it at once.
    pub(super) fn announce(
        &mut self,
        news: &[Subject],
        from: ProxyId,
        now: Time,
        out: &mut Outbox,
    ) {
        for &subject in news {
            if self.fresh.len() < MAX_FRESH || self.fresh.contains_key(&subject) {
                self.fresh.insert(subject, from);
            } else {
                out.counters.table_full += 1;
            }
        }
        if !self.fresh.is_empty() {
            self.announce_at.get_or_insert(now + ANNOUNCE);
        }
    }

    /// News that need not be everywhere at once, as a cluster's coordinate.
    pub(super) fn push_later(&mut self, subject: Subject, from: ProxyId, now: Time) {
        self.batch.insert(subject, from);
        self.batch_at.get_or_insert(now + PUSH_BATCH);
    }

    /// News was believed as it was announced.
    pub(super) fn announced(&mut self, news: &[Subject], table: &Table) {
        for &subject in news {
            if self.believed.len() >= MAX_MISSING {
                // Most of it will not be pushed any more.
                self.believed.clear();
            }
            if let Subject::Member(id) = subject
                && let Some((_, member)) = table.get(id)
            {
                self.believed.insert(id, (member.incarnation, member.state));
            }
        }
    }

    /// Whether what is pushed now was announced before, and is pushed for the first time.
    pub(super) fn awaited(&mut self, id: ProxyId, pushed: (u64, MemberState)) -> bool {
        self.believed.remove(&id) == Some(pushed)
    }

    /// What was pushed by a neighbour was known: one way is enough.
    pub(super) fn duplicate(from: ProxyId, neighbours: &mut Neighbours, out: &mut Outbox) {
        if neighbours.eager() > MIN_EAGER {
            neighbours.set_eager(from, false);
            out.send(from, Prune {});
        }
    }

    /// A neighbour announces: it does not push to this proxy. Both see the way alike from now on, and
    /// it stays eager if too few are.
    pub(super) fn lazy(from: ProxyId, neighbours: &mut Neighbours, out: &mut Outbox) {
        neighbours.set_eager(from, false);
        if neighbours.eager() < MIN_EAGER && neighbours.contains(from) {
            neighbours.set_eager(from, true);
            out.send(from, Want { eager: true, ..Want::default() });
        }
    }

    /// A neighbour says what it has.
    pub(super) fn have(
        &mut self,
        from: ProxyId,
        have: &Have,
        table: &Table,
        now: Time,
        out: &mut Outbox,
    ) {
        let clusters =
            have.clusters.iter().map(|&key| (Subject::Cluster(key.cluster), Key::Cluster(key)));
        let members =
            have.members.iter().map(|&key| (Subject::Member(key.proxy), Key::Member(key)));
        for (subject, key) in clusters.chain(members) {
            if !lacks(table, key) {
                continue;
            }
            let full = self.missing.len() >= MAX_MISSING;
            if full && !self.missing.contains_key(&subject) {
                out.counters.table_full += 1;
                continue;
            }
            let due = now + if urgent(table, key) { GRAFT } else { GRAFT_BATCH };
            let fresh = Missing { key, due, from, attempts: 0 };
            let missing = self.missing.entry(subject).or_insert(fresh.clone());
            if missing.key != key {
                // Newer than what was waited for.
                *missing = fresh;
            } else if missing.attempts > 0 {
                // Who was asked before may be gone.
                missing.from = from;
            }
            self.graft_at = Some(self.graft_at.map_or(missing.due, |at| at.min(missing.due)));
        }
    }

    /// Announces, pushes and asks for what is due.
    pub(super) fn tick(
        &mut self,
        table: &Table,
        neighbours: &mut Neighbours,
        now: Time,
        out: &mut Outbox,
    ) {
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            let fresh = mem::take(&mut self.fresh);
            for to in neighbours.of(false, NOBODY) {
                let news =
                    fresh.iter().filter(|(_, from)| **from != to).map(|(&subject, _)| subject);
                for have in haves(table, news) {
                    out.send(to, have);
                }
            }
        }
        if self.batch_at.is_some_and(|at| at <= now) {
            self.batch_at = None;
            let batch = mem::take(&mut self.batch);
            for to in neighbours.of(true, NOBODY) {
                let news = batch.iter().filter(|(_, from)| **from != to);
                let news: Vec<_> = news.map(|(&subject, _)| subject).collect();
                for update in records::named(table, &news, true) {
                    out.send(to, update);
                }
            }
            for (&subject, &from) in &batch {
                self.announce(&[subject], from, now, out);
            }
        }
        if self.graft_at.is_some_and(|at| at <= now) {
            self.graft(table, neighbours, now, out);
        }
    }

    /// Asks for what was announced and did not come.
    fn graft(&mut self, table: &Table, neighbours: &mut Neighbours, now: Time, out: &mut Outbox) {
        self.missing.retain(|_, m| m.attempts < WANT_ATTEMPTS && lacks(table, m.key));
        let mut wants: BTreeMap<ProxyId, Want> = BTreeMap::new();
        for (&subject, missing) in self.missing.iter_mut().filter(|(_, m)| m.due <= now) {
            let want = wants.entry(missing.from).or_insert(Want { eager: true, ..Want::default() });
            match subject {
                Subject::Cluster(id) if want.clusters.len() < MAX_CLUSTERS_PER_MESSAGE => {
                    want.clusters.push(id);
                }
                Subject::Member(id) if want.members.len() < MAX_KEYS_PER_MESSAGE => {
                    want.members.push(id);
                }
                _ => continue,
            }
            missing.attempts += 1;
            missing.due = now + GRAFT_AGAIN;
        }
        for (from, want) in wants {
            neighbours.set_eager(from, true);
            out.send(from, want);
        }
        self.graft_at = self.missing.values().map(|missing| missing.due).min();
    }
}

/// Whether an announced record is pushed at once: not what a cluster publishes.
fn urgent(table: &Table, key: Key) -> bool {
    let Key::Cluster(key) = key else { return true };
    let cluster = table.cluster(key.cluster);
    cluster.is_none_or(|own| (key.version, key.down) > (own.version, own.down))
}

/// Whether an announced record is news here. The dead that nobody here knew are not.
fn lacks(table: &Table, key: Key) -> bool {
    match key {
        Key::Cluster(key) => table.cluster(key.cluster).is_some_and(|cluster| {
            (key.version, key.down) > (cluster.version, cluster.down) || key.stamp > cluster.stamp
        }),
        Key::Member(key) => match table.get(key.proxy) {
            Some((_, member)) => (key.incarnation, key.state) > (member.incarnation, member.state),
            None => alive(key.state),
        },
    }
}

/// Announcements of what the table holds of some subjects.
fn haves(table: &Table, news: impl Iterator<Item = Subject>) -> Vec<Have> {
    let mut haves = vec![Have::default()];
    let subjects: BTreeSet<_> = news.collect();
    for subject in subjects {
        let full = haves.last().is_none_or(|have| {
            have.clusters.len() >= MAX_CLUSTERS_PER_MESSAGE
                || have.members.len() >= MAX_KEYS_PER_MESSAGE
        });
        if full {
            haves.push(Have::default());
        }
        let Some(have) = haves.last_mut() else { continue };
        match subject {
            Subject::Cluster(id) => have.clusters.extend(table.cluster(id).map(|c| c.key())),
            Subject::Member(id) => have.members.extend(table.get(id).map(|(_, m)| m.key())),
        }
    }
    haves.retain(|have| !have.clusters.is_empty() || !have.members.is_empty());
    haves
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::OverlayMessage;

    use super::{
        super::table::tests::{filled, record},
        *,
    };
    use crate::outbox::Queued;

    const FROM: ProxyId = ProxyId(9);

    fn have(name: &str, incarnation: u64, state: MemberState) -> Have {
        let members = vec![MemberKey { proxy: ProxyId::of(name), incarnation, state }];
        Have { members, ..Have::default() }
    }

    fn wanted(out: &mut Outbox) -> Vec<ProxyId> {
        let want = |queued| match queued {
            Queued::Message { message: OverlayMessage::Want(want), .. } => Some(want.members),
            _ => None,
        };
        std::iter::from_fn(|| out.pop()).filter_map(want).flatten().collect()
    }

    #[test]
    fn what_is_announced_and_not_pushed_is_asked_for_also_if_something_newer_follows() {
        let (own, cluster) = (ProxyId::of("a1"), ClusterId::of("a"));
        let mut table = filled(&[record("b1", "b", 1, MemberState::Up)]);
        let mut neighbours = Neighbours::new(own, cluster);
        let (mut spread, mut out) = (Spread::default(), Outbox::new(own));
        let mut now = Time::ZERO;
        spread.have(FROM, &have("b1", 1, MemberState::Down), &table, now, &mut out);
        now = now + GRAFT;
        spread.tick(&table, &mut neighbours, now, &mut out);
        assert_eq!(wanted(&mut out), [ProxyId::of("b1")]);
        // It comes, and the next is announced before anybody cleared up.
        let down = super::super::table::Member::of(&record("b1", "b", 1, MemberState::Down));
        table.put("b", vec![down]);
        spread.have(FROM, &have("b1", 2, MemberState::Up), &table, now, &mut out);
        now = now + GRAFT;
        assert!(spread.next().is_some_and(|at| at <= now));
        spread.tick(&table, &mut neighbours, now, &mut out);
        assert_eq!(wanted(&mut out), [ProxyId::of("b1")]);
    }

    #[test]
    fn what_clusters_publish_in_batches_is_asked_for_later_than_what_is_urgent() {
        let own = ProxyId::of("a1");
        let table = filled(&[record("b1", "b", 1, MemberState::Up)]);
        let asked = |version, stamp| {
            let (mut spread, mut out) = (Spread::default(), Outbox::new(own));
            let key = ClusterKey { cluster: ClusterId::of("b"), version, down: version > 0, stamp };
            let have = Have { clusters: vec![key], ..Have::default() };
            spread.have(FROM, &have, &table, Time::ZERO, &mut out);
            spread.next()
        };
        assert_eq!(asked(1, 0), Some(Time::ZERO + GRAFT));
        assert_eq!(asked(0, 1), Some(Time::ZERO + GRAFT_BATCH));
        assert_eq!(asked(0, 0), None);
    }

    #[test]
    fn the_first_push_of_what_was_believed_as_announced_is_no_duplicate() {
        let table = filled(&[record("b1", "b", 2, MemberState::Up)]);
        let (b1, up) = (ProxyId::of("b1"), (2, MemberState::Up));
        let mut spread = Spread::default();
        spread.announced(&[Subject::Member(b1)], &table);
        assert!(spread.awaited(b1, up));
        assert!(!spread.awaited(b1, up));
        spread.announced(&[Subject::Member(b1)], &table);
        assert!(!spread.awaited(b1, (1, MemberState::Down)), "that is not what was announced");
    }

    #[test]
    fn two_ways_stay_eager_however_many_duplicates_come() {
        let own = ProxyId::of("a1");
        let mut neighbours = Neighbours::new(own, ClusterId::of("a"));
        let mut out = Outbox::new(own);
        for n in 1..=6 {
            neighbours.called(ProxyId(n), true, Time::ZERO);
        }
        for n in 1..=6 {
            Spread::duplicate(ProxyId(n), &mut neighbours, &mut out);
        }
        assert_eq!(neighbours.eager(), MIN_EAGER);
        // The other side may see a way otherwise.
        for n in 1..=6 {
            Spread::lazy(ProxyId(n), &mut neighbours, &mut out);
        }
        assert_eq!(neighbours.eager(), MIN_EAGER);
    }
}
