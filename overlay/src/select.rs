//! The policy: which JAPs an ingress is told, in which tiers and with which weights.
//!
//! Every RAP computes it from what all were told alike (counts, published distances), and for the
//! ingress's *cluster*: the proxies of one cluster get one list, so a mate makes the same choice.

use pias_protocol::{
    hash,
    ids::{ClusterId, ProxyId},
    limits::MAX_CANDIDATES,
    placement::Candidate,
};

use crate::config::Policy;

/// Round-trip time in units of 0.1 ms, as it is published.
pub(crate) type Distance = u16;

/// Clusters nearer to each other than this share a tier: 0.5 ms, or a tenth of the way.
const NEARBY: u32 = 5;

/// A JAP of a group, as the RAP counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) proxy: ProxyId,
    pub(crate) cluster: ClusterId,
    /// The weight of its targets, summed; not 0.
    pub(crate) count: u32,
}

/// The list for an ingress in `ingress`; `distance` is from there to a cluster, if it is known.
pub(crate) fn select(
    policy: Policy,
    ingress: ClusterId,
    counted: &[Counted],
    distance: impl Fn(ClusterId) -> Option<Distance>,
) -> Vec<Candidate> {
    let mut list = match policy {
        Policy::Nearest => by_distance(ingress, counted, distance),
        Policy::Balanced => one_tier(counted, |jap| jap.count),
        Policy::Random => one_tier(counted, |_| 1),
    };
    if list.len() > MAX_CANDIDATES {
        // Of those that are equally good each cluster gets others, so that none is left out by all.
        list.sort_by_key(|c| (c.tier, hash::mix(ingress.0, c.proxy.0)));
        list.truncate(MAX_CANDIDATES);
    }
    list.sort_by_key(|c| (c.tier, c.proxy));
    list
}

fn one_tier(counted: &[Counted], weight: impl Fn(&Counted) -> u32) -> Vec<Candidate> {
    let candidate =
        |jap: &Counted| Candidate { proxy: jap.proxy, tier: 0, weight: weight(jap).max(1) };
    counted.iter().map(candidate).collect()
}

/// The ingress's own cluster is a tier of its own; then clusters by distance, those [`NEARBY`] the
/// first of a tier in that tier; those at unknown distance last.
fn by_distance(
    ingress: ClusterId,
    counted: &[Counted],
    distance: impl Fn(ClusterId) -> Option<Distance>,
) -> Vec<Candidate> {
    let far = u32::MAX;
    let mut ranked: Vec<(u32, &Counted)> = counted
        .iter()
        .map(|jap| match jap.cluster {
            // Others are at least 1 away, so that this tier is shared with nobody.
            own if own == ingress => (0, jap),
            other => (distance(other).map_or(far, |d| u32::from(d).max(1)), jap),
        })
        .collect();
    ranked.sort_by_key(|&(away, jap)| (away, jap.proxy));
    let (mut tier, mut first) = (0_u8, None);
    ranked
        .into_iter()
        .map(|(away, jap)| {
            let base = *first.get_or_insert(away);
            let reach = if base == 0 { 0 } else { base.saturating_add((base / 10).max(NEARBY)) };
            if away > reach {
                (tier, first) = (tier.saturating_add(1), Some(away));
            }
            Candidate { proxy: jap.proxy, tier, weight: jap.count.max(1) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOME: ClusterId = ClusterId(1);

    fn jap(proxy: u64, cluster: u64, count: u32) -> Counted {
        Counted { proxy: ProxyId(proxy), cluster: ClusterId(cluster), count }
    }

    fn tiers(list: &[Candidate]) -> Vec<(u64, u8, u32)> {
        list.iter().map(|c| (c.proxy.0, c.tier, c.weight)).collect()
    }

    fn distances(cluster: ClusterId) -> Option<Distance> {
        match cluster.0 {
            1 => Some(0),
            2 => Some(3),
            3 => Some(100),
            4 => Some(109),
            5 => Some(200),
            _ => None,
        }
    }

    #[test]
    fn the_own_cluster_comes_first_and_alone_then_others_by_distance() {
        let counted = [
            jap(60, 6, 1),
            jap(50, 5, 2),
            jap(40, 4, 3),
            jap(30, 3, 4),
            jap(20, 2, 5),
            jap(10, 1, 6),
        ];
        assert_eq!(
            tiers(&select(Policy::Nearest, HOME, &counted, distances)),
            [(10, 0, 6), (20, 1, 5), (30, 2, 4), (40, 2, 3), (50, 3, 2), (60, 4, 1)]
        );
    }

    #[test]
    fn balanced_and_random_have_one_tier() {
        let counted = [jap(10, 1, 6), jap(50, 5, 2)];
        assert_eq!(
            tiers(&select(Policy::Balanced, HOME, &counted, distances)),
            [(10, 0, 6), (50, 0, 2)]
        );
        assert_eq!(
            tiers(&select(Policy::Random, HOME, &counted, distances)),
            [(10, 0, 1), (50, 0, 1)]
        );
    }

    #[test]
    fn a_long_list_is_cut_differently_for_different_clusters() {
        let counted: Vec<_> = (0..200).map(|n| jap(n, 7, 1)).collect();
        let here = select(Policy::Balanced, HOME, &counted, distances);
        let there = select(Policy::Balanced, ClusterId(2), &counted, distances);
        assert_eq!(here.len(), MAX_CANDIDATES);
        assert_ne!(here, there);
    }

    proptest! {
        #[test]
        fn the_list_does_not_depend_on_the_order_of_reports(
            japs in prop::collection::btree_map(0_u64..500, (0_u64..9, 1_u32..50), 0..120),
            order in any::<u64>(),
            policy in prop_oneof![Just(Policy::Nearest), Just(Policy::Balanced), Just(Policy::Random)],
        ) {
            let straight: Vec<_> = japs.iter().map(|(&p, &(c, n))| jap(p, c, n)).collect();
            let mut shuffled = straight.clone();
            shuffled.sort_by_key(|j| hash::mix(j.proxy.0, order));
            let list = select(policy, HOME, &straight, distances);
            prop_assert_eq!(&list, &select(policy, HOME, &shuffled, distances));
            prop_assert_eq!(list.len(), straight.len().min(MAX_CANDIDATES));
            prop_assert!(list.iter().all(|c| c.weight > 0));
        }
    }
}
