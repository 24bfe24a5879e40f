//! Targets come and go, under their clients' eyes.

use std::time::Duration;

use pias_lab::{Join, Lab, Signal, Stream, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, anycast, join, leave, service, since};

const ONE_SECOND: Duration = Duration::from_secs(1);

/// How long a stream watches after something broke.
const WATCH: Duration = Duration::from_secs(3);

/// Two targets of one POP that share the group's flows, and a client that asks.
struct Pair<'lab> {
    lab: &'lab Lab,
    joins: [Join<'lab>; 2],
    stream: Stream<'lab>,
}

impl<'lab> Pair<'lab> {
    fn start(lab: &'lab Lab, number: u8, transport: &[&str]) -> Self {
        let [address, _] = anycast(number);
        let joins = ["fra-t1", "fra-t2"].map(|target| join(lab, target, &address, "53"));
        let stream = lab.host("c-fra").ask_steadily(&service(&address, 53), transport);
        let stream = stream.expect("a client that asks");
        wait_until(Duration::from_secs(10), "both targets to answer", || {
            stream.questions().by_target().len() == 2
        })
        .expect("flows are spread over both targets");
        Self { lab, joins, stream }
    }

    /// Breaks something of `fra-t1`, watches, and asserts that all flows that
    /// began a second later were served by `fra-t2`.
    fn within_a_second(
        self,
        what: &str,
        break_it: impl FnOnce(&Lab, &Join<'lab>),
    ) -> [Join<'lab>; 2] {
        let before = self.stream.questions();
        assert_eq!(before.answered(), before.asked(), "{:?}", before.failures());
        let event = clock();
        break_it(self.lab, &self.joins[0]);
        self.stream.watch_until(event + WATCH).expect("the client goes on");
        let after = self.stream.stop().expect("the client ends").since(event);
        let late = after.since(event + ONE_SECOND);
        println!(
            "{what}: {} of {} flows failed {:?}, the last one began after {:.0?}; answers since: {:?}, the last of fra-t1 after {:.0?}",
            after.asked() - after.answered(),
            after.asked(),
            after.failures(),
            after.outage(event),
            after.by_target(),
            after.last_of("fra-t1", event),
        );
        assert_eq!(late.answered(), late.asked(), "{:?}", late.failures());
        assert_eq!(late.by_target().into_keys().collect::<Vec<_>>(), ["fra-t2"]);
        self.joins
    }
}

/// Waits until `fra-t1` serves new flows of the group again.
fn back_again(lab: &Lab, number: u8) {
    let [address, _] = anycast(number);
    let stream = lab.host("c-fra").ask_steadily(&service(&address, 53), &[]).expect("a client");
    wait_until(Duration::from_secs(10), "fra-t1 to serve again", || {
        stream.questions().by_target().contains_key("fra-t1")
    })
    .expect("a target that is whole again is used again");
    stream.stop().expect("the client ends");
}

#[test]
fn a_killed_server_loses_its_new_udp_flows_to_the_other_target_within_a_second() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = Pair::start(&lab, 30, &[]).within_a_second("server killed, UDP", |lab, _| {
            lab.host("fra-t1").kill("nsd", Signal::SIGKILL).expect("nsd runs");
        });
        lab.host("fra-t1").restart("nsd").expect("nsd starts again");
        back_again(&lab, 30);
        leave(joins);
    });
}

/// Its machine says only once a second that nobody is there: most flows end in silence.
#[test]
fn a_killed_server_that_is_asked_a_thousand_times_a_second_loses_its_flows_to_the_other_within_a_second()
 {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [address, _] = anycast(36);
        let joins = ["fra-t1", "fra-t2"].map(|target| join(&lab, target, &address, "53/udp"));
        let service = service(&address, 53);
        let crowd = lab.host("c-fra").query(&[&service], 2000).expect("queries");
        crowd.watch_until(clock() + ONE_SECOND).expect("the client goes on");
        let event = clock();
        lab.host("fra-t1").kill("nsd", Signal::SIGKILL).expect("nsd runs");
        crowd.watch_until(event + 2 * WATCH).expect("the client goes on");
        let queries = crowd.stop().expect("the client ends").since(event);
        println!(
            "busy server killed: {} of {} queries failed {:?}, asked up to {:.0?} after; answers since: {:?}",
            queries.failures().values().sum::<usize>(),
            queries.asked(),
            queries.failures(),
            queries.outage(event).map(|(_, last)| last),
            queries.by_target(),
        );
        lab.host("fra-t1").restart("nsd").expect("nsd starts again");
        back_again(&lab, 36);
        leave(joins);
        assert!(queries.outage(event).is_none_or(|(_, last)| last <= ONE_SECOND));
    });
}

#[test]
fn a_killed_server_loses_its_new_tcp_flows_to_the_other_target_within_a_second() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins =
            Pair::start(&lab, 31, &["--tcp"]).within_a_second("server killed, TCP", |lab, _| {
                lab.host("fra-t1").kill("nsd", Signal::SIGKILL).expect("nsd runs");
            });
        lab.host("fra-t1").restart("nsd").expect("nsd starts again");
        back_again(&lab, 31);
        leave(joins);
    });
}

#[test]
fn a_killed_agent_loses_its_new_flows_to_the_other_target_within_a_second() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [_, other] = Pair::start(&lab, 32, &[]).within_a_second("agent killed", |_, join| {
            join.kill().expect("the agent runs");
        });
        leave([other]);
    });
}

#[test]
fn a_target_whose_link_is_cut_loses_its_new_flows_to_the_other_within_a_second() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = Pair::start(&lab, 33, &[]).within_a_second("link cut", |lab, _| {
            lab.cut_link("fra-t1").expect("a link");
        });
        lab.restore_link("fra-t1").expect("a link");
        back_again(&lab, 33);
        leave(joins);
    });
}

#[test]
fn a_target_that_leaves_gets_no_new_flow_from_then_on_and_none_is_lost() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let pair = Pair::start(&lab, 34, &[]);
        let [first, other] = pair.joins;
        first.leave().expect("the agent leaves");
        let left = clock();
        pair.stream.watch_until(left + ONE_SECOND).expect("the client goes on");
        let questions = pair.stream.stop().expect("the client ends");
        assert_eq!(questions.answered(), questions.asked(), "{:?}", questions.failures());
        let late = questions.since(left).by_target();
        println!("leave: none of {} flows failed; answers since: {late:?}", questions.asked());
        assert_eq!(late.into_keys().collect::<Vec<_>>(), ["fra-t2"]);
        leave([other]);
    });
}

#[test]
fn a_silent_target_without_traffic_is_gone_within_its_lease() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let [address, _] = anycast(35);
        let group = format!("{address}:53/udp");
        let join = join(&lab, "fra-t1", &address, "53/udp");
        let joined = join.joins().pop().expect("a join");
        let lease = Duration::from_millis(joined.lease_ms);
        assert!(lease <= Duration::from_secs(5), "few targets have short leases: {lease:?}");

        let listed = || {
            let targets = lab.host(&joined.proxy).piasctl(&["targets"]).expect("piasctl");
            let rows = targets["targets"].as_array().cloned().unwrap_or_default();
            rows.iter().any(|row| row["group"] == group.as_str() && row["state"] == "up")
        };
        assert!(listed());
        lab.host("fra-t1").kill(join.process(), Signal::SIGSTOP).expect("the agent runs");
        let stopped = clock();
        wait_until(2 * lease, "the silent target to go", || !listed()).expect("it goes");
        let took = since(stopped);
        println!("silent without traffic: gone after {took:.1?}, its lease is {lease:?}");
        // Half a second for looking.
        assert!(took <= lease + Duration::from_millis(500), "{took:?}");

        let before = join.joins().len();
        lab.host("fra-t1").kill(join.process(), Signal::SIGCONT).expect("the agent lives");
        join.wait_rejoined(Duration::from_secs(10), before).expect("it joins again");
        leave([join]);
    });
}
