//! Table 1, the ingress proxy dies: new flows go to its cluster mate within the
//! IGP's time, established flows survive.
//!
//! The client and the ingress are in Frankfurt, the target in New York: the
//! join proxy is not the one that breaks. Routing spreads the client's flows
//! over Frankfurt's two proxies, so half of them enter at the one that does.

use std::time::Duration;

use pias_lab::{Lab, Signal};

use crate::stage::{Stage, all_up, leave};
use crate::watch::{Seen, Watch, serve, watch_while};

/// The ingress that breaks.
const VICTIM: &str = "fra1";

const CONNECTIONS: usize = 100;

/// Watches the client while something happens to its ingress, mends it, and
/// waits until all proxies see all others again.
fn ingress(
    number: u8,
    fault: &str,
    after: Duration,
    break_it: impl FnOnce(&Lab),
    mend_it: impl FnOnce(&Lab),
) -> Option<Seen> {
    let lab = Stage::shared()?;
    let joins = serve(&lab, "nyc-t1", number);
    let watch = Watch::start(&lab, "c-fra", number, CONNECTIONS);
    let seen = watch_while([watch], after, || break_it(&lab)).remove(0);
    seen.print("IAP", fault);
    mend_it(&lab);
    lab.wait_proxies().expect("every proxy is announced");
    all_up(&lab, Duration::from_secs(30));
    leave(joins);
    Some(seen)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn flows_survive_an_ingress_whose_daemon_is_killed() {
    let seen = ingress(
        150,
        "kill -9",
        3 * SECOND,
        |lab| lab.host(VICTIM).kill("piasd", Signal::SIGKILL).expect("piasd runs"),
        |lab| {
            lab.host(VICTIM).restart("piasd").expect("piasd starts again");
        },
    );
    let Some(seen) = seen else { return };
    seen.survived(2 * SECOND);
    seen.served_after(SECOND);
}

#[test]
fn flows_survive_an_ingress_whose_host_hangs_for_five_seconds() {
    let seen = ingress(
        151,
        "SIGSTOP 5 s of piasd and BIRD",
        8 * SECOND,
        |lab| lab.host(VICTIM).freeze(&["bird", "piasd"], 5 * SECOND).expect("both run"),
        |_| {},
    );
    let Some(seen) = seen else { return };
    seen.survived(3 * SECOND);
    seen.served_after(7 * SECOND);
}

#[test]
fn flows_survive_an_ingress_whose_daemon_hangs_for_five_seconds() {
    let seen = ingress(
        152,
        "SIGSTOP 5 s of piasd",
        8 * SECOND,
        |lab| lab.host(VICTIM).freeze(&["piasd"], 5 * SECOND).expect("piasd runs"),
        |_| {},
    );
    let Some(seen) = seen else { return };
    seen.survived(8 * SECOND);
    seen.served_after(7 * SECOND);
}

#[test]
fn flows_survive_an_ingress_that_is_unplugged() {
    let seen = ingress(
        153,
        "link cut",
        3 * SECOND,
        |lab| lab.cut_link(VICTIM).expect("a link"),
        |lab| lab.restore_link(VICTIM).expect("a link"),
    );
    let Some(seen) = seen else { return };
    seen.survived(2 * SECOND);
    seen.served_after(SECOND);
}

#[test]
fn connections_survive_an_ingress_whose_link_loses_30_percent() {
    let seen = ingress(
        154,
        "link with 30 % loss for 5 s",
        8 * SECOND,
        |lab| lab.lose_frames(VICTIM, 30, 5 * SECOND).expect("a link"),
        |_| {},
    );
    let Some(seen) = seen else { return };
    seen.survived(8 * SECOND);
    seen.served_after(7 * SECOND);
}
