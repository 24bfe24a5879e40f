//! What happens to a JAP's targets when it dies: its heir serves them at once, their agents join
//! anew, and no two JAPs hold one lease for long.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pias_protocol::time::Time;
use pias_sim::{AgentNo, Sim, Topology};

const DNS: &str = "203.0.113.10:53/udp";
/// The proxy that dies.
const JAP: &str = "c0x1";
const AFAR: &str = "c1x1";

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Three clusters of three that run for a while.
fn service(seed: u64) -> Sim {
    let mut sim = Sim::new(Topology::circle(3, 3), seed);
    sim.run_for(secs(4));
    sim
}

/// An agent that routing leads to the first proxy of the first cluster: routing spreads agents over
/// the three by their number, so others are only counted.
fn join(sim: &mut Sim, group: &str) -> AgentNo {
    while !sim.agents().is_multiple_of(3) {
        let other = sim.join(0, group);
        sim.kill_agent(other);
    }
    sim.join(0, group)
}

fn joined(sim: &mut Sim, group: &str) -> AgentNo {
    let agent = join(sim, group);
    sim.until(secs(2), |sim| sim.jap(agent).is_some()).expect("the agent joins");
    sim.run_for(secs(1));
    assert_eq!(sim.jap(agent), Some(JAP));
    agent
}

/// Which proxies hold a target that takes flows.
fn holders(sim: &Sim, target: SocketAddr) -> Vec<String> {
    let holds = |name: &&str| {
        let targets = sim.node(name).targets(sim.now());
        targets.iter().any(|view| view.address == target && view.state == "up")
    };
    sim.alive().filter(holds).map(str::to_owned).collect()
}

/// Sends a packet every 20 ms for a while; the longest time without an answer.
fn longest_silence(sim: &mut Sim, group: &str, time: Duration) -> Duration {
    let (end, mut last, mut longest) = (sim.now() + time, sim.now(), Duration::ZERO);
    let mut client = 1_000;
    while sim.now() < end {
        client += 1;
        if sim.ask(AFAR, client, group).target().is_some() {
            longest = longest.max(sim.now() - last);
            last = sim.now();
        }
        sim.run_for(ms(20));
    }
    longest.max(end - last)
}

#[test]
fn a_group_whose_only_jap_dies_is_served_by_the_heir_within_a_second() {
    for seed in 1..=3 {
        let mut sim = service(seed);
        let agent = joined(&mut sim, DNS);
        assert_eq!(sim.ask(AFAR, 1, DNS).target(), Some(sim.target(agent)));
        sim.crash(JAP);
        let silent = longest_silence(&mut sim, DNS, secs(5));
        assert!(silent <= secs(1), "seed {seed}: no answer for {silent:?}\n{}", sim.trace());
    }
}

#[test]
fn an_agent_of_a_dead_jap_is_reset_by_the_heir_and_joins_anew_at_once() {
    let mut sim = service(4);
    // So many targets that a keep-alive is due every five seconds only.
    let agents: Vec<_> =
        (0..1_000).map(|n| join(&mut sim, &format!("203.0.113.20:{}/udp", 1_000 + n))).collect();
    sim.run_for(secs(8));
    sim.crash(JAP);
    let back = sim.until(secs(20), |sim| {
        agents.iter().all(|&agent| sim.jap(agent).is_some_and(|jap| jap != JAP))
    });
    assert!(back.is_some_and(|after| after < secs(3)), "joined again after {back:?}");
}

#[test]
fn an_heir_that_dies_too_hands_on_what_it_inherited() {
    let mut sim = service(5);
    let agent = joined(&mut sim, DNS);
    let target = sim.target(agent);
    sim.ask(AFAR, 1, DNS);
    // Without its agent, so that nothing but the lease is handed on.
    sim.kill_agent(agent);
    sim.crash(JAP);
    let heir = sim
        .until(secs(2), |sim| !holders(sim, target).is_empty())
        .map(|_| holders(&sim, target).remove(0))
        .expect("somebody inherits");
    sim.run_for(ms(300));
    sim.crash(&heir);
    let silent = longest_silence(&mut sim, DNS, ms(1_500));
    assert!(silent <= secs(1), "no answer for {silent:?}\n{}", sim.trace());
    assert_eq!(holders(&sim, target).len(), 1);
}

#[test]
fn an_inherited_lease_that_no_agent_takes_lapses() {
    let mut sim = service(6);
    let agent = joined(&mut sim, DNS);
    let target = sim.target(agent);
    sim.kill_agent(agent);
    sim.crash(JAP);
    assert!(sim.until(secs(2), |sim| holders(sim, target).len() == 1).is_some());
    assert!(sim.until(secs(8), |sim| holders(sim, target).is_empty()).is_some());
}

#[test]
fn a_jap_that_was_only_paused_shares_no_lease_for_long() {
    for seed in 7..=9 {
        let mut sim = service(seed);
        let agents: Vec<_> =
            (0..50).map(|n| joined(&mut sim, &format!("203.0.113.30:{}/udp", 1_000 + n))).collect();
        sim.pause(JAP, secs(3));
        sim.run_for(secs(3));
        sim.run_for(secs(6));
        for &agent in &agents {
            let (holders, jap) = (holders(&sim, sim.target(agent)), sim.jap(agent));
            assert_eq!(holders, [jap.expect("it is a member")], "seed {seed}");
        }
    }
}

#[test]
fn an_agent_that_moves_leaves_no_lease_behind() {
    let mut sim = service(10);
    let agent = joined(&mut sim, DNS);
    let target = sim.target(agent);
    sim.crash(JAP);
    sim.run_for(secs(3));
    assert_eq!(holders(&sim, target), [sim.jap(agent).expect("it joined anew")]);
    // Routing leads it back to the first proxy, while the one that it leaves lives on.
    sim.restart(JAP);
    sim.run_for(secs(5));
    assert_eq!(holders(&sim, target), [JAP]);
}

#[test]
fn ten_thousand_targets_are_served_within_a_second_and_registered_within_ten() {
    const TARGETS: usize = 10_000;
    let mut sim = service(11);
    sim.without_trace();
    let group = |n: usize| format!("203.0.113.{}:{}/udp", 40 + n / 5_000, 1_000 + n % 5_000);
    let agents: Vec<_> = (0..TARGETS).map(|n| join(&mut sim, &group(n))).collect();
    sim.run_for(secs(20));
    assert_eq!(sim.node(JAP).targets(sim.now()).len(), TARGETS);
    let sample: Vec<_> = (0..TARGETS).step_by(100).collect();
    for &n in &sample {
        assert!(sim.ask(AFAR, 1, &group(n)).target().is_some(), "{}", group(n));
    }
    sim.crash(JAP);
    let died = sim.now();
    let mut packets: BTreeMap<usize, Vec<(Time, usize)>> = BTreeMap::new();
    for client in 100..150 {
        for &n in &sample {
            let packet = sim.send(AFAR, client, &group(n));
            packets.entry(n).or_default().push((sim.now(), packet));
        }
        sim.run_for(ms(100));
    }
    for (n, sent) in packets {
        let unanswered = sent.iter().filter(|(_, no)| sim.outcome(*no).target().is_none());
        let last = unanswered.map(|(at, _)| *at - died).max().unwrap_or_default();
        assert!(last < secs(1), "{} is without service after {last:?}", group(n));
    }
    sim.run_for(secs(10).saturating_sub(sim.now() - died));
    let away = |agent: &AgentNo| sim.jap(*agent).is_none_or(|jap| jap == JAP);
    let missing: Vec<_> = agents.iter().copied().filter(away).collect();
    assert_eq!(missing, [], "without a JAP ten seconds after");
    let alive: Vec<_> = sim.alive().map(str::to_owned).collect();
    let held = |name: &String| {
        sim.node(name).targets(sim.now()).iter().filter(|view| view.state == "up").count()
    };
    assert_eq!(alive.iter().map(held).sum::<usize>(), TARGETS, "each is held once");
}
