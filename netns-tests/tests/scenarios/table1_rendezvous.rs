//! Table 1, a rendezvous proxy dies: new flows of a group that an ingress does
//! not know go to the next of the four, all others are untouched.
//!
//! ```text
//! client, ingress: fra        RAPs: nyc1 nyc2 sin1 sin2        target, join proxy: sin
//!                                   └─ the one that the ingress asks breaks
//! ```

use std::time::Duration;

use pias_lab::{Join, Lab, Signal, clock, wait_until};

use crate::stage::{Stage, all_up, anycast, leave, mate};
use crate::watch::{Seen, Watch, serve, watch_while};

const SECOND: Duration = Duration::from_secs(1);

const CONNECTIONS: usize = 50;

/// The group number of this row.
const NUMBER: u8 = 160;

/// Ports of the row's address, each a group of its own. The RAPs of one in
/// fifteen are the two other POPs' proxies.
const PORTS: std::ops::Range<u16> = 20_000..20_160;

/// Groups that no client of a fault has asked for before.
const FRESH: usize = 2;

/// The row's groups without a RAP in Frankfurt, and the RAP that Frankfurt's
/// proxies ask.
fn foreign_groups(lab: &Lab) -> Vec<(String, String)> {
    let [address, _] = anycast(NUMBER);
    let look = format!(
        "for port in $(seq {} {}); do piasctl group {address}:$port/udp -o json | tr -d '\\n'; \
         echo; done",
        PORTS.start,
        PORTS.end - 1
    );
    let host = lab.host("fra1");
    let output = host.run_for(30 * SECOND, &["sh", "-c", &look]).expect("piasctl").stdout;
    let groups = output.lines().filter_map(|line| {
        let details: serde_json::Value = serde_json::from_str(line).ok()?;
        let group = &details["groups"][0];
        let raps = group["raps"].as_array()?;
        let foreign = raps.iter().all(|rap| !rap.as_str().unwrap_or("fra").starts_with("fra"));
        let name = group["group"].as_str()?.trim_end_matches("/udp");
        foreign.then(|| (name.to_owned(), group["asks"].as_str().unwrap_or_default().to_owned()))
    });
    groups.collect()
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

/// Breaks a RAP that Frankfurt asks, under the eyes of clients that know their
/// group, and of clients whose groups nobody has asked for.
fn rendezvous(lab: &Lab, fault: &Fault, fresh: &[String], rap: &str) -> (Seen, Vec<Duration>) {
    let watch = Watch::start(lab, "c-fra", NUMBER, CONNECTIONS);
    let event = clock();
    let (seen, firsts) = std::thread::scope(|scope| {
        let seen = scope
            .spawn(|| watch_while([watch], fault.after, || (fault.break_it)(lab, rap)).remove(0));
        let firsts = fresh.iter().map(|group| {
            let words = ["--every", "50ms", "--patience", "1s"];
            let stream = lab.host("c-fra").ask_steadily(group, &words).expect("an answer");
            stream.stop().expect("the client ends").outage(event)
        });
        let firsts = firsts.collect();
        (seen.join().expect("the watch does not panic"), firsts)
    });
    (fault.mend_it)(lab, rap);
    lab.wait_proxies().expect("every proxy is announced");
    (seen, firsts)
}

#[test]
fn a_rendezvous_proxy_breaks_and_flows_of_known_groups_do_not_notice() {
    let Some(lab) = Stage::shared() else { return };
    let joins = serve(&lab, "sin-t1", NUMBER);
    let jap = joins[0].joins().pop().expect("a join").proxy;
    println!("join proxies {jap} and perhaps {}", mate(&jap));
    let mut groups = foreign_groups(&lab);
    for fault in FAULTS {
        let victim = groups.last().map(|(_, asks)| asks.clone()).expect("a group of 15 is foreign");
        let (mine, others): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|(_, asks)| *asks == victim);
        let mut mine: Vec<_> = mine.into_iter().map(|(group, _)| group).collect();
        let fresh = mine.split_off(mine.len().saturating_sub(FRESH));
        groups = others;
        groups.extend(mine.into_iter().map(|group| (group, victim.clone())));
        let join = join_all(&lab, &fresh);
        let (seen, firsts) = rendezvous(&lab, &fault, &fresh, &victim);
        seen.print("RAP", fault.name);
        println!("  RAP {victim}: groups nobody had asked for failed for {firsts:.0?}");
        all_up(&lab, 30 * SECOND);
        leave([join]);
        seen.survived(SECOND);
        seen.served_after(Duration::ZERO);
        assert!(firsts.iter().all(|outage| *outage < 4 * SECOND), "{firsts:?}");
    }
    leave(joins);
}
