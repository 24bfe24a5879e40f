//! Which of two records of a proxy counts, and what the change means.

use std::net::IpAddr;

use pias_protocol::overlay::{MemberRecord, MemberState};

/// Room in an incarnation for refutations: the configured incarnation is shifted by this many bits,
/// and a refutation adds one. So a proxy that started anew is told from one that denied a rumour.
pub(crate) const REFUTATION_BITS: u32 = 16;

/// What a record means for those who use the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing new.
    Stale,
    /// Newer, but it takes part as before.
    Same,
    /// It begins to take part, or takes groups and targets again.
    Up,
    /// It takes part, but takes no new groups and targets.
    Draining,
    /// It takes no part any more.
    Gone,
    /// It started anew: whatever it knew is lost, and whatever was known of it is void.
    Restarted,
}

/// Whether a proxy in this state answers.
pub(crate) const fn alive(state: MemberState) -> bool {
    matches!(state, MemberState::Up | MemberState::Draining)
}

/// What the record `new` changes about `old`: the higher incarnation counts, and at the same
/// incarnation the graver state.
pub(crate) fn change(old: &MemberRecord, new: &MemberRecord) -> Change {
    if (new.incarnation, new.state) <= (old.incarnation, old.state) {
        return Change::Stale;
    }
    let anew = new.incarnation >> REFUTATION_BITS != old.incarnation >> REFUTATION_BITS;
    match (alive(old.state), alive(new.state)) {
        (true, true) if anew => Change::Restarted,
        (true, true) if new.state == old.state => Change::Same,
        (_, true) if new.state == MemberState::Draining => Change::Draining,
        (_, true) => Change::Up,
        (true, false) => Change::Gone,
        (false, false) => Change::Same,
    }
}

/// Where a proxy is reached from one that has the addresses `own`: over IPv4 if both have it.
pub(crate) fn reachable_at(own: &[IpAddr], theirs: &[IpAddr]) -> Option<IpAddr> {
    let common = |v4: bool| {
        let family = |a: &&IpAddr| a.is_ipv4() == v4;
        own.iter().find(family).and(theirs.iter().find(family)).copied()
    };
    common(true).or_else(|| common(false))
}

/// Why a record is not believed, whatever its incarnation.
pub(crate) fn implausible(own: &[IpAddr], record: &MemberRecord) -> Option<&'static str> {
    let usable = |a: &IpAddr| !a.is_unspecified() && !a.is_multicast();
    if !record.unicast.iter().all(usable) {
        return Some("an address that no machine can have");
    }
    if record.unicast.len() == 2 && record.unicast[0].is_ipv4() == record.unicast[1].is_ipv4() {
        return Some("two addresses of one family");
    }
    if reachable_at(own, &record.unicast).is_none() {
        return Some(
            "no address of a family that this proxy has: give every proxy an IPv4 address",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(incarnation: u64, state: MemberState) -> MemberRecord {
        MemberRecord {
            name: "fra1".into(),
            cluster: "fra".into(),
            unicast: vec!["192.0.2.1".parse().unwrap()],
            nat: vec![],
            incarnation,
            state,
        }
    }

    fn states() -> impl Strategy<Value = MemberState> {
        prop_oneof![
            Just(MemberState::Up),
            Just(MemberState::Draining),
            Just(MemberState::Down),
            Just(MemberState::Left)
        ]
    }

    #[test]
    fn a_restart_is_told_from_a_refutation() {
        let up = record(5 << REFUTATION_BITS, MemberState::Up);
        let refuted = record((5 << REFUTATION_BITS) + 1, MemberState::Up);
        let restarted = record(6 << REFUTATION_BITS, MemberState::Up);
        assert_eq!(change(&up, &refuted), Change::Same);
        assert_eq!(change(&up, &restarted), Change::Restarted);
        let down = record(5 << REFUTATION_BITS, MemberState::Down);
        assert_eq!(change(&up, &down), Change::Gone);
        assert_eq!(change(&down, &refuted), Change::Up);
    }

    #[test]
    fn the_older_family_is_used_where_both_have_it() {
        let both: Vec<IpAddr> = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let six: Vec<IpAddr> = vec!["2001:db8::2".parse().unwrap()];
        assert_eq!(reachable_at(&both, &both), Some(both[1]));
        assert_eq!(reachable_at(&both, &six), Some(six[0]));
        assert_eq!(reachable_at(&both[1..], &six), None);
    }

    proptest! {
        #[test]
        fn records_settle_on_one_whatever_order_they_come_in(
            rumours in prop::collection::vec((0_u64..4, states()), 1..12), order in any::<u64>(),
        ) {
            let settle = |list: &[(u64, MemberState)]| {
                let mut kept = record(list[0].0, list[0].1);
                for &(incarnation, state) in &list[1..] {
                    let new = record(incarnation, state);
                    if change(&kept, &new) != Change::Stale {
                        kept = new;
                    }
                }
                kept
            };
            let mut shuffled = rumours.clone();
            shuffled.sort_by_key(|&(i, s)| pias_protocol::hash::mix(i * 8 + s as u64, order));
            prop_assert_eq!(settle(&rumours), settle(&shuffled));
        }
    }
}
