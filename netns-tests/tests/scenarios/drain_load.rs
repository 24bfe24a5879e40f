//! Draining a proxy or a target breaks nothing, under load: 1,000 open TCP
//! connections and 2,000 UDP queries per second.

use std::time::Duration;

use pias_lab::{Crowd, HoldReport, Lab, QueryReport, Signal, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, anycast, leave, service, since};
use crate::watch::{ECHO_PORT, serve};

const SECOND: Duration = Duration::from_secs(1);

const CONNECTIONS: usize = 1000;

/// Per second.
const QUERIES: u32 = 2000;

/// The load of Frankfurt's client.
struct Load<'lab> {
    crowd: Crowd<'lab, HoldReport>,
    queries: Crowd<'lab, QueryReport>,
}

impl<'lab> Load<'lab> {
    fn start(lab: &'lab Lab, number: u8) -> Self {
        let [address, _] = anycast(number);
        let client = lab.host("c-fra");
        let echo = service(&address, ECHO_PORT);
        let crowd = client.hold(&echo, CONNECTIONS, &["--every", "1s"]).expect("connections");
        let queries = client.query(&[&service(&address, 53)], QUERIES).expect("queries");
        Self { crowd, queries }
    }

    /// Lets it go on until `moment`, ends it, and asserts that nothing failed
    /// since `event`.
    fn unharmed(self, what: &str, event: Duration, moment: Duration) {
        self.crowd.watch_until(moment).expect("the connections go on");
        self.queries.watch_until(moment + SECOND).expect("the queries go on");
        let held = self.crowd.stop().expect("the connections end");
        let queries = self.queries.stop().expect("the queries end");
        let early: usize = queries.failures().values().sum();
        let (held, queries) = (held.since(event), queries.since(event));
        println!(
            "{what}: {} of {} queries failed {:?} {:?}; {} of {CONNECTIONS} connections lost {:?}, longest \
             pause {} ms; answers by {:?}",
            queries.failures().values().sum::<usize>(),
            queries.asked(),
            queries.failures(),
            queries.outage(event),
            CONNECTIONS - held.open(),
            held.lost(),
            held.longest_pause().as_millis(),
            queries.by_target(),
        );
        assert_eq!(early, 0, "failures before the drain or in it");
        assert!(held.lost().is_empty(), "{:?}", held.lost());
        assert_eq!(held.open(), CONNECTIONS);
    }
}

#[test]
fn draining_a_proxy_loses_no_query_and_no_connection() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = serve(&lab, "fra-t1", 200);
        let proxy = joins[0].joins().pop().expect("a join").proxy;
        let load = Load::start(&lab, 200);
        let event = clock();
        lab.host(&proxy).kill("piasd", Signal::SIGTERM).expect("piasd runs");
        wait_until(30 * SECOND, "piasd to stop", || !lab.host(&proxy).runs("piasd"))
            .expect("it stops");
        println!("drain of {proxy}: stopped after {:.1?}", since(event));
        load.unharmed("drain of a proxy", event, clock() + 2 * SECOND);
        lab.host(&proxy).restart("piasd").expect("piasd starts again");
        lab.wait_proxies().expect("it is announced again");
        leave(joins);
    });
}

#[test]
fn draining_a_target_loses_no_query_and_no_connection() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let first = serve(&lab, "fra-t1", 201);
        let second = serve(&lab, "fra-t2", 201);
        let load = Load::start(&lab, 201);
        let event = clock();
        leave(first);
        load.unharmed("drain of a target", event, clock() + 3 * SECOND);
        leave(second);
    });
}
