//! Table 1, a whole POP is lost: BGP moves its clients, its targets register
//! elsewhere, and targets elsewhere are untouched.

use std::time::Duration;

use pias_lab::{Lab, Signal, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, all_up, leave, since, up_at};
use crate::watch::{Watch, serve, watch_while};

const SECOND: Duration = Duration::from_secs(1);

const CONNECTIONS: usize = 50;

/// Time in which every proxy knows that a POP is gone.
const KNOWN: Duration = Duration::from_secs(5);

/// Time for the rest: BGP, and re-registration over an ocean.
const MOVED: Duration = Duration::from_secs(10);

/// Loses Frankfurt under the eyes of its client and of New York's. A target in
/// Frankfurt and one in New York serve the group.
fn pop(number: u8, fault: &str, break_it: impl FnOnce(&Lab), mend_it: impl FnOnce(&Lab)) {
    let Some(lab) = Stage::shared() else { return };
    let there = serve(&lab, "nyc-t1", number);
    // Frankfurt's client holds connections to New York: its ingress is lost, its
    // target is not.
    let watches = ["c-fra", "c-nyc"].map(|client| Watch::start(&lab, client, number, CONNECTIONS));
    let here = serve(&lab, "fra-t1", number);
    let before = here[0].joins().len();
    let event = clock();
    let (mut known, mut moved) = (Duration::ZERO, Duration::ZERO);
    let seen = watch_while(watches, MOVED, || {
        break_it(&lab);
        let left = ["nyc1", "nyc2", "sin1", "sin2"];
        let knows = |proxy: &&str| up_at(&lab, proxy).iter().all(|up| !up.starts_with("fra"));
        wait_until(MOVED, "the POP's loss to be known", || left.iter().all(knows))
            .expect("every proxy knows");
        known = since(event);
        here[0].wait_rejoined(MOVED, before).expect("the target joins elsewhere");
        moved = since(event);
    });
    for seen in &seen {
        seen.print("POP", fault);
    }
    println!(
        "  known to all after {} ms; its target joined at {} after {} ms",
        known.as_millis(),
        here[0].joins().pop().expect("a join").cluster,
        moved.as_millis()
    );
    mend_it(&lab);
    lab.wait_proxies().expect("every proxy is announced");
    println!("  whole again, all proxies see all after {:.1?}", all_up(&lab, 30 * SECOND));
    [there, here].into_iter().for_each(leave);
    assert!(known <= KNOWN, "{known:?}");
    let [fra, nyc] = &seen[..] else { panic!("two clients") };
    nyc.survived(SECOND);
    nyc.served_after(Duration::ZERO);
    fra.survived(MOVED);
    fra.served_after(5 * SECOND);
}

#[test]
fn a_pop_without_its_uplink_is_one_that_nobody_misses() {
    scenario(|| {
        let cut = |lab: &Lab| {
            let cut = lab.cut_pop("fra").expect("an uplink");
            println!("cut {:?}", cut.links());
        };
        pop(180, "uplink cut", cut, |lab| lab.restore_link("fra-uplink").expect("an uplink"));
    });
}

#[test]
fn a_pop_whose_proxies_are_all_killed_is_one_that_nobody_misses() {
    scenario(|| {
        const PROXIES: [&str; 2] = ["fra1", "fra2"];
        pop(
            181,
            "kill -9 of all proxies",
            |lab| {
                for proxy in PROXIES {
                    lab.host(proxy).kill("piasd", Signal::SIGKILL).expect("piasd runs");
                }
            },
            |lab| {
                for proxy in PROXIES {
                    lab.host(proxy).restart("piasd").expect("piasd starts again");
                }
            },
        );
    });
}
