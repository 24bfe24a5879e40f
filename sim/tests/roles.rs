//! Scenarios of the three roles: how targets join, packets find them, and both survive failures.

use std::{collections::BTreeMap, time::Duration};

use pias_overlay::Policy;
use pias_sim::{AgentNo, Outcome, Service, Sim, Topology};

const DNS: &str = "203.0.113.10:53/udp";
const WEB: &str = "203.0.113.10:80/tcp";
const FRA: usize = 0;
const NYC: usize = 1;
const SIN: usize = 2;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Three POPs that run for a while.
fn service(seed: u64) -> Sim {
    let mut sim = Sim::new(Topology::three_pops(), seed);
    sim.run_for(secs(4));
    sim
}

fn joined(sim: &mut Sim, cluster: usize, group: &str) -> AgentNo {
    let agent = sim.join(cluster, group);
    sim.until(secs(2), |sim| sim.jap(agent).is_some()).expect("the agent joins");
    sim.run_for(secs(1));
    agent
}

/// Sends packets of fresh flows until one is answered by another target than `not`; how long that
/// took.
fn answered_again(sim: &mut Sim, ingress: &str, group: &str, not: Option<AgentNo>) -> Duration {
    let start = sim.now();
    let not = not.map(|agent| sim.target(agent));
    for client in 0..400 {
        let outcome = sim.ask(ingress, 10_000 + client, group);
        if outcome.target().is_some() && outcome.target() != not {
            return sim.now() - start;
        }
        sim.run_for(ms(20));
    }
    panic!("no answer within {:?}\n{}", sim.now() - start, sim.trace());
}

#[test]
fn all_proxies_find_each_other_and_announce() {
    let sim = service(1);
    for name in ["fra1", "fra2", "nyc1", "nyc2", "sin1", "sin2"] {
        assert!(sim.announced(name));
        assert_eq!(sim.node(name).status().proxies_alive, 6);
    }
}

#[test]
fn the_first_packet_goes_by_a_rap_and_the_next_straight_to_the_jap() {
    let mut sim = service(2);
    let agent = joined(&mut sim, NYC, DNS);
    let jap = sim.jap(agent).unwrap().to_owned();
    let raps = sim.node("sin1").group(&DNS.parse().unwrap(), sim.now()).raps;
    let ingress = ["sin1", "sin2", "fra1", "fra2"]
        .into_iter()
        .find(|name| !raps.contains(&(*name).to_owned()))
        .expect("of six proxies two are no RAPs, and one of them is not at NYC");
    let first = sim.ask(ingress, 1, DNS);
    assert_eq!(first.target(), Some(sim.target(agent)));
    assert!(raps.contains(&first.path()[1].to_owned()), "{first:?}, RAPs {raps:?}");
    sim.run_for(secs(1));
    let second = sim.ask(ingress, 2, DNS);
    assert_eq!(second.path(), [ingress, &jap]);
}

#[test]
fn the_nearest_jap_serves_an_ingress() {
    let mut sim = service(3);
    let agents = [FRA, NYC, SIN].map(|cluster| joined(&mut sim, cluster, DNS));
    sim.run_for(secs(12));
    for (ingress, agent) in ["fra2", "nyc2", "sin2"].into_iter().zip(agents) {
        for client in 0..20 {
            assert_eq!(sim.ask(ingress, client, DNS).target(), Some(sim.target(agent)));
        }
    }
}

#[test]
fn a_balanced_group_is_spread_over_all_its_japs() {
    let policies = BTreeMap::from([("203.0.113.10:53".parse().unwrap(), Policy::Balanced)]);
    let mut sim = Sim::with_policies(Topology::three_pops(), 4, policies);
    sim.run_for(secs(4));
    let agents = [FRA, NYC, SIN].map(|cluster| joined(&mut sim, cluster, DNS));
    let mut answers: BTreeMap<_, usize> = BTreeMap::new();
    for client in 0..300 {
        *answers.entry(sim.ask("fra1", client, DNS).target()).or_default() += 1;
    }
    for agent in agents {
        let share = answers[&Some(sim.target(agent))];
        assert!((70..=130).contains(&share), "{answers:?}");
    }
}

#[test]
fn a_cluster_mate_makes_the_same_choice() {
    let policies = BTreeMap::from([("203.0.113.10:53".parse().unwrap(), Policy::Balanced)]);
    let mut sim = Sim::with_policies(Topology::three_pops(), 5, policies);
    sim.run_for(secs(4));
    for cluster in [FRA, FRA, NYC, SIN, SIN, SIN] {
        joined(&mut sim, cluster, DNS);
    }
    for client in 0..100 {
        let one = sim.ask("fra1", client, DNS);
        let mate = sim.ask("fra2", client, DNS);
        assert!(one.target().is_some());
        assert_eq!(one.target(), mate.target(), "client {client}");
    }
}

#[test]
fn a_group_without_members_is_refused_and_a_join_ends_that() {
    let mut sim = service(6);
    assert!(matches!(sim.ask("fra1", 1, DNS), Outcome::Refused { .. }));
    let second = sim.ask("fra1", 2, DNS);
    assert_eq!(second.path(), ["fra1"], "the refusal is remembered");
    let agent = joined(&mut sim, FRA, DNS);
    assert_eq!(sim.ask("fra1", 3, DNS).target(), Some(sim.target(agent)));
}

#[test]
fn packets_that_come_while_the_service_starts_find_the_first_target() {
    let mut sim = Sim::new(Topology::three_pops(), 7);
    sim.run_for(ms(500));
    let packet = sim.send("fra1", 1, DNS);
    let agent = sim.join(FRA, DNS);
    sim.run_for(secs(2));
    assert_eq!(sim.outcome(packet).target(), Some(sim.target(agent)), "{}", sim.trace());
}

#[test]
fn a_leave_is_immediate() {
    let mut sim = service(8);
    let stays = joined(&mut sim, NYC, DNS);
    let leaves = joined(&mut sim, FRA, DNS);
    sim.run_for(secs(1));
    assert_eq!(sim.ask("fra1", 1, DNS).target(), Some(sim.target(leaves)));
    sim.leave(leaves);
    sim.run_for(ms(5));
    for client in 2..50 {
        assert_eq!(sim.ask("fra1", client, DNS).target(), Some(sim.target(stays)));
    }
}

#[test]
fn a_refusing_service_gets_no_second_flow_and_comes_back_when_it_serves_again() {
    let mut sim = service(9);
    let other = joined(&mut sim, NYC, WEB);
    let broken = joined(&mut sim, FRA, WEB);
    sim.serve(broken, Service::Refuses);
    assert!(matches!(sim.ask("fra1", 1, WEB), Outcome::Refused { .. }));
    sim.run_for(ms(10));
    assert_eq!(sim.ask("fra1", 2, WEB).target(), Some(sim.target(other)));
    sim.serve(broken, Service::Serves);
    sim.run_for(secs(4));
    assert_eq!(sim.ask("fra1", 3, WEB).target(), Some(sim.target(broken)));
}

#[test]
fn a_dead_agent_under_traffic_is_noticed_within_a_second() {
    let mut sim = service(10);
    let other = joined(&mut sim, NYC, DNS);
    let dead = joined(&mut sim, FRA, DNS);
    assert_eq!(sim.ask("fra1", 1, DNS).target(), Some(sim.target(dead)));
    sim.kill_agent(dead);
    sim.serve(dead, Service::Silent);
    assert!(answered_again(&mut sim, "fra1", DNS, Some(dead)) < secs(1));
    assert_eq!(sim.ask("fra1", 2, DNS).target(), Some(sim.target(other)));
}

#[test]
fn a_silent_agent_without_traffic_is_gone_when_its_lease_ends() {
    let mut sim = service(11);
    let agent = joined(&mut sim, FRA, DNS);
    let jap = sim.jap(agent).unwrap().to_owned();
    sim.kill_agent(agent);
    let lease = sim.node(&jap).targets(sim.now())[0].lease_ms;
    let gone = sim.until(secs(60), |sim| sim.node(&jap).targets(sim.now()).is_empty());
    assert!(gone.is_some_and(|after| after <= ms(lease)), "gone after {gone:?}, lease {lease} ms");
}

#[test]
fn a_dead_jap_s_target_registers_elsewhere_and_is_reachable_within_two_seconds() {
    let mut sim = service(12);
    let agent = joined(&mut sim, FRA, DNS);
    assert_eq!(sim.jap(agent), Some("fra1"));
    assert!(sim.ask("nyc2", 1, DNS).target().is_some());
    sim.crash("fra1");
    assert!(answered_again(&mut sim, "nyc2", DNS, None) < secs(2));
    sim.until(secs(2), |sim| sim.jap(agent) == Some("fra2")).expect("it joins at the mate");
}

#[test]
fn a_dead_jap_without_an_heir_is_skipped_for_the_next_in_the_list() {
    let mut sim = service(13);
    let near = joined(&mut sim, FRA, DNS);
    let far = joined(&mut sim, SIN, DNS);
    assert_eq!(sim.ask("nyc2", 1, DNS).target(), Some(sim.target(near)));
    sim.kill_agent(near);
    sim.crash("fra1");
    sim.crash("fra2");
    // The loss of a whole POP, which takes other POPs to notice.
    assert!(answered_again(&mut sim, "nyc2", DNS, None) < secs(5));
    assert_eq!(sim.ask("nyc2", 2, DNS).target(), Some(sim.target(far)));
}

#[test]
fn a_dead_rap_is_passed_over() {
    let mut sim = service(14);
    let agent = joined(&mut sim, NYC, DNS);
    let group = DNS.parse().unwrap();
    let jap = sim.jap(agent).unwrap().to_owned();
    let (ingress, rap) = ["sin1", "sin2", "fra1", "fra2", "nyc2"]
        .into_iter()
        .find_map(|name| {
            let asks = sim.node(name).group(&group, sim.now()).asks?;
            (asks != name && asks != jap).then_some((name, asks))
        })
        .expect("some proxy asks another one than the JAP");
    sim.crash(&rap);
    assert!(answered_again(&mut sim, ingress, DNS, None) < secs(2));
}

#[test]
fn new_raps_learn_the_counts_when_the_ring_changes() {
    let mut sim = service(15);
    let agents: Vec<_> = (1..60).map(|n| sim.join(FRA, &format!("203.0.113.{n}:80/tcp"))).collect();
    sim.run_for(secs(3));
    sim.crash("sin1");
    sim.run_for(secs(4));
    for (n, _) in (1..60).zip(&agents) {
        let group = format!("203.0.113.{n}:80/tcp").parse().unwrap();
        let raps = sim.node("nyc1").group(&group, sim.now()).raps;
        assert_eq!(raps.len(), 4);
        for rap in raps {
            let counts = sim.node(&rap).group(&group, sim.now()).counts;
            assert_eq!(counts.len(), 1, "RAP {rap} of {group}");
        }
    }
}

#[test]
fn the_band_keeps_reports_few() {
    let mut sim = service(16);
    let joins = 400_u64;
    for _ in 0..joins {
        sim.join(FRA, DNS);
        sim.run_for(ms(10));
    }
    sim.run_for(secs(1));
    let sent: u64 = sim.alive().map(|name| sim.node(name).status().counters.reports_sent).sum();
    assert!(sent >= 4 && sent < joins / 2, "{sent} reports for {joins} joins");
    let group = DNS.parse().unwrap();
    for rap in sim.node("fra1").group(&group, sim.now()).raps {
        let counts = sim.node(&rap).group(&group, sim.now()).counts;
        let count: u64 = counts.iter().map(|jap| u64::from(jap.count)).sum();
        assert!(count * 2 >= joins, "RAP {rap} believes in {count} of {joins}");
    }
}

#[test]
fn a_draining_proxy_hands_its_targets_on() {
    let mut sim = service(17);
    let agent = joined(&mut sim, FRA, DNS);
    let other = joined(&mut sim, NYC, DNS);
    assert_eq!(sim.ask("fra2", 1, DNS).target(), Some(sim.target(agent)));
    sim.drain("fra1");
    sim.run_for(ms(300));
    assert!(!sim.announced("fra1"));
    assert_eq!(sim.ask("fra2", 2, DNS).target(), Some(sim.target(other)));
}
