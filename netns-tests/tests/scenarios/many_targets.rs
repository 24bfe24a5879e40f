//! A join proxy with many targets dies: no group is without service for longer
//! than a second, and all targets are registered again within ten.

use std::time::Duration;

use pias_lab::{Join, Lab, Signal, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, all_up, anycast, leave, mate, since};

const SECOND: Duration = Duration::from_secs(1);

/// Agents; a connection carries 256 targets at most.
const AGENTS: u16 = 8;

/// Targets of each agent, each in a group of its own.
const GROUPS: u16 = 250;

/// Groups that a client asks all the time.
const SAMPLED: u16 = 40;

/// Questions per second, over all sampled groups.
const RATE: u32 = 400;

/// The group of a number from 0.
fn group(number: u16) -> String {
    let [address, _] = anycast(210);
    format!("{address}:{}", 30_000 + number)
}

/// An agent that makes one host's DNS server a target of its share of groups.
fn start_agent<'lab>(lab: &'lab Lab, number: u16) -> Join<'lab> {
    let first = number * GROUPS;
    let groups: Vec<_> = (first..first + GROUPS).map(|n| format!("{}/udp", group(n))).collect();
    let mut words = vec!["--to", "10.1.11.2:53"];
    words.extend(groups[1..].iter().map(String::as_str));
    lab.host("fra-t1").start_join(&groups[0], &words).expect("an agent")
}

/// Targets that are registered at a proxy.
fn registered(lab: &Lab, proxy: &str) -> u64 {
    let status = lab.host(proxy).piasctl(&["status"]).unwrap_or_default();
    status["targets"].as_u64().unwrap_or(0)
}

#[test]
fn two_thousand_targets_of_a_killed_join_proxy_are_served_within_a_second_and_back_within_ten() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let all = u64::from(AGENTS * GROUPS);
        let joins: Vec<_> = (0..AGENTS).map(|number| start_agent(&lab, number)).collect();
        let at = |proxy: &str| registered(&lab, proxy);
        wait_until(30 * SECOND, "all targets to be registered", || at("fra1") + at("fra2") >= all)
            .expect("all join");
        let jap = if at("fra1") >= at("fra2") { "fra1" } else { "fra2" };
        let mine = at(jap);
        let sampled: Vec<_> =
            (0..SAMPLED).map(|n| group(n * (AGENTS * GROUPS / SAMPLED))).collect();
        let sampled: Vec<_> = sampled.iter().map(String::as_str).collect();
        let crowd = lab.host("c-fra").query(&sampled, RATE).expect("queries");
        let asked = clock();
        crowd.watch_until(asked + 4 * SECOND).expect("the client goes on");

        let event = clock();
        lab.host(jap).kill("piasd", Signal::SIGKILL).expect("piasd runs");
        let back = wait_until(30 * SECOND, "all targets to be registered again", || {
            registered(&lab, &mate(jap)) >= all
        });
        let back = back.map(|_| since(event));
        crowd.watch_until(clock() + 2 * SECOND).expect("the client goes on");
        let queries = crowd.stop().expect("the client ends").since(event);
        let outages = queries.outage_of_each(event);
        let longest = outages.values().max().copied().unwrap_or_default();
        println!(
            "JAP with {mine} of {all} targets killed: {} of {} queries to {SAMPLED} groups failed {:?}, the \
         longest outage of one was {} ms; all registered again after {back:.1?}",
            queries.failures().values().sum::<usize>(),
            queries.asked(),
            queries.failures(),
            longest.as_millis(),
        );
        lab.host(jap).restart("piasd").expect("piasd starts again");
        lab.wait_proxies().expect("it is announced again");
        all_up(&lab, 30 * SECOND);
        leave(joins);
        assert!(longest <= SECOND, "{longest:?}");
        assert!(back.is_ok_and(|back| back <= 10 * SECOND), "all are back within 10 s");
    });
}
