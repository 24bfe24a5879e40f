//! A new piasd takes over from the running one under load: nobody notices.

use std::time::Duration;

use pias_lab::{Crowd, HoldReport, Host, Join, Lab, QueryReport, Reports, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{POPS, Stage, anycast, join, leave, service, since};
use crate::watch::{ECHO_PORT, serve};

/// Of each family.
const CONNECTIONS: usize = 100;

/// Per second, of both families together.
const QUERIES: u32 = 2000;

/// The longest time that packets may wait for the next process.
const PAUSE: Duration = Duration::from_millis(300);

/// Between the upgrades of two POPs, in which what went wrong would show.
const PACE: Duration = Duration::from_secs(3);

/// Time that a hand-over gets on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

const TAKE_OVER: [&str; 4] = ["piasd", "--config", "/etc/pias/piasd.toml", "--take-over"];

/// Makes `host` a target of the group number in both families, for DNS and for an echo server.
fn serve_both<'lab>(lab: &'lab Lab, host: &str, number: u8) -> Vec<Join<'lab>> {
    let [_, second] = anycast(number);
    let echo = format!("{ECHO_PORT}/tcp");
    let mut joins = Vec::from(serve(lab, host, number));
    joins.extend(["53", &echo].map(|suffix| join(lab, host, &second, suffix)));
    joins
}

/// What a piasd of version 9999 of the hand-over says first; the answer is printed.
const GREETING_OF_TOMORROW: &str = "printf 'PIAS\\047\\017\\000\\000\\000\\000\\000\\000' \
     | socat -t 5 - UNIX-CONNECT:/run/pias/piasd.hand-over";

/// A client's load on a group of another POP, and what came of it.
struct Load<'lab> {
    crowds: [Crowd<'lab, HoldReport>; 2],
    queries: Crowd<'lab, QueryReport>,
    began: Duration,
}

impl<'lab> Load<'lab> {
    fn start(client: &Host<'lab>, number: u8) -> Self {
        let crowds = anycast(number).map(|address| {
            let echo = service(&address, ECHO_PORT);
            client.hold(&echo, CONNECTIONS, &["--every", "20ms"]).expect("connections")
        });
        let dns = anycast(number).map(|address| service(&address, 53));
        let queries = client.query(&[&dns[0], &dns[1]], QUERIES).expect("queries");
        Self { crowds, queries, began: clock() }
    }

    /// Ends it, and asserts that nothing failed; the longest pause of a connection.
    fn unharmed(self, what: &str) -> Duration {
        let end = clock() + Duration::from_secs(2);
        self.queries.watch_until(end).expect("the queries go on");
        let queries = self.queries.stop().expect("the queries end").since(self.began);
        println!(
            "{what}: {} of {} queries failed {:?}; answers by {:?}",
            queries.failures().values().sum::<usize>(),
            queries.asked(),
            queries.failures(),
            queries.by_target(),
        );
        let held = self.crowds.map(|crowd| {
            crowd.watch_until(end).expect("the connections go on");
            crowd.stop().expect("the connections end").since(self.began)
        });
        for held in &held {
            println!(
                "{what}: {} of {CONNECTIONS} connections lost {:?}, longest pause {} ms, {} words",
                CONNECTIONS - held.open(),
                held.lost(),
                held.longest_pause().as_millis(),
                held.words(),
            );
        }
        assert!(queries.failures().is_empty(), "{:?}", queries.failures());
        for held in &held {
            assert_eq!(held.open(), CONNECTIONS, "{:?}", held.lost());
        }
        held.iter().map(Reports::longest_pause).max().unwrap_or_default()
    }
}

/// Puts a new piasd of this name in the place of the one that runs, and waits until that one has ended.
fn replace(host: &Host<'_>, running: &str, next: &str) {
    let event = clock();
    host.spawn(next, &TAKE_OVER).expect("a new piasd starts");
    wait_until(LIMIT, format!("{running} to end"), || !host.runs(running)).expect("it ends");
    let took = since(event);
    let ended = host.process(running).expect("a host").and_then(|piasd| piasd.ended);
    assert_eq!(ended.as_deref(), Some("exit status: 0"), "{}", host.log(running));
    assert!(host.runs(next), "{}", host.log(next));
    println!("{}: upgraded after {took:.0?}; {}", host.name(), last_line(host, running));
}

/// As [`replace`], and waits until the agents that it had are members again, there or at its mate.
fn upgrade(host: &Host<'_>, running: &str, next: &str, joins: &[Join<'_>]) {
    let before: Vec<_> = joins.iter().map(Join::joins).collect();
    replace(host, running, next);
    for (join, before) in joins.iter().zip(before) {
        if before.last().is_some_and(|joined| joined.proxy == host.name()) {
            join.wait_rejoined(LIMIT, before.len()).expect("the agent joins again");
            join.wait_resolvable().expect("the RAPs hear of it");
        }
    }
}

/// What a process said last of a hand-over.
fn last_line(host: &Host<'_>, process: &str) -> String {
    let log = host.log(process);
    let line = log.lines().rfind(|line| line.contains("took over")).unwrap_or_default();
    line.split_once("INFO ").map_or(line, |(_, words)| words).to_owned()
}

/// How often other proxies said that this one is gone.
fn deaths(lab: &Lab, proxy: &str) -> usize {
    let words = format!("proxy {proxy} is gone");
    let proxies = POPS.iter().flat_map(|pop| [format!("{pop}1"), format!("{pop}2")]);
    proxies.map(|other| lab.host(&other).log("piasd").matches(&words).count()).sum()
}

#[test]
fn an_upgrade_of_the_join_proxy_loses_no_query_and_no_connection() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = serve_both(&lab, "fra-t1", 210);
        let proxy = joins[0].joins()[0].proxy.clone();
        let host = lab.host(&proxy);
        let dead = deaths(&lab, &proxy);
        let load = Load::start(&lab.host("c-nyc"), 210);

        upgrade(&host, "piasd", "piasd-next", &joins);
        let status = host.piasctl(&["status"]).expect("the new piasd answers");
        assert_eq!((&status["ready"], &status["state"]), (&true.into(), &"up".into()));
        // And back, as the lab's own process.
        upgrade(&host, "piasd-next", "piasd", &joins);

        let pause = load.unharmed(&format!("two upgrades of the join proxy {proxy}"));
        assert!(pause < PAUSE, "{pause:?}");
        assert_eq!(deaths(&lab, &proxy), dead, "nobody took it for dead");
        leave(joins);
    });
}

#[test]
fn a_rolling_upgrade_of_all_proxies_loses_no_query_and_no_connection() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = serve_both(&lab, "fra-t1", 211);
        let load = Load::start(&lab.host("c-nyc"), 211);
        for [running, next] in [["piasd", "piasd-next"], ["piasd-next", "piasd"]] {
            for pop in POPS {
                // The agents of one mate join at the other while that one is replaced.
                for number in 1..=2 {
                    replace(&lab.host(&format!("{pop}{number}")), running, next);
                }
                load.queries.watch_until(clock() + PACE).expect("the queries go on");
            }
        }
        load.unharmed("two upgrades of each of six proxies");
        leave(joins);
    });
}

#[test]
fn piasctl_upgrades_and_an_upgrade_that_fails_at_any_point_changes_nothing() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = serve_both(&lab, "fra-t1", 212);
        let proxy = joins[0].joins()[0].proxy.clone();
        let host = lab.host(&proxy);
        let load = Load::start(&lab.host("c-nyc"), 212);

        let refused = host.run(&["piasctl", "upgrade", "/bin/false"]).expect("piasctl");
        assert!(!refused.success() && refused.stderr.contains("/bin/false"), "{refused:?}");
        let greeted = host.run(&["sh", "-c", GREETING_OF_TOMORROW]).expect("socat");
        assert!(greeted.stdout.contains("speaks version 9999"), "{greeted:?}");
        // It runs out of descriptors at one point after the other: before the hand-over, when the
        // device and the sockets arrive, and when it makes sockets of its own.
        for files in [12, 100, 141, 142, 144, 146, 148, 150] {
            let limit = format!("--nofile={files}");
            let words = [&["prlimit", &limit], &TAKE_OVER[..]].concat();
            let failed = host.run_for(LIMIT, &words).expect("a new piasd that fails");
            assert!(!failed.success(), "{files} files are enough");
            let last = failed.stderr.lines().last().unwrap_or_default();
            println!("{proxy}, {files} files: {last}");
            assert!(host.runs("piasd"), "{}", host.log("piasd"));
        }
        let answer = host.piasctl(&["upgrade"]).expect("an upgrade");
        println!("{proxy}: piasctl upgrade: {answer}");
        wait_until(LIMIT, "the former piasd to end", || !host.runs("piasd")).expect("it ends");
        let status = host.piasctl(&["status"]).expect("the new piasd answers");
        assert_eq!(status["ready"], true);
        // The lab's own process again.
        let taken = || host.log("piasd").matches("in the place of another process").count();
        let before = taken();
        host.spawn("piasd", &TAKE_OVER).expect("a new piasd starts");
        wait_until(LIMIT, "the lab's piasd to take over", || taken() > before)
            .expect("it takes over");

        load.unharmed(&format!("failed upgrades, and two that succeed, of the join proxy {proxy}"));
        leave(joins);
    });
}
