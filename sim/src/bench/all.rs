//! A service of all proxies: what it costs while nothing happens, and how soon all know what does.

use std::time::{Duration, Instant};

use super::{quantile, report::Row};
use crate::{
    random::Draws,
    sim::{Setup, Sim},
    tally::{ACK, HANDSHAKE},
    topology::Topology,
    trace::Keep,
};

/// Until coordinates are known and all is quiet.
const SETTLE: Duration = Duration::from_secs(20);
/// How long idle traffic is measured.
const IDLE: Duration = Duration::from_secs(30);
/// Crashes, and POPs lost, one after the other.
const CRASHES: usize = 5;
const LOSSES: usize = 3;
/// How exactly it is looked.
const STEP: Duration = Duration::from_millis(5);
/// How long anything may take at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// After news is known it is still on its way along other branches.
const LINGER: Duration = Duration::from_secs(3);
/// Packets take up to so much longer than their way.
const JITTER: Duration = Duration::from_millis(2);

pub(super) fn measure(topology: Topology, seed: u64) -> Vec<Row> {
    let began = Instant::now();
    let mut draws = Draws::new(seed, 0x0061_6C6C);
    let setup = Setup { keep: Keep::Nothing, count_octets: true, ..Setup::new(topology, seed) };
    let mut sim = setup.start_known();
    sim.network.jitter(JITTER);
    progress(&sim, began, "started");
    sim.run_for(SETTLE);
    progress(&sim, began, "settled");
    sim.count_anew();
    let mut rows = idle(&mut sim);
    progress(&sim, began, "idle traffic is measured");
    let events = sim.tally().events;
    rows.extend(crashes(&mut sim, &mut draws));
    progress(&sim, began, "crashes are known");
    rows.extend(losses(&mut sim, &mut draws));
    progress(&sim, began, "lost POPs are known");
    let wrong = sim.beliefs().wrong_count() as f64;
    rows.push(Row::at_most(
        format!("running proxies declared down meanwhile, {} proxies", sim.hosts()),
        wrong,
        "",
        0.0,
    ));
    let per_second = (events + sim.tally().events) as f64 / began.elapsed().as_secs_f64();
    let name = format!("events simulated per second, {} proxies", sim.hosts());
    rows.push(Row::plain(name, per_second.round(), "/s"));
    rows
}

fn progress(sim: &Sim, began: Instant, what: &str) {
    let (now, hosts) = (sim.now(), sim.hosts());
    eprintln!("{hosts} proxies at {now}: {what}, after {:.0} s", began.elapsed().as_secs_f64());
}

fn idle(sim: &mut Sim) -> Vec<Row> {
    let handshakes = sim.network.handshakes();
    sim.run_for(IDLE);
    let (tally, hosts) = (sim.tally(), sim.hosts() as f64);
    let handshakes = (sim.network.handshakes() - handshakes) * HANDSHAKE;
    let rate = |octets: u64| octets as f64 * 8.0 / 1_000.0 / IDLE.as_secs_f64();
    let most = tally.far_by_host.iter().copied().max().unwrap_or(0);
    let name = format!("idle traffic per proxy beyond its cluster, {} proxies", sim.hosts());
    let all = tally.far.octets + tally.far_packets * ACK + handshakes;
    let mut rows = vec![
        Row::at_most(name.clone(), rate(tally.far.octets) / hosts, "kbit/s", 10.0),
        Row::plain(format!("{name}, the busiest"), rate(most), "kbit/s"),
        Row::at_most(
            format!("{name}, with acknowledgements and handshakes"),
            rate(all) / hosts,
            "kbit/s",
            10.0,
        ),
    ];
    for (kind, sent) in tally.far_by_kind.iter().enumerate().filter(|(_, sent)| sent.messages > 0) {
        let name = format!("{name}, messages of kind {kind}");
        rows.push(Row::plain(name, rate(sent.octets) / hosts, "kbit/s"));
    }
    rows
}

fn crashes(sim: &mut Sim, draws: &mut Draws) -> Vec<Row> {
    let (mut known, mut copies, mut announcements) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CRASHES {
        let victim = draws.below(sim.hosts());
        if !sim.runs(victim) {
            continue;
        }
        sim.follow_news_of(victim);
        sim.crash_at(victim);
        let enough = (running(sim) as f64 * 0.999).ceil() as usize;
        let after =
            sim.until_every(STEP, PATIENCE, |sim| sim.beliefs().disbelievers(victim) >= enough);
        known.push(after.unwrap_or(PATIENCE));
        sim.run_for(LINGER);
        copies.push(sim.copies_received() as f64 / running(sim) as f64);
        announcements.push(sim.announcements_received() as f64 / running(sim) as f64);
    }
    let hosts = sim.hosts();
    let worst = quantile(&mut known, 1.0).as_secs_f64();
    let most = |counts: Vec<f64>| counts.into_iter().fold(0.0, f64::max);
    vec![
        Row::at_most(format!("crash known to 99.9 % of {hosts} proxies"), worst, "s", 3.0),
        Row::at_most(
            format!("copies of an update received per proxy, {hosts} proxies"),
            most(copies),
            "",
            5.0,
        ),
        Row::plain(
            format!("announcements of it received per proxy, {hosts} proxies"),
            most(announcements),
            "",
        ),
    ]
}

fn losses(sim: &mut Sim, draws: &mut Draws) -> Vec<Row> {
    let mut known = Vec::new();
    let singles = sim.beliefs().single_verdicts();
    let mut news = 0;
    for _ in 0..LOSSES {
        let cluster = draws.below(sim.topology().clusters.len());
        let victims: Vec<_> = sim.in_cluster(cluster).filter(|&n| sim.runs(n)).collect();
        if victims.is_empty() {
            continue;
        }
        sim.lose_cluster(cluster);
        let all = running(sim);
        let after = sim.until_every(STEP, PATIENCE, |sim| {
            victims.iter().all(|&victim| sim.beliefs().disbelievers(victim) >= all)
        });
        known.push(after.unwrap_or(PATIENCE));
        sim.run_for(LINGER);
        news += all as u64;
    }
    // What each proxy was told, beside that the cluster is gone.
    let singles = sim.beliefs().single_verdicts() - singles;
    let events = 1.0 + singles as f64 / news.max(1) as f64;
    let hosts = sim.hosts();
    let worst = quantile(&mut known, 1.0).as_secs_f64();
    vec![
        Row::at_most(format!("a POP's loss known to all of {hosts} proxies"), worst, "s", 5.0),
        Row::at_most(format!("a POP's loss, events per proxy, {hosts} proxies"), events, "", 1.0),
    ]
}

fn running(sim: &Sim) -> usize {
    (0..sim.hosts()).filter(|&host| sim.runs(host)).count()
}
