//! Which candidate a flow goes to: weighted rendezvous hashing in integers.
//!
//! Every proxy that holds the same list makes the same choice, so a cluster mate that takes over
//! an ingress sends a flow where the dead one did. When a candidate goes, only its own flows move;
//! when a weight changes, only as many flows move as must (the property of rendezvous hashing).
//!
//! Scores are compared as `-log2(h) / weight` in fixed point: floating point would leave the choice
//! to a libm.

use serde::{Deserialize, Serialize};

use crate::{
    hash::{self, FlowHash},
    ids::ProxyId,
};

/// A JAP in the answer of a RAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which proxy.
    pub proxy: ProxyId,
    /// Its place in the order: lower tiers are used up before higher ones.
    pub tier: u8,
    /// Its share of flows within the tier; at least 1.
    pub weight: u32,
}

/// The candidate for a flow among those that `usable` allows: of the lowest tier that has any, the
/// one that wins the weighted draw.
#[must_use]
pub fn choose(
    candidates: &[Candidate],
    flow: FlowHash,
    usable: impl Fn(&Candidate) -> bool,
) -> Option<&Candidate> {
    let tier = candidates.iter().filter(|c| usable(c)).map(|c| c.tier).min()?;
    weighted(
        candidates.iter().filter(|c| c.tier == tier && usable(c)),
        flow,
        |c| c.proxy.0,
        |c| c.weight,
    )
}

/// All candidates in the order in which a flow tries them: [`choose`], then [`choose`] among the
/// rest, and so on.
#[must_use]
pub fn order(candidates: &[Candidate], flow: FlowHash) -> Vec<Candidate> {
    let mut rest = candidates.to_vec();
    let mut ordered = Vec::with_capacity(rest.len());
    while let Some(&next) = choose(&rest, flow, |_| true) {
        rest.retain(|c| c.proxy != next.proxy);
        ordered.push(next);
    }
    ordered
}

/// The item that wins the draw of `flow`; items of weight 0 take no part. Each wins a share of
/// flows in proportion to its weight.
pub fn weighted<T>(
    items: impl Iterator<Item = T>,
    flow: FlowHash,
    id: impl Fn(&T) -> u64,
    weight: impl Fn(&T) -> u32,
) -> Option<T> {
    let mut best: Option<(T, u64, u32, u64)> = None;
    for item in items {
        let (key, share) = (id(&item), weight(&item));
        if share == 0 {
            continue;
        }
        let cost = negative_log2(hash::mix(flow.0, key));
        let wins = best.as_ref().is_none_or(|&(_, other, other_share, other_key)| {
            let (mine, theirs) =
                (u128::from(cost) * u128::from(other_share), u128::from(other) * u128::from(share));
            (mine, key) < (theirs, other_key)
        });
        if wins {
            best = Some((item, cost, share, key));
        }
    }
    best.map(|(item, ..)| item)
}

/// `-log2((h + 1) / 2^64)` with 32 fractional bits, from 0 to 64 · 2^32, by repeated squaring.
fn negative_log2(h: u64) -> u64 {
    let h = h.max(1);
    let whole = u64::from(h.leading_zeros()) + 1;
    // The mantissa in [1, 2) with 63 fractional bits.
    let mut mantissa = h << h.leading_zeros();
    let mut fraction = 0_u64;
    for bit in (0..32).rev() {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        if square >> 64 != 0 {
            fraction |= 1 << bit;
            mantissa = (square >> 1) as u64;
        } else {
            mantissa = square as u64;
        }
    }
    (whole << 32) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[(u64, u8, u32)]) -> Vec<Candidate> {
        weights
            .iter()
            .map(|&(id, tier, weight)| Candidate { proxy: ProxyId(id), tier, weight })
            .collect()
    }

    fn flows() -> impl Iterator<Item = FlowHash> {
        (0..20_000_u64).map(|n| FlowHash(hash::mix(n, 77)))
    }

    #[test]
    fn flows_spread_in_proportion_to_weight() {
        let list = candidates(&[(1, 0, 1), (2, 0, 3)]);
        let heavy =
            flows().filter(|&f| choose(&list, f, |_| true).unwrap().proxy == ProxyId(2)).count();
        assert!((14_600..15_400).contains(&heavy), "3 of 4 expected, got {heavy} of 20000");
    }

    #[test]
    fn only_the_flows_of_a_dead_candidate_move() {
        let list = candidates(&[(1, 0, 2), (2, 0, 1), (3, 0, 5)]);
        for flow in flows() {
            let before = choose(&list, flow, |_| true).unwrap().proxy;
            let after = choose(&list, flow, |c| c.proxy != ProxyId(2)).unwrap().proxy;
            assert!(before == after || before == ProxyId(2));
        }
    }

    #[test]
    fn a_higher_tier_waits_until_the_lower_is_used_up() {
        let list = candidates(&[(1, 0, 1), (2, 1, 1000)]);
        for flow in flows().take(100) {
            assert_eq!(choose(&list, flow, |_| true).unwrap().proxy, ProxyId(1));
            assert_eq!(order(&list, flow)[1].proxy, ProxyId(2));
        }
        assert_eq!(choose(&list, FlowHash(1), |_| false), None);
    }

    #[test]
    fn the_logarithm_is_one() {
        assert_eq!(negative_log2(1 << 63), 1 << 32);
        assert_eq!(negative_log2(1), 64 << 32);
        assert_eq!(negative_log2(u64::MAX) >> 8, 0);
        // log2(3/4) = -0.41503749927884...
        let expected = (0.415_037_499_278_84 * 4_294_967_296.0) as u64;
        assert!(negative_log2(3 << 62).abs_diff(expected) < 4);
    }

    #[test]
    fn every_build_makes_the_same_choice() {
        let list = candidates(&[(11, 0, 3), (22, 0, 1), (33, 0, 2), (44, 1, 9)]);
        let chosen: Vec<u64> =
            flows().take(16).map(|f| choose(&list, f, |_| true).unwrap().proxy.0).collect();
        assert_eq!(chosen, [11, 11, 11, 11, 11, 11, 11, 22, 33, 22, 33, 33, 11, 11, 33, 11]);
    }
}
