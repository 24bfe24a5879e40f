//! Seeds of `pias-sim check` that failed once. Each is named after what was wrong.

use pias_sim::{
    Keep,
    check::{Plan, run},
};

fn holds(seed: u64) {
    let report = run(&Plan { seed, proxies: 20, keep: Keep::Tail });
    let broken = report.broken.map(|broken| broken.to_string());
    assert!(broken.is_none(), "{}\nseed {seed}: {}", report.trace, broken.unwrap_or_default());
}

/// Who believed it dead forgot what it had told it, and did not tell it that the last target left.
#[test]
fn a_rap_that_was_silent_for_a_while_learns_what_ended_meanwhile() {
    holds(6);
}

/// It had told its RAPs its counts, and they had forgotten them with it.
#[test]
fn a_jap_that_was_silent_for_a_while_tells_its_counts_again() {
    holds(193);
}

/// The cluster as a whole was taken for dead, and denied it: its proxies' own incarnations stayed.
#[test]
fn a_cluster_that_was_cut_off_tells_its_counts_again() {
    holds(13);
}

/// They were each other's only seeds, and their mates called them without saying who they are.
#[test]
fn proxies_that_start_at_once_and_know_only_each_other_find_their_mates() {
    holds(27);
}

/// A RAP heard the reports of a JAP's new life before it heard of the end of the former one.
#[test]
fn a_jap_tells_its_counts_once_more_when_its_start_is_known() {
    holds(208);
    holds(321);
}

/// The JAP forgot the group a moment after its last target had left, when it would have refreshed it,
/// and the RAP, which had been held for dead meanwhile, believed in it for as long as in any count.
#[test]
fn a_rap_that_was_silent_when_the_last_target_left_is_told_when_it_is_back() {
    holds(103);
}

/// The leave was reported to it in vain before it was taken for dead: as if it knew.
#[test]
fn a_rap_that_did_not_hear_of_the_last_leave_is_told_again_after_a_split() {
    holds(499);
}

/// It did not know the JAP yet and took no report from it; the next one was to follow when it would
/// have followed had the RAP never been away.
#[test]
fn a_rap_that_starts_anew_is_told_again_soon() {
    holds(1_120);
}

/// The seeds and all of another cluster had started anew and knew only each other; those who lived on called
/// the cluster that they held for dead without saying who they are.
#[test]
fn proxies_that_start_anew_learn_of_those_who_call_their_cluster() {
    holds(6_502);
}

/// Both seeds left and came back at once: they found each other, and were ready, and those who had stayed
/// called nobody who had said goodbye.
#[test]
fn seeds_that_restart_together_are_found_by_those_who_stayed() {
    holds(818);
}

/// A link was cut while it started: the RAP learned of its new life after it had been told everything
/// twice, and forgot it.
#[test]
fn a_rap_that_learns_late_of_a_new_life_asks_for_its_counts() {
    holds(1_972);
}

/// They had not run for seconds, and believed deaths that had been told meanwhile, and denied.
#[test]
fn who_did_not_run_does_not_take_old_news_for_news() {
    holds(8_472);
    holds(9_664);
    holds(11_754);
}
