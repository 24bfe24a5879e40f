//! Anti-entropy: tables are compared by their hashes, and what differs is told, both ways.
//!
//! Every few seconds with a neighbour, now and then with any proxy: so whatever a broadcast missed
//! is made up for, and the halves of a split find together. The messages are those of
//! [`pias_protocol::overlay`]; no step keeps any state, so a lost one costs a period.

use std::collections::{BTreeMap, BTreeSet};

use pias_protocol::{
    ids::{ClusterId, ProxyId},
    limits::{MAX_CLUSTERS_PER_MESSAGE, MAX_KEYS_PER_MESSAGE},
    overlay::{Buckets, ClusterKey, Compare, Differ, Keys, MemberKey, Want},
};

use super::{
    digest,
    merge::alive,
    records,
    spread::Subject,
    table::{Member, Table},
};
use crate::outbox::Outbox;

/// Asks a proxy whether its table is like this one.
pub(super) fn compare(with: ProxyId, table: &Table, out: &mut Outbox) {
    let members = table.living() as u32;
    out.send(with, Compare { root: table.root(), members });
}

/// Whether it is best to tell all that is known here to the one that compares.
pub(super) fn knows_little(compare: Compare, table: &Table) -> bool {
    compare.root != table.root() && (compare.members as usize) < table.living() / 2
}

/// Tells all that is known here.
pub(super) fn fill(to: ProxyId, table: &Table, out: &mut Outbox) {
    for update in records::all(table) {
        out.send(to, update);
    }
}

/// Answers with the hashes of buckets.
pub(super) fn compared(from: ProxyId, compare: Compare, table: &Table, out: &mut Outbox) {
    let equal = compare.root == table.root();
    let digests = if equal { Vec::new() } else { digest::buckets(table) };
    out.send(from, Buckets { digests });
}

/// Answers with the hashes of the clusters in the buckets that differ: as many buckets as fit.
pub(super) fn buckets(from: ProxyId, theirs: &Buckets, table: &Table, out: &mut Outbox) {
    let own = digest::buckets(table);
    let mut sizes = vec![0; own.len()];
    for cluster in table.clusters().filter(|cluster| cluster.living() > 0) {
        sizes[digest::bucket(cluster.id)] += 1;
    }
    let (mut mask, mut size) = (0_u64, 0);
    for (bucket, (ours, theirs)) in own.iter().zip(&theirs.digests).enumerate() {
        if ours != theirs && size + sizes[bucket] <= MAX_CLUSTERS_PER_MESSAGE {
            mask |= 1 << bucket;
            size += sizes[bucket];
        }
    }
    if mask == 0 {
        return;
    }
    let wanted = |id: ClusterId| mask & 1 << digest::bucket(id) != 0;
    let clusters = table.clusters().filter(|cluster| cluster.living() > 0 && wanted(cluster.id));
    let clusters = clusters.map(|cluster| (cluster.id, cluster.digest())).collect();
    out.send(from, Differ { buckets: mask, clusters });
}

/// Answers with all that is known of the clusters that differ.
pub(super) fn differ(from: ProxyId, theirs: &Differ, table: &Table, out: &mut Outbox) {
    let digests: BTreeMap<_, _> = theirs.clusters.iter().copied().collect();
    let mut clusters: BTreeSet<_> = theirs
        .clusters
        .iter()
        .filter(|(id, digest)| table.cluster(*id).is_none_or(|own| own.digest() != *digest))
        .map(|&(id, _)| id)
        .collect();
    let ours = table.clusters().filter(|cluster| {
        cluster.living() > 0
            && theirs.buckets & 1 << digest::bucket(cluster.id) != 0
            && !digests.contains_key(&cluster.id)
    });
    clusters.extend(ours.map(|cluster| cluster.id));
    let mut keys = Keys::default();
    for id in clusters {
        let members: Vec<MemberKey> = match table.cluster(id) {
            Some(cluster) => cluster.members().iter().map(Member::key).collect(),
            None => Vec::new(),
        };
        if keys.clusters.len() >= MAX_CLUSTERS_PER_MESSAGE
            || keys.members.len() + members.len() > MAX_KEYS_PER_MESSAGE
        {
            out.send(from, std::mem::take(&mut keys));
        }
        let unknown = ClusterKey { cluster: id, version: 0, down: false, stamp: 0 };
        keys.clusters.push(table.cluster(id).map_or(unknown, |cluster| cluster.key()));
        keys.members.extend(members.into_iter().take(MAX_KEYS_PER_MESSAGE));
    }
    if !keys.clusters.is_empty() {
        out.send(from, keys);
    }
}

/// Tells what the other lacks, and asks for what is lacking here.
pub(super) fn keys(from: ProxyId, theirs: &Keys, table: &Table, out: &mut Outbox) {
    let (mut tell, mut want) = (Vec::new(), Want::default());
    let known: BTreeMap<_, _> = theirs.members.iter().map(|key| (key.proxy, *key)).collect();
    for key in &theirs.clusters {
        let Some(cluster) = table.cluster(key.cluster) else { continue };
        // The dead that the other does not know are not worth telling.
        let news = cluster.members().iter().filter(|member| match known.get(&member.id) {
            Some(key) => (member.incarnation, member.state) > (key.incarnation, key.state),
            None => !cluster.down && alive(member.state),
        });
        tell.extend(news.map(|member| Subject::Member(member.id)));
        let own = (cluster.version, cluster.down);
        if own > (key.version, key.down) || cluster.stamp > key.stamp {
            tell.push(Subject::Cluster(cluster.id));
        }
        if own < (key.version, key.down) || cluster.stamp < key.stamp {
            want.clusters.push(key.cluster);
        }
    }
    for key in &theirs.members {
        let wanted = match table.get(key.proxy) {
            Some((_, own)) => (own.incarnation, own.state) < (key.incarnation, key.state),
            None => alive(key.state),
        };
        if wanted {
            want.members.push(key.proxy);
        }
    }
    // A cluster that is unknown here comes with its members.
    let unknown = theirs.clusters.iter().filter(|key| {
        table.cluster(key.cluster).is_none() && !key.down && (key.version > 0 || key.stamp > 0)
    });
    want.clusters.extend(unknown.map(|key| key.cluster));
    for update in records::named(table, &tell, false) {
        out.send(from, update);
    }
    if !want.clusters.is_empty() || !want.members.is_empty() {
        out.send(from, want);
    }
}

/// Tells the records that were asked for.
pub(super) fn want(from: ProxyId, want: &Want, table: &Table, out: &mut Outbox) {
    // Members first: a cluster is known by them.
    let members = want.members.iter().map(|&id| Subject::Member(id));
    let clusters = want.clusters.iter().map(|&id| Subject::Cluster(id));
    let subjects: Vec<_> = members.chain(clusters).collect();
    for update in records::named(table, &subjects, want.eager) {
        out.send(from, update);
    }
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::{MemberState, OverlayMessage};

    use super::{
        super::table::tests::{filled, record},
        *,
    };
    use crate::outbox::Queued;

    const OTHER: ProxyId = ProxyId(1);

    fn said(out: &mut Outbox) -> Vec<OverlayMessage> {
        let message = |queued| match queued {
            Queued::Message { message, .. } => Some(message),
            Queued::Effect(_) => None,
        };
        std::iter::from_fn(|| out.pop()).filter_map(message).collect()
    }

    fn service(n: usize) -> Table {
        let of = |n| record(&format!("p{n}"), &format!("c{}", n / 4), 1, MemberState::Up);
        filled(&(0..n).map(of).collect::<Vec<_>>())
    }

    /// What two tables say to each other, with the octets of it.
    fn talk(one: &Table, other: &Table) -> Vec<(bool, OverlayMessage)> {
        let (tables, mut out) = ([one, other], Outbox::new(ProxyId(0)));
        compare(OTHER, one, &mut out);
        let mut all = Vec::new();
        let mut pending: Vec<_> = said(&mut out).into_iter().map(|m| (false, m)).collect();
        while let Some((from_other, message)) = pending.pop() {
            let table = tables[usize::from(!from_other)];
            match &message {
                OverlayMessage::Compare(m) if knows_little(*m, table) => {
                    fill(OTHER, table, &mut out);
                }
                OverlayMessage::Compare(m) => compared(OTHER, *m, table, &mut out),
                OverlayMessage::Buckets(m) => buckets(OTHER, m, table, &mut out),
                OverlayMessage::Differ(m) => differ(OTHER, m, table, &mut out),
                OverlayMessage::Keys(m) => keys(OTHER, m, table, &mut out),
                OverlayMessage::Want(m) => want(OTHER, m, table, &mut out),
                _ => {}
            }
            pending.extend(said(&mut out).into_iter().map(|m| (!from_other, m)));
            all.push((from_other, message));
        }
        all
    }

    fn told(talk: &[(bool, OverlayMessage)], from_other: bool) -> Vec<(String, MemberState)> {
        let mut told = Vec::new();
        for (from, message) in talk {
            if let OverlayMessage::MemberUpdate(update) = message
                && *from == from_other
            {
                told.extend(update.members.iter().map(|m| (m.name.clone(), m.state)));
            }
        }
        told.sort();
        told
    }

    #[test]
    fn equal_tables_cost_two_short_messages() {
        let talk = talk(&service(40), &service(40));
        assert_eq!(talk.len(), 2);
        assert_eq!(talk[1].1, Buckets { digests: vec![] }.into());
    }

    #[test]
    fn each_is_told_what_it_lacks_and_nothing_else() {
        let (mut one, mut other) = (service(40), service(40));
        one.put(
            "c1",
            vec![super::super::table::Member::of(&record("p4", "c1", 1, MemberState::Down))],
        );
        other.put(
            "c7",
            vec![super::super::table::Member::of(&record("new", "c7", 1, MemberState::Up))],
        );
        let talk = talk(&one, &other);
        assert_eq!(told(&talk, false), [("p4".to_owned(), MemberState::Down)]);
        assert_eq!(told(&talk, true), [("new".to_owned(), MemberState::Up)]);
    }

    #[test]
    fn who_knows_little_is_told_everything_at_once() {
        let talk = talk(&service(1), &service(1_000));
        assert_eq!(told(&talk, true).len(), 1_000);
        assert_eq!(talk.len(), 1 + 4);
    }

    #[test]
    fn the_dead_that_the_other_forgot_are_not_brought_back() {
        let (mut one, other) = (service(40), service(36));
        for n in 36..40 {
            let dead = record(&format!("p{n}"), "c9", 1, MemberState::Down);
            one.put("c9", vec![super::super::table::Member::of(&dead)]);
        }
        assert_eq!(one.root(), other.root());
    }
}
