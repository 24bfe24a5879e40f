//! Who is served by whom.

use std::collections::BTreeMap;
use std::time::Duration;

use pias_lab::{Capture, Host, Lab, Signal, Transport, bracketed, wait_until};

use crate::machine::scenario;
use crate::stage::{BALANCED, POPS, RANDOM, Stage, anycast, join_both, leave, service};

/// All that a client receives over UDP and TCP.
fn capture_received<'lab>(lab: &'lab Lab, client: &str) -> Capture<'lab> {
    let host = lab.host(client);
    let addresses = host.status().expect("a host").addresses;
    let to: Vec<_> = addresses
        .iter()
        .filter_map(|address| Some(format!("dst host {}", address.split('/').next()?)))
        .collect();
    let filter = format!("({}) and (tcp or udp)", to.join(" or "));
    host.capture("eth0", &filter).expect("tcpdump")
}

/// Asks by DNS over UDP and TCP and by HTTP; the names that answered.
fn ask_all(client: &Host<'_>, address: &str) -> Vec<String> {
    let dns = [Transport::Udp, Transport::Tcp].map(|transport| {
        let answer = client.ask_dns(address, transport).expect("dig");
        answer.unwrap_or_else(|| panic!("{address} over {transport:?} is silent")).target
    });
    let url = format!("http://{}/", bracketed(address));
    let page = client.fetch(&url).expect("curl").unwrap_or_else(|| panic!("{url} is silent"));
    dns.into_iter().chain([page.trim().to_owned()]).collect()
}

#[test]
fn every_client_is_served_by_its_own_pop_and_sees_answers_from_the_anycast_address_alone() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins: Vec<_> = POPS
            .iter()
            .flat_map(|pop| {
                let target = format!("{pop}-t1");
                [join_both(&lab, &target, 10, "53"), join_both(&lab, &target, 10, "80/tcp")]
            })
            .flatten()
            .collect();
        for pop in POPS {
            let client = lab.host(&format!("c-{pop}"));
            let capture = capture_received(&lab, client.name());
            for address in anycast(10) {
                let names = ask_all(&client, &address);
                assert_eq!(names, vec![format!("{pop}-t1"); 3], "{} at {address}", client.name());
            }
            let lines = capture.stop().expect("a capture");
            assert!(lines.len() >= 2 * (1 + 3 + 3), "{lines:#?}");
            for line in lines {
                let from = line.split(' ').nth(1).unwrap_or_default();
                let expected = anycast(10).iter().any(|address| {
                    from == format!("{address}.53") || from == format!("{address}.80")
                });
                assert!(expected, "{}: {line}", client.name());
            }
        }
        leave(joins);
    });
}

#[test]
fn a_pop_without_a_target_is_served_by_the_nearest_that_has_one() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        // Others may have connections to the process before, and find that out with the first report.
        let rap = lab.host("fra2");
        rap.kill("piasd", Signal::SIGKILL).expect("piasd runs");
        let over = || !rap.runs("piasd");
        wait_until(Duration::from_secs(5), "piasd to be over", over).expect("it is killed");
        rap.restart("piasd").expect("piasd starts again");
        lab.wait_proxies().expect("it is announced again");
        let far = join_both(&lab, "sin-t1", 11, "53");
        let near = join_both(&lab, "nyc-t1", 11, "53");
        let client = lab.host("c-fra");
        // Where all of a POP has just started, some seconds pass until it is right about how far others are.
        for address in anycast(11) {
            let served = || {
                let answer = client.ask_dns(&address, Transport::Udp).expect("dig");
                answer.is_some_and(|answer| answer.target == "nyc-t1")
            };
            wait_until(Duration::from_secs(10), format!("nyc-t1 to serve {address}"), served)
                .expect("the nearest serves");
        }
        for address in anycast(11) {
            for transport in [Transport::Udp, Transport::Tcp] {
                let answer = client.ask_dns(&address, transport).expect("dig").expect("an answer");
                assert_eq!(answer.target, "nyc-t1", "{address} {transport:?}");
            }
        }
        leave(near);
        for address in anycast(11) {
            let answer = client.ask_dns(&address, Transport::Udp).expect("dig").expect("an answer");
            assert_eq!(answer.target, "sin-t1", "{address}");
        }
        leave(far);
    });
}

#[test]
fn two_members_of_a_group_reach_each_other_and_never_themselves() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let here = join_both(&lab, "fra-t1", 12, "53");
        let there = join_both(&lab, "nyc-t1", 12, "53");
        for (asker, expected) in [("fra-t1", "nyc-t1"), ("nyc-t1", "fra-t1")] {
            for address in anycast(12) {
                for transport in [Transport::Udp, Transport::Tcp] {
                    for _ in 0..5 {
                        let answer = lab.host(asker).ask_dns(&address, transport).expect("dig");
                        let target = answer.map(|answer| answer.target);
                        assert_eq!(
                            target.as_deref(),
                            Some(expected),
                            "{asker} {address} {transport:?}"
                        );
                    }
                }
            }
        }
        leave(there);
        for address in anycast(12) {
            let once = ["pias-lab", "tool", "ask", &service(&address, 53), "--count", "1"];
            let words = [&once[..], &["--patience", "2s"]].concat();
            let report = lab.host("fra-t1").ok(&words).expect("a question");
            assert!(report.contains("\"refused\""), "alone in the group, {address}: {report}");
        }
        leave(here);
    });
}

#[test]
fn datagrams_of_60_kilobytes_come_back_intact_over_another_pop() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        lab.host("nyc-t1").spawn("echo", &["pias-lab", "tool", "echo", "7000"]).expect("a server");
        let joins = join_both(&lab, "nyc-t1", 13, "7000/udp");
        for address in anycast(13) {
            let to = service(&address, 7000);
            let words = ["pias-lab", "tool", "datagram", &to, "--size", "60000"];
            if address.contains(':') {
                // No router fragments IPv6: the first one learns how large fragments may be.
                let first = lab.host("c-fra").run(&words).expect("a datagram");
                assert!(first.stderr.contains("Message too long"), "{first:?}");
            }
            for _ in 0..5 {
                let report = lab.host("c-fra").ok(&words);
                print!(
                    "{address}: {}",
                    report.unwrap_or_else(|error| panic!("{address}: {error}"))
                );
            }
        }
        leave(joins);
        lab.host("nyc-t1").kill("echo", Signal::SIGKILL).expect("the server runs");
    });
}

/// Asks 300 times from Frankfurt, where two of three targets are; how often
/// each answered.
fn shares(lab: &Lab, number: u8) -> BTreeMap<String, usize> {
    let joins: Vec<_> = ["fra-t1", "fra-t2", "nyc-t1"]
        .iter()
        .flat_map(|target| join_both(lab, target, number, "53/udp"))
        .collect();
    let [address, _] = anycast(number);
    let words = ["pias-lab", "tool", "ask", &service(&address, 53)];
    let pace = ["--count", "300", "--every", "10ms", "--patience", "1s"];
    let limit = Duration::from_secs(15);
    let output = lab.host("c-fra").run_for(limit, &[&words[..], &pace].concat()).expect("asking");
    let questions = pias_lab::Questions::parse(&output.stdout);
    assert_eq!(questions.answered(), 300, "{:?}", questions.failures());
    leave(joins);
    questions.by_target()
}

#[test]
fn the_balanced_policy_spreads_flows_by_the_number_of_targets_over_pops() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let shares = shares(&lab, BALANCED);
        println!("balanced, two targets in fra and one in nyc: {shares:?}");
        // A third each; 60 is five standard deviations below.
        for target in ["fra-t1", "fra-t2", "nyc-t1"] {
            assert!((60..=140).contains(&shares[target]), "{shares:?}");
        }
    });
}

#[test]
fn the_random_policy_gives_every_pop_its_share() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let shares = shares(&lab, RANDOM);
        println!("random, two targets in fra and one in nyc: {shares:?}");
        for target in ["fra-t1", "fra-t2", "nyc-t1"] {
            assert!(shares[target] >= 30, "{shares:?}");
        }
    });
}
