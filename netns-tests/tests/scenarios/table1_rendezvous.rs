//! Table 1, a rendezvous proxy dies: new flows of a group that an ingress does
//! not know go to the next of the four, all others are untouched.
//!
//! ```text
//! c-nyc knows its group ──► nyc1, nyc2 ──┐
//! c-fra asks for new ones ─► fra1, fra2 ─┴─► sin1, sin2 ──► sin-t1
//!                                  └─ a RAP of all of them, it breaks
//! ```

use std::time::Duration;

use pias_lab::{Join, Lab, Signal, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, all_up, anycast, leave};
use crate::watch::{ECHO_PORT, Seen, Watch, serve, watch_while};

const SECOND: Duration = Duration::from_secs(1);

const CONNECTIONS: usize = 50;

/// The RAP that breaks.
const VICTIM: &str = "fra2";

/// Group numbers of this row; one is taken that has the victim as a RAP.
const NUMBERS: std::ops::Range<u8> = 160..170;

/// Ports of the row's address, each a group of its own.
const PORTS: std::ops::Range<u16> = 20_000..20_040;

/// Groups that nobody asked for before a fault.
const FRESH: usize = 2;

/// The RAPs of groups, as Frankfurt's other proxy knows them.
fn raps_of(lab: &Lab, groups: &[String]) -> Vec<Vec<String>> {
    let names = groups.join(" ");
    let look =
        format!("for group in {names}; do piasctl group $group -o json | tr -d '\\n'; echo; done");
    let output = lab.host("fra1").run_for(30 * SECOND, &["sh", "-c", &look]);
    let output = output.expect("piasctl").stdout;
    let raps = output.lines().map(|line| {
        let details: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let raps = details["groups"][0]["raps"].as_array().cloned().unwrap_or_default();
        raps.iter().filter_map(|rap| rap.as_str().map(str::to_owned)).collect()
    });
    raps.collect()
}

fn has_victim(raps: &[String]) -> bool {
    raps.iter().any(|rap| rap == VICTIM)
}

/// A group number whose DNS and echo groups both have the victim as a RAP.
fn known_group(lab: &Lab) -> u8 {
    let found = NUMBERS.into_iter().find(|number| {
        let [address, _] = anycast(*number);
        let groups = [format!("{address}:53/udp"), format!("{address}:{ECHO_PORT}/tcp")];
        raps_of(lab, &groups).iter().all(|raps| has_victim(raps))
    });
    found.expect("four of six proxies are RAPs of a group")
}

/// Groups of which the victim is the only RAP in Frankfurt, so that Frankfurt
/// asks it.
fn fresh_groups(lab: &Lab) -> Vec<String> {
    let [address, _] = anycast(NUMBERS.end);
    let groups: Vec<_> = PORTS.map(|port| format!("{address}:{port}/udp")).collect();
    let raps = raps_of(lab, &groups);
    let alone = |raps: &Vec<String>| {
        has_victim(raps) && raps.iter().filter(|rap| rap.starts_with("fra")).count() == 1
    };
    let found = groups.into_iter().zip(raps).filter(|(_, raps)| alone(raps));
    found.map(|(group, _)| group.trim_end_matches("/udp").to_owned()).collect()
}

/// Makes Singapore's DNS server a target of groups; returns when all of their
/// RAPs know.
fn join_all<'lab>(lab: &'lab Lab, groups: &[String]) -> Join<'lab> {
    let named: Vec<_> = groups.iter().map(|group| format!("{group}/udp")).collect();
    let (first, rest) = named.split_first().expect("a group");
    let mut words = vec!["--to", "10.3.11.2:53"];
    words.extend(rest.iter().map(String::as_str));
    let join = lab.host("sin-t1").join(first, &words).expect("the target joins");
    wait_until(10 * SECOND, "all groups to be joined", || join.joins().len() >= named.len())
        .expect("all are joined");
    join.wait_resolvable().expect("the RAPs are told");
    join
}

/// A fault of the row.
struct Fault {
    name: &'static str,
    /// How long it is watched.
    after: Duration,
    break_it: fn(&Lab, &str),
    mend_it: fn(&Lab, &str),
}

const FAULTS: [Fault; 4] = [
    Fault {
        name: "kill -9",
        after: Duration::from_secs(4),
        break_it: |lab, rap| lab.host(rap).kill("piasd", Signal::SIGKILL).expect("piasd runs"),
        mend_it: |lab, rap| {
            lab.host(rap).restart("piasd").expect("piasd starts again");
        },
    },
    Fault {
        name: "link cut",
        after: Duration::from_secs(4),
        break_it: |lab, rap| lab.cut_link(rap).expect("a link"),
        mend_it: |lab, rap| lab.restore_link(rap).expect("a link"),
    },
    Fault {
        name: "SIGSTOP 5 s",
        after: Duration::from_secs(7),
        break_it: |lab, rap| lab.host(rap).freeze(&["piasd"], 5 * SECOND).expect("piasd runs"),
        mend_it: |_, _| {},
    },
    Fault {
        name: "link with 30 % loss for 5 s",
        after: Duration::from_secs(7),
        break_it: |lab, rap| lab.lose_frames(rap, 30, 5 * SECOND).expect("a link"),
        mend_it: |_, _| {},
    },
];

/// Breaks the RAP under the eyes of a client that knows its group, and of one
/// whose groups nobody has asked for; how long those failed.
fn rendezvous(lab: &Lab, fault: &Fault, known: u8, fresh: &[String]) -> (Seen, Vec<Duration>) {
    let watch = Watch::start(lab, "c-nyc", known, CONNECTIONS);
    let event = clock();
    let (seen, firsts) = std::thread::scope(|scope| {
        let break_it = || (fault.break_it)(lab, VICTIM);
        let seen = scope.spawn(move || watch_while([watch], fault.after, break_it).remove(0));
        let firsts = fresh.iter().map(|group| {
            let words = ["--every", "50ms", "--patience", "1s"];
            let stream = lab.host("c-fra").ask_steadily(group, &words).expect("an answer");
            // Until the patience of the first questions is over.
            stream.watch_until(clock() + SECOND).expect("the client goes on");
            stream.stop().expect("the client ends").outage(event)
        });
        let firsts = firsts.collect();
        (seen.join().expect("the watch does not panic"), firsts)
    });
    (fault.mend_it)(lab, VICTIM);
    lab.wait_proxies().expect("every proxy is announced");
    (seen, firsts)
}

#[test]
fn a_rendezvous_proxy_breaks_and_flows_of_known_groups_do_not_notice() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let known = known_group(&lab);
        let joins = serve(&lab, "sin-t1", known);
        let all = fresh_groups(&lab);
        let mut fresh = all.chunks_exact(FRESH);
        for fault in FAULTS {
            let fresh = fresh.next().expect("a third of 40 groups is enough for four faults");
            let join = join_all(&lab, fresh);
            let (seen, firsts) = rendezvous(&lab, &fault, known, fresh);
            seen.print("RAP", fault.name);
            println!("  groups that nobody had asked for failed for {firsts:.0?}");
            all_up(&lab, 30 * SECOND);
            leave([join]);
            seen.survived(SECOND);
            seen.served_after(Duration::ZERO);
            assert!(firsts.iter().all(|outage| *outage < 7 * SECOND), "{firsts:?}");
        }
        leave(joins);
    });
}
