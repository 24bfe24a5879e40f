//! What proxies of a simulation share makes no difference but in memory.

use std::time::Duration;

use pias_sim::{Setup, Topology};

/// A service that starts knowing all, loses a proxy and a cluster, gets them back, and splits.
fn digest(share: bool, known: bool) -> (String, u64) {
    let setup = Setup { share, ..Setup::new(Topology::circle(8, 3), 5) };
    let mut sim = if known { setup.start_known() } else { setup.start() };
    sim.network.lose(20);
    sim.network.jitter(Duration::from_millis(2));
    sim.run_for(Duration::from_secs(5));
    for n in 0..6 {
        sim.join(n, "203.0.113.10:53/udp");
    }
    sim.crash("c1x2");
    sim.run_for(Duration::from_secs(3));
    sim.lose_cluster(4);
    sim.run_for(Duration::from_secs(8));
    sim.restart("c1x2");
    sim.restart("c4x1");
    sim.isolate(6);
    sim.run_for(Duration::from_secs(10));
    sim.network.heal();
    sim.run_for(Duration::from_secs(10));
    (sim.trace().to_owned(), sim.digest())
}

#[test]
fn a_run_without_sharing_is_the_same_to_the_byte() {
    for known in [false, true] {
        let (shared, alone) = (digest(true, known), digest(false, known));
        assert!(shared.0.len() > 100_000, "{} octets", shared.0.len());
        assert!(shared == alone, "sharing made a difference");
    }
}
