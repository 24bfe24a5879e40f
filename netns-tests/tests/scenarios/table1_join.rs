//! Table 1, the join proxy dies: established flows survive inside the cluster,
//! new ones go to its mate, which serves its targets at once.
//!
//! Target and join proxy are in Frankfurt. One client is there too, so that half
//! of its flows enter at the proxy that breaks; the other is in New York, whose
//! proxies learn of the fault from afar.
//!
//! ```text
//! c-fra ─► fra1, fra2 ─┐
//! c-nyc ─► nyc1, nyc2 ─┴─► the JAP of fra-t1 ─► fra-t1
//!                            └─ breaks; its mate holds the records of its flows
//! ```

use std::time::Duration;

use pias_lab::{Lab, Signal, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, all_up, anycast, leave, mate, routing_settled, service};
use crate::watch::{ECHO_PORT, Watch, serve, watch_while};

const SECOND: Duration = Duration::from_secs(1);

/// Of each of the two clients.
const CONNECTIONS: usize = 50;

/// Of the one client while proxies die in turn.
const CROWD: usize = 500;

/// What happens to a join proxy.
struct Fault {
    name: &'static str,
    group: u8,
    /// How long clients are watched.
    after: Duration,
    /// The longest that an established connection may wait for an echo.
    pause: Duration,
    /// The longest that new flows may fail.
    outage: Duration,
    break_it: fn(&Lab, &str),
    mend_it: fn(&Lab, &str),
}

/// A packet counter of a proxy.
fn passed(lab: &Lab, proxy: &str, path: &str) -> u64 {
    let status = lab.host(proxy).piasctl(&["status"]).unwrap_or_default();
    status["engine"]["paths"][path].as_u64().unwrap_or(0)
}

/// How many flows of a group a proxy holds for its mates.
fn held(lab: &Lab, proxy: &str, group: &str) -> usize {
    let flows = lab.host(proxy).piasctl(&["flows", group]).unwrap_or_default();
    let flows = flows["flows"].as_array().into_iter().flatten();
    flows.filter(|flow| flow["role"] == "standby").count()
}

impl Fault {
    /// Breaks the join proxy of a service under the eyes of both clients once its
    /// mate knows their connections; how many of its flows the mate went on with.
    fn happen(&self) -> Option<u64> {
        let lab = Stage::shared()?;
        let joins = serve(&lab, "fra-t1", self.group);
        let jap = joins[1].joins().pop().expect("a join").proxy;
        let heir = mate(&jap);
        routing_settled(&lab, "fra");
        let start = |client| Watch::start(&lab, client, self.group, CONNECTIONS);
        let watches = ["c-fra", "c-nyc"].map(start);
        let echo = service(&anycast(self.group)[0], ECHO_PORT);
        let all_held = || held(&lab, &heir, &echo) == 2 * CONNECTIONS;
        wait_until(10 * SECOND, "the mate to hold all connections", all_held)
            .expect("flows older than a second are told");
        let promoted = || passed(&lab, &heir, "flow_promoted");
        let went_on = promoted();
        let seen = watch_while(watches, self.after, || (self.break_it)(&lab, &jap));
        for seen in &seen {
            seen.print("JAP", self.name);
        }
        let went_on = promoted() - went_on;
        (self.mend_it)(&lab, &jap);
        lab.wait_proxies().expect("every proxy is announced");
        all_up(&lab, 30 * SECOND);
        leave(joins);
        for seen in &seen {
            seen.survived(self.pause);
            seen.served_after(self.outage);
        }
        Some(went_on)
    }
}

/// Its daemon is started again.
fn restart(lab: &Lab, proxy: &str) {
    lab.host(proxy).restart("piasd").expect("piasd starts again");
}

#[test]
fn flows_survive_a_join_proxy_whose_daemon_is_killed() {
    scenario(|| {
        let fault = Fault {
            name: "kill -9",
            group: 140,
            after: 4 * SECOND,
            pause: 2 * SECOND,
            outage: 2 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).kill("piasd", Signal::SIGKILL).expect("piasd runs");
            },
            mend_it: restart,
        };
        let Some(went_on) = fault.happen() else { return };
        assert!(went_on >= 2 * CONNECTIONS as u64, "the mate went on with {went_on}");
    });
}

#[test]
fn flows_survive_a_join_proxy_that_is_killed_and_comes_back_at_once() {
    scenario(|| {
        let fault = Fault {
            name: "kill -9 and started again",
            group: 141,
            after: 10 * SECOND,
            pause: 3 * SECOND,
            outage: 3 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).kill("piasd", Signal::SIGKILL).expect("piasd runs");
                let ended = || !lab.host(proxy).runs("piasd");
                wait_until(SECOND, "piasd to end", ended).expect("nobody survives SIGKILL");
                restart(lab, proxy);
            },
            mend_it: |_, _| {},
        };
        fault.happen();
    });
}

#[test]
fn flows_survive_a_join_proxy_whose_host_hangs_for_five_seconds() {
    scenario(|| {
        let fault = Fault {
            name: "SIGSTOP 5 s of piasd and BIRD",
            group: 142,
            after: 9 * SECOND,
            pause: 3 * SECOND,
            outage: 7 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).freeze(&["bird", "piasd"], 5 * SECOND).expect("both run");
            },
            mend_it: |_, _| {},
        };
        fault.happen();
    });
}

#[test]
fn connections_survive_a_join_proxy_whose_daemon_hangs_for_five_seconds() {
    scenario(|| {
        let fault = Fault {
            name: "SIGSTOP 5 s of piasd alone",
            group: 143,
            after: 13 * SECOND,
            // Its host goes on to attract packets. TCP doubles its waits: who sent again just before the daemon
            // went on waits as long once more.
            pause: 12 * SECOND,
            outage: 7 * SECOND,
            break_it: |lab, proxy| {
                lab.host(proxy).freeze(&["piasd"], 5 * SECOND).expect("piasd runs");
            },
            mend_it: |_, _| {},
        };
        fault.happen();
    });
}

#[test]
fn flows_survive_a_join_proxy_that_is_unplugged() {
    scenario(|| {
        let fault = Fault {
            name: "link cut",
            group: 144,
            after: 4 * SECOND,
            pause: 3 * SECOND,
            outage: 2 * SECOND,
            break_it: |lab, proxy| lab.cut_link(proxy).expect("a link"),
            mend_it: |lab, proxy| lab.restore_link(proxy).expect("a link"),
        };
        let Some(went_on) = fault.happen() else { return };
        assert!(went_on >= 2 * CONNECTIONS as u64, "the mate went on with {went_on}");
    });
}

#[test]
fn connections_survive_a_join_proxy_whose_link_loses_30_percent() {
    scenario(|| {
        let fault = Fault {
            name: "link with 30 % loss for 5 s",
            group: 145,
            after: 14 * SECOND,
            // An echo crosses the link four times: three of four are lost, and TCP doubles its waits.
            pause: 12 * SECOND,
            outage: 7 * SECOND,
            break_it: |lab, proxy| lab.lose_frames(proxy, 30, 5 * SECOND).expect("a link"),
            mend_it: |_, _| {},
        };
        fault.happen();
    });
}

#[test]
fn connections_survive_the_death_of_each_proxy_of_a_pop_in_turn() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = serve(&lab, "fra-t1", 146);
        let [address, _] = anycast(146);
        let echo = service(&address, ECHO_PORT);
        for round in 1..=4 {
            // Opened while routing leads the agent's packets to the proxy that is back.
            let crowd = lab.host("c-fra").hold(&echo, CROWD, &["--every", "100ms"]);
            let crowd = crowd.expect("connections");
            crowd.watch_until(clock() + 4 * SECOND).expect("the connections go on");
            let jap = joins[1].joins().pop().expect("a join").proxy;
            let event = clock();
            lab.host(&jap).kill("piasd", Signal::SIGKILL).expect("piasd runs");
            crowd.watch_until(event + 4 * SECOND).expect("the connections go on");
            let held = crowd.stop().expect("the connections end");
            println!(
                "JAP, kill -9 of {jap}, round {round}: {} of {CROWD} connections lost {:?}",
                CROWD - held.open(),
                held.lost(),
            );
            assert_eq!(held.open(), CROWD, "{:?}", held.lost());
            restart(&lab, &jap);
            lab.wait_proxies().expect("every proxy is announced");
        }
        all_up(&lab, 30 * SECOND);
        leave(joins);
    });
}
