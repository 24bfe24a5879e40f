//! Hashes by which two proxies find out where their tables differ: of all, of a bucket of clusters,
//! of one cluster. They cover the living only: when the dead are forgotten is nobody's business.

use pias_protocol::{hash, ids::ClusterId, limits::BUCKETS};

use super::table::{Cluster, Table};

/// The hash of one cluster: its own record and those of its living members.
///
/// ```text
///  cluster id, version and stamp, then for each member by id: id, incarnation and state
/// ```
pub(super) fn cluster(cluster: &Cluster) -> u64 {
    let of_cluster = u64::from(cluster.version) << 32 | u64::from(cluster.stamp);
    let start = hash::mix(cluster.id.0, of_cluster);
    cluster.standing().fold(start, |digest, member| {
        let life = hash::mix(member.incarnation, member.state as u64);
        hash::mix(digest, hash::mix(member.id.0, life))
    })
}

/// What a cluster adds to the hashes of all and of its bucket, which are sums without carry.
pub(super) fn placed(cluster: &Cluster) -> u64 {
    match cluster.digest() {
        0 => 0,
        digest => hash::mix(cluster.id.0, digest),
    }
}

/// Which bucket a cluster is in.
pub(super) const fn bucket(cluster: ClusterId) -> usize {
    (cluster.0 >> (64 - BUCKETS.ilog2())) as usize
}

/// The hash of each bucket.
pub(super) fn buckets(table: &Table) -> Vec<u64> {
    let mut digests = vec![0; BUCKETS];
    for cluster in table.clusters() {
        digests[bucket(cluster.id)] ^= placed(cluster);
    }
    digests
}

#[cfg(test)]
mod tests {
    use pias_protocol::overlay::MemberState;

    use super::{
        super::table::tests::{filled, record},
        *,
    };

    #[test]
    fn a_change_shows_in_its_own_bucket_alone() {
        let one =
            filled(&[record("a1", "a", 1, MemberState::Up), record("b1", "b", 1, MemberState::Up)]);
        let other =
            filled(&[record("a1", "a", 1, MemberState::Up), record("b1", "b", 2, MemberState::Up)]);
        let differ: Vec<_> = buckets(&one)
            .iter()
            .zip(buckets(&other))
            .enumerate()
            .filter(|(_, (a, b))| **a != *b)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(differ, [bucket(ClusterId::of("b"))]);
        assert_ne!(one.root(), other.root());
    }

    #[test]
    fn every_build_hashes_a_table_alike() {
        let table = filled(&[
            record("fra1", "fra", 1, MemberState::Up),
            record("fra2", "fra", 3, MemberState::Draining),
            record("nyc1", "nyc", 2, MemberState::Down),
        ]);
        assert_eq!(table.root(), GOLDEN, "the digests of the wire changed");
    }

    const GOLDEN: u64 = 15_637_305_259_865_604_933;
}
