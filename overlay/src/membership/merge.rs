//! Which of two records of a proxy counts, and what the change means.

use pias_protocol::overlay::{MemberRecord, MemberState};

use super::table::Addresses;

/// Room in an incarnation for refutations: the configured incarnation is shifted by this many bits,
/// and a refutation adds one. So a proxy that started anew is told from one that denied a rumour.
pub(crate) const REFUTATION_BITS: u32 = 16;

/// Incarnations of which none is left to deny a rumour with: [`NodeConfig::incarnation`] stays below.
///
/// [`NodeConfig::incarnation`]: crate::NodeConfig::incarnation
pub(crate) const MAX_INCARNATION: u64 = 1 << (47 + REFUTATION_BITS);

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

/// What a record of `new` incarnation and state changes about one of `old`: the higher incarnation
/// counts, and at the same incarnation the graver state.
pub(crate) fn change(old: (u64, MemberState), new: (u64, MemberState)) -> Change {
    if new <= old {
        return Change::Stale;
    }
    let anew = new.0 >> REFUTATION_BITS != old.0 >> REFUTATION_BITS;
    match (alive(old.1), alive(new.1)) {
        (true, true) if anew => Change::Restarted,
        (true, true) if new.1 == old.1 => Change::Same,
        (_, true) if new.1 == MemberState::Draining => Change::Draining,
        (_, true) => Change::Up,
        (true, false) => Change::Gone,
        (false, false) => Change::Same,
    }
}

/// Why a record is not believed by a proxy with the addresses `own`, whatever its incarnation.
pub(crate) fn implausible(own: Addresses, record: &MemberRecord) -> Option<&'static str> {
    let all = || record.unicast.iter().chain(&record.nat);
    if all().any(|a| a.is_unspecified() || a.is_multicast()) {
        return Some("an address that no machine can have");
    }
    let twice =
        |list: &[std::net::IpAddr]| list.len() == 2 && list[0].is_ipv4() == list[1].is_ipv4();
    if twice(&record.unicast) || twice(&record.nat) {
        return Some("two addresses of one family");
    }
    if Addresses::of(&record.unicast).from(own).is_none() {
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
        let up = (5 << REFUTATION_BITS, MemberState::Up);
        let refuted = ((5 << REFUTATION_BITS) + 1, MemberState::Up);
        let restarted = (6 << REFUTATION_BITS, MemberState::Up);
        assert_eq!(change(up, refuted), Change::Same);
        assert_eq!(change(up, restarted), Change::Restarted);
        let down = (5 << REFUTATION_BITS, MemberState::Down);
        assert_eq!(change(up, down), Change::Gone);
        assert_eq!(change(down, refuted), Change::Up);
    }

    proptest! {
        #[test]
        fn records_settle_on_one_whatever_order_they_come_in(
            rumours in prop::collection::vec((0_u64..4, states()), 1..12), order in any::<u64>(),
        ) {
            let settle = |list: &[(u64, MemberState)]| {
                let mut kept = list[0];
                for &new in &list[1..] {
                    if change(kept, new) != Change::Stale {
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
