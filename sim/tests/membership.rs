//! Scenarios of membership: who is believed to live, and what a run is a function of.

use std::time::Duration;

use pias_sim::{Setup, Sim, Topology};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn service(seed: u64) -> Sim {
    let mut sim = Sim::new(Topology::three_pops(), seed);
    sim.run_for(secs(4));
    sim
}

/// Whether every live proxy believes in exactly `alive` live ones.
fn agree(sim: &Sim, alive: usize) -> bool {
    sim.alive().all(|name| sim.node(name).status().proxies_alive == alive)
}

#[test]
fn a_crash_is_known_to_all_within_a_second_and_a_half() {
    let mut sim = service(1);
    sim.crash("nyc1");
    let known = sim.until(secs(5), |sim| agree(sim, 5));
    assert!(known.is_some_and(|after| after < Duration::from_millis(1_500)), "{known:?}");
}

#[test]
fn a_proxy_that_starts_again_is_taken_in_at_once() {
    let mut sim = service(2);
    sim.crash("nyc1");
    sim.run_for(Duration::from_millis(300));
    sim.restart("nyc1");
    let back = sim.until(secs(3), |sim| agree(sim, 6) && sim.announced("nyc1"));
    assert!(back.is_some_and(|after| after < secs(2)), "{back:?}");
    sim.run_for(secs(10));
    assert!(agree(&sim, 6));
}

#[test]
fn a_split_heals_from_either_side() {
    let mut sim = service(3);
    sim.isolate(0);
    sim.run_for(secs(5));
    assert_eq!(sim.node("fra1").status().proxies_alive, 2);
    assert_eq!(sim.node("sin1").status().proxies_alive, 4);
    sim.network.heal();
    let healed = sim.until(secs(30), |sim| agree(sim, 6));
    assert!(healed.is_some_and(|after| after < secs(5)), "{healed:?}");
}

#[test]
fn a_paused_proxy_takes_nobody_down_with_it() {
    let mut sim = service(4);
    sim.pause("sin2", secs(5));
    sim.run_for(secs(5));
    let back = sim.until(secs(5), |sim| agree(sim, 6));
    assert!(back.is_some_and(|after| after < secs(2)), "{back:?}");
    let accused = sim.trace().lines().filter(|line| line.contains("it does not answer"));
    assert!(
        accused.clone().all(|line| line.contains("proxy sin2 is gone")),
        "{:?}",
        accused.collect::<Vec<_>>()
    );
}

#[test]
fn loss_alone_kills_nobody() {
    let mut sim = service(5);
    sim.network.lose(50);
    sim.run_for(secs(120));
    assert!(!sim.trace().contains("is gone"), "5 % loss took a proxy down");
    assert!(agree(&sim, 6));
}

#[test]
fn a_larger_service_agrees_as_well() {
    let mut sim = Sim::new(Topology::circle(8, 5), 6);
    sim.run_for(secs(4));
    assert!(agree(&sim, 40));
    sim.crash("c3x2");
    let known = sim.until(secs(5), |sim| agree(sim, 39));
    assert!(known.is_some_and(|after| after < Duration::from_millis(1_500)), "{known:?}");
}

/// What hosts that are not of `cluster` say about proxies and clusters that are gone.
fn obituaries<'a>(sim: &'a Sim, cluster: &'a str) -> impl Iterator<Item = &'a str> {
    let told = sim.trace().lines().filter(|line| line.contains(" is gone"));
    told.filter(move |line| !line.split(' ').nth(1).is_some_and(|host| host.starts_with(cluster)))
}

#[test]
fn the_loss_of_a_pop_is_one_event_at_each_proxy() {
    let mut sim = Sim::new(Topology::circle(6, 5), 8);
    sim.run_for(secs(5));
    sim.lose_cluster(2);
    let known = sim.until(secs(8), |sim| agree(sim, 25));
    assert!(known.is_some_and(|after| after < secs(5)), "{known:?}");
    let told: Vec<_> = obituaries(&sim, "c2x").collect();
    assert_eq!(told.len(), 25, "{told:?}");
    assert!(
        told.iter().all(|line| line.contains("cluster c2x with 5 proxies is gone")),
        "{told:?}"
    );
}

#[test]
fn the_only_survivor_of_a_pop_is_believed() {
    let mut sim = Sim::new(Topology::circle(5, 3), 13);
    sim.run_for(secs(5));
    sim.crash("c2x1");
    sim.crash("c2x2");
    let known = sim.until(secs(8), |sim| agree(sim, 13));
    assert!(known.is_some_and(|after| after < secs(3)), "{known:?}");
}

#[test]
fn a_pop_that_comes_back_is_taken_in_without_its_dead() {
    let mut sim = Sim::new(Topology::circle(6, 3), 9);
    sim.run_for(secs(5));
    sim.lose_cluster(2);
    sim.run_for(secs(8));
    assert!(agree(&sim, 15));
    sim.restart("c2x1");
    sim.restart("c2x2");
    let back = sim.until(secs(10), |sim| agree(sim, 17));
    assert!(back.is_some_and(|after| after < secs(5)), "{back:?}");
    sim.run_for(secs(10));
    assert!(agree(&sim, 17));
}

#[test]
fn who_was_cut_off_does_not_tell_the_others_that_they_are_dead() {
    let mut sim = Sim::new(Topology::circle(12, 4), 10);
    sim.run_for(secs(6));
    sim.isolate(0);
    sim.run_for(secs(25));
    assert_eq!(sim.node("c0x1").status().proxies_alive, 4);
    assert_eq!(sim.node("c5x1").status().proxies_alive, 44);
    sim.network.heal();
    let healed = sim.until(secs(30), |sim| agree(sim, 48));
    assert!(healed.is_some_and(|after| after < secs(15)), "{healed:?}");
    sim.run_for(secs(10));
    assert!(agree(&sim, 48));
    for line in obituaries(&sim, "c0x") {
        assert!(line.contains("cluster c0x with 4 proxies is gone"), "{line}");
    }
}

/// Cuts a service of ten clusters in halves until they have taken each other for dead, and for so much
/// longer. When all agree again.
fn reunited_after(longer: Duration) -> Option<Duration> {
    let mut sim = Sim::new(Topology::circle(10, 3), 11);
    sim.run_for(secs(6));
    for (a, b) in (0..5).flat_map(|a| (5..10).map(move |b| (a, b))) {
        sim.network.cut(a, b);
    }
    let parted = sim.until(secs(30), |sim| agree(sim, 15));
    assert!(parted.is_some_and(|after| after < secs(20)), "{parted:?}");
    sim.run_for(longer);
    sim.network.heal();
    sim.until(secs(30), |sim| agree(sim, 30))
}

#[test]
fn halves_that_were_split_find_together() {
    let healed = reunited_after(Duration::ZERO);
    assert!(healed.is_some_and(|after| after < secs(15)), "{healed:?}");
}

#[test]
fn halves_that_were_quiet_for_minutes_find_together_as_soon() {
    let healed = reunited_after(secs(300));
    assert!(healed.is_some_and(|after| after < secs(15)), "{healed:?}");
}

#[test]
fn under_loss_only_the_paused_are_ever_held_for_dead() {
    let mut sim = Sim::new(Topology::circle(6, 5), 12);
    sim.network.lose(50);
    sim.run_for(secs(5));
    for n in 0..40 {
        sim.pause("c1x2", Duration::from_millis(200 + 45 * n));
        sim.run_for(secs(3));
        assert!(agree(&sim, 30), "a second after it went on, it is back");
    }
    for line in obituaries(&sim, "none") {
        assert!(line.contains("proxy c1x2 is gone"), "{line}");
    }
}

#[test]
fn under_loss_a_paused_proxy_is_back_everywhere_within_a_second() {
    let mut sim = Sim::new(Topology::circle(40, 4), 13);
    sim.network.lose(50);
    sim.run_for(secs(5));
    for n in 0..30 {
        let pause = Duration::from_millis(600 + 40 * n);
        let name = format!("c{}x{}", 1 + n % 40, 1 + n % 4);
        sim.pause(&name, pause);
        sim.run_for(pause);
        assert!(!agree(&sim, 160), "nobody noticed the pause of {name}");
        let back = sim.until_every(Duration::from_millis(20), secs(1), |sim| agree(sim, 160));
        assert!(back.is_some(), "{name} is not back everywhere after a second");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_byte() {
    let run = |seed| {
        let mut sim = Sim::new(Topology::three_pops(), seed);
        sim.network.lose(30);
        sim.run_for(secs(3));
        for n in 0..6 {
            sim.join(n % 3, "203.0.113.10:53/udp");
        }
        sim.run_for(secs(1));
        for client in 0..50 {
            sim.send("fra1", client, "203.0.113.10:53/udp");
            sim.run_for(Duration::from_millis(7));
        }
        sim.crash("nyc1");
        sim.run_for(secs(5));
        sim.trace().to_owned()
    };
    assert!(run(7).len() > 1_000);
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// Handshakes per proxy and minute, in a time of some minutes.
fn handshakes(sim: &mut Sim, minutes: u32) -> f64 {
    let before = sim.network.handshakes();
    sim.run_for(secs(60) * minutes);
    (sim.network.handshakes() - before) as f64 / sim.hosts() as f64 / f64::from(minutes)
}

#[test]
fn a_quiet_proxy_connects_to_a_stranger_once_a_minute_and_more_often_after_a_change() {
    let mut sim = Setup::new(Topology::circle(24, 3), 14).start_known();
    sim.run_for(secs(20));
    let quiet = handshakes(&mut sim, 3);
    assert!((0.5..1.3).contains(&quiet), "{quiet} in a minute");
    sim.crash("c7x1");
    let restless = handshakes(&mut sim, 1);
    assert!((1.8..4.5).contains(&restless), "{restless} in a minute");
    handshakes(&mut sim, 1);
    let quiet = handshakes(&mut sim, 1);
    assert!((0.5..1.3).contains(&quiet), "{quiet} in a minute");
}
