//! Table 1, the ingress proxy dies: new flows go to its cluster mate within the
//! IGP's time, established flows survive.
//!
//! The client and the ingress are in one POP, the target is in another: the join
//! proxy is not the one that breaks. Routing spreads the client's flows over its
//! POP's two proxies, so half of them enter at the one that does.

use std::time::Duration;

use pias_lab::{Lab, Signal};

use crate::machine::scenario;
use crate::stage::{Stage, all_up, leave, routing_settled};
use crate::watch::{Seen, Watch, serve, watch_while};

const SECOND: Duration = Duration::from_secs(1);

const CONNECTIONS: usize = 100;

/// What happens to an ingress.
struct Fault {
    name: &'static str,
    /// The POP whose first proxy breaks, and the target of another.
    pop: &'static str,
    target: &'static str,
    group: u8,
    /// How long clients are watched.
    after: Duration,
    break_it: fn(&Lab, &str),
    mend_it: fn(&Lab, &str),
}

impl Fault {
    /// Watches a client while it happens, mends it, and waits until all proxies
    /// see all others again.
    fn happen(&self) -> Option<Seen> {
        let lab = Stage::shared()?;
        let victim = format!("{}1", self.pop);
        let joins = serve(&lab, self.target, self.group);
        routing_settled(&lab, self.pop);
        let client = format!("c-{}", self.pop);
        let watch = Watch::start(&lab, &client, self.group, CONNECTIONS);
        let break_it = || (self.break_it)(&lab, &victim);
        let seen = watch_while([watch], self.after, break_it).remove(0);
        seen.print("IAP", self.name);
        (self.mend_it)(&lab, &victim);
        lab.wait_proxies().expect("every proxy is announced");
        all_up(&lab, 30 * SECOND);
        leave(joins);
        Some(seen)
    }
}

#[test]
fn flows_survive_an_ingress_whose_daemon_is_killed() {
    scenario(|| {
        let fault = Fault {
            name: "kill -9",
            pop: "fra",
            target: "nyc-t1",
            group: 150,
            after: 3 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).kill("piasd", Signal::SIGKILL).expect("piasd runs");
            },
            mend_it: |lab, proxy| {
                lab.host(proxy).restart("piasd").expect("piasd starts again");
            },
        };
        let Some(seen) = fault.happen() else { return };
        seen.survived(SECOND);
        seen.served_after(SECOND);
    });
}

#[test]
fn flows_survive_an_ingress_whose_host_hangs_for_five_seconds() {
    scenario(|| {
        let fault = Fault {
            name: "SIGSTOP 5 s of piasd and BIRD",
            pop: "nyc",
            target: "fra-t1",
            group: 151,
            after: 8 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).freeze(&["bird", "piasd"], 5 * SECOND).expect("both run");
            },
            mend_it: |_, _| {},
        };
        let Some(seen) = fault.happen() else { return };
        seen.survived(3 * SECOND);
        seen.served_after(7 * SECOND);
    });
}

#[test]
fn flows_survive_an_ingress_whose_daemon_hangs_for_five_seconds() {
    scenario(|| {
        let fault = Fault {
            name: "SIGSTOP 5 s of piasd alone",
            pop: "fra",
            target: "nyc-t1",
            group: 152,
            after: 13 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).freeze(&["piasd"], 5 * SECOND).expect("piasd runs");
            },
            mend_it: |_, _| {},
        };
        let Some(seen) = fault.happen() else { return };
        // TCP doubles its waits: who sent again just before the daemon went on waits as long once more.
        seen.survived(12 * SECOND);
        seen.served_after(7 * SECOND);
    });
}

#[test]
fn flows_survive_an_ingress_that_is_unplugged() {
    scenario(|| {
        let fault = Fault {
            name: "link cut",
            pop: "sin",
            target: "fra-t1",
            group: 153,
            after: 3 * SECOND,
            break_it: |lab, proxy| lab.cut_link(proxy).expect("a link"),
            mend_it: |lab, proxy| lab.restore_link(proxy).expect("a link"),
        };
        let Some(seen) = fault.happen() else { return };
        seen.survived(3 * SECOND);
        seen.served_after(2 * SECOND);
    });
}

#[test]
fn connections_survive_an_ingress_whose_link_loses_30_percent() {
    scenario(|| {
        let fault = Fault {
            name: "link with 30 % loss for 5 s",
            pop: "nyc",
            target: "fra-t1",
            group: 154,
            after: 9 * SECOND,
            break_it: |lab, proxy| lab.lose_frames(proxy, 30, 5 * SECOND).expect("a link"),
            mend_it: |_, _| {},
        };
        let Some(seen) = fault.happen() else { return };
        seen.survived(9 * SECOND);
        seen.served_after(7 * SECOND);
    });
}
