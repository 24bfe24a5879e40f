//! A fixed number of seeds of `pias-sim check`; `make soak` runs others.

use pias_sim::{
    Keep,
    check::{Plan, run},
};

const SEEDS: std::ops::Range<u64> = 0..100;

fn plan(seed: u64) -> Plan {
    Plan { seed, proxies: 20, keep: Keep::Tail }
}

#[test]
fn random_faults_break_no_invariant() {
    for seed in SEEDS {
        let report = run(&plan(seed));
        assert!(
            report.broken.is_none(),
            "{}\nseed {seed}: {}",
            report.trace,
            report.broken.map(|broken| broken.to_string()).unwrap_or_default()
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_to_the_byte() {
    let trace = |seed| run(&Plan { keep: Keep::All, ..plan(seed) }).trace;
    let (one, again) = (trace(3), trace(3));
    assert!(one.len() > 10_000);
    assert!(one == again, "two runs of one seed differ");
    assert_eq!(run(&plan(3)).digest, run(&plan(3)).digest);
    assert_ne!(run(&plan(3)).digest, run(&plan(4)).digest);
}
