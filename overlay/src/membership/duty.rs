//! Which cluster watches which, and which proxy does it: the same answer everywhere.
//!
//! Clusters stand on a ring in the order of their ids, which are hashes. Each is watched by the next
//! [`WATCHERS`] live ones clockwise, so each watches as many, and what lies between them that is
//! down.
//!
//! ```text
//!  ... A ── B ── C(down) ── D ── E ── F ...      F watches E, D, C, B, A;   A is watched by B, D, E, F
//! ```
//! Who finds many of its predecessors down looks as many steps further: a cluster that is cut off
//! from all others notices that within a few rounds, not four clusters at a time.

use std::{collections::BTreeSet, sync::Arc};

use pias_protocol::{
    hash,
    ids::{ClusterId, ProxyId},
};

use super::table::{Cluster, Table};
use crate::limits::{MAX_WATCHED, WATCHERS};

/// The member of `cluster` that deals with the cluster `with`: of the live ones.
pub(super) fn delegate(cluster: &Cluster, with: ClusterId) -> Option<ProxyId> {
    cluster.alive().map(|member| member.id).max_by_key(|id| hash::mix(with.0, id.0))
}

/// The clusters that `own` watches.
pub(super) fn watched(table: &Table, own: ClusterId) -> BTreeSet<ClusterId> {
    let mut watched = BTreeSet::new();
    let (mut down, mut live) = (0, 0);
    for cluster in table.before(own).take(MAX_WATCHED) {
        if cluster.standing().next().is_none() {
            continue;
        }
        watched.insert(cluster.id);
        if cluster.living() > 0 {
            live += 1;
        } else {
            down += 1;
        }
        if live >= WATCHERS + down {
            break;
        }
    }
    watched
}

/// The clusters that watch `cluster`, nearest first.
pub(super) fn watchers(table: &Table, cluster: ClusterId) -> impl Iterator<Item = &Arc<Cluster>> {
    table.after(cluster).filter(|other| other.living() > 0).take(WATCHERS)
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::MemberState;

    use super::{
        super::table::tests::{filled, record},
        *,
    };

    fn clusters(n: usize) -> Table {
        let of = |c| record(&format!("c{c}x1"), &format!("c{c}"), 1, MemberState::Up);
        filled(&(0..n).map(of).collect::<Vec<_>>())
    }

    fn id(n: usize) -> ClusterId {
        ClusterId::of(&format!("c{n}"))
    }

    fn fail(table: &mut Table, id: ClusterId) {
        table.edit(id, |cluster| cluster.down = true);
    }

    #[test]
    fn every_cluster_has_four_watchers_which_know_their_duty() {
        let mut table = clusters(40);
        for down in [3, 4, 17] {
            fail(&mut table, id(down));
        }
        for seen in (0..40).map(id) {
            let watchers: Vec<_> = watchers(&table, seen).map(|c| c.id).collect();
            assert_eq!(watchers.len(), WATCHERS);
            assert!(!watchers.contains(&seen));
            for watcher in watchers {
                assert!(watched(&table, watcher).contains(&seen));
            }
        }
    }

    #[test]
    fn where_there_are_few_clusters_all_watch_all() {
        let table = clusters(3);
        for own in (0..3).map(id) {
            assert_eq!(watched(&table, own).len(), 2);
            assert_eq!(watchers(&table, own).count(), 2);
        }
        assert_eq!(watchers(&clusters(1), id(0)).count(), 0);
    }

    #[test]
    fn a_cluster_that_is_cut_off_looks_at_everybody_within_a_few_rounds() {
        let mut table = clusters(300);
        let mut rounds = 0;
        while table.live_clusters() > 1 {
            for seen in watched(&table, id(0)) {
                fail(&mut table, seen);
            }
            rounds += 1;
        }
        assert!(rounds <= 8, "{rounds} rounds");
    }

    #[test]
    fn one_live_member_deals_with_a_cluster() {
        let mut table = filled(&[
            record("a1", "a", 1, MemberState::Up),
            record("a2", "a", 1, MemberState::Up),
            record("a3", "a", 1, MemberState::Down),
        ]);
        let a = ClusterId::of("a");
        let first = delegate(table.cluster(a).unwrap(), id(1)).unwrap();
        assert!(first == ProxyId::of("a1") || first == ProxyId::of("a2"));
        fail(&mut table, a);
        assert_eq!(delegate(table.cluster(a).unwrap(), id(1)), None);
    }
}
