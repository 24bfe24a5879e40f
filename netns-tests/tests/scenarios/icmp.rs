//! What hosts and routers say about packets.

use std::time::Duration;

use pias_lab::bracketed;

use crate::machine::scenario;
use crate::stage::{POPS, Stage, anycast, join_both, leave, service};

#[test]
fn an_anycast_address_answers_pings_from_the_nearest_pop() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        for pop in POPS {
            for address in anycast(70) {
                let host = lab.host(&format!("c-{pop}"));
                // The first one resolves addresses on links.
                host.ping(&address).expect("ping");
                let took = host.ping(&address).expect("ping").expect("an answer");
                println!("ping {address} from c-{pop}: {took:.1?}");
                // 1 ms to the transit router and back.
                assert!(took < Duration::from_millis(20), "{address} from {pop}: {took:?}");
            }
        }
    });
}

#[test]
fn an_empty_group_answers_with_port_unreachable_and_reset_in_both_families() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        for address in anycast(71) {
            let filter = format!("icmp or icmp6 or (tcp and src host {address})");
            let capture = lab.host("c-fra").capture("eth0", &filter).expect("tcpdump");
            for transport in [&[][..], &["--tcp"]] {
                let words = ["pias-lab", "tool", "ask", &service(&address, 53), "--count", "3"];
                let pace = ["--every", "400ms", "--patience", "2s"];
                let report = lab.host("c-fra").ok(&[&words[..], &pace, transport].concat());
                let report = report.expect("questions");
                assert_eq!(report.matches("\"refused\"").count(), 3, "{transport:?}: {report}");
            }
            let lines = capture.stop().expect("a capture");
            let unreachable =
                |line: &&String| line.contains("unreachable") && line.contains("port");
            let from = |line: &&String| {
                line.contains(&format!("{address} > "))
                    || line.contains(&format!("{address}.53 > "))
            };
            assert_eq!(lines.iter().filter(unreachable).filter(from).count(), 3, "{lines:#?}");
            let resets = lines.iter().filter(|line| line.contains("Flags [R")).count();
            assert_eq!(resets, 3, "{lines:#?}");
        }
    });
}

#[test]
fn every_hop_to_a_target_answers_traceroute() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        for target in ["fra-t1", "nyc-t1"] {
            let joins = join_both(&lab, target, 72, "80/tcp");
            for address in anycast(72) {
                // Unpaced, so that answers are not limited by their rate.
                let words = ["traceroute", "-n", "-T", "-p", "80", "-q", "1", "-N", "1", "-w", "2"];
                let words = [&words[..], &["-m", "16", address.as_str()]].concat();
                let limit = Duration::from_secs(40);
                let output = lab.host("c-fra").run_for(limit, &words).expect("traceroute").stdout;
                println!("{output}");
                let hops: Vec<_> = output.lines().skip(1).collect();
                assert!(hops.len() >= 5, "{target}: {output}");
                assert!(!output.contains('*'), "{target}: {output}");
                let last = hops.last().copied().unwrap_or_default();
                assert!(last.contains(&address), "{target}: {output}");
            }
            leave(joins);
        }
    });
}

#[test]
fn a_ping_whose_hops_run_out_in_the_proxy_is_told() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let joins = join_both(&lab, "nyc-t1", 73, "80/tcp");
        // Client, transit and POP router: with four hops it reaches the daemon, and
        // has none left to go on.
        for address in anycast(73) {
            let url = format!("http://{}/", bracketed(&address));
            assert_eq!(lab.host("c-fra").fetch(&url).expect("curl").as_deref(), Some("nyc-t1\n"));
            let filter = "icmp[icmptype] == icmp-timxceed or icmp6[icmp6type] == 3";
            let capture = lab.host("c-fra").capture("eth0", filter).expect("tcpdump");
            let words =
                ["traceroute", "-n", "-T", "-p", "80", "-q", "1", "-f", "4", "-m", "4", "-w", "2"];
            let words = [&words[..], &[address.as_str()]].concat();
            let output = lab.host("c-fra").ok(&words).expect("traceroute");
            let lines = capture.stop().expect("a capture");
            assert_eq!(lines.len(), 1, "{output}{lines:#?}");
        }
        leave(joins);
    });
}
