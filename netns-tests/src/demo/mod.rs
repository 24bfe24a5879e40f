//! `pias-lab demo`: the main job on real traffic, step by step, with figures.

mod failures;
mod report;
mod service;

use std::path::Path;

use anyhow::{Context, anyhow};
use pias_lab::{Lab, Options, Topology};

use report::Report;

/// Points of presence of the default topology.
pub(crate) const POPS: [&str; 3] = ["fra", "nyc", "sin"];

/// The DNS service of the demo in both families.
pub(crate) const DNS: [&str; 2] = ["203.0.113.10", "2001:db8:a::10"];

/// Runs every step in a lab of its own. An error says which expectation failed
/// and where the logs are; they stay there.
pub(crate) fn run(state: &Path) -> anyhow::Result<()> {
    let mut report = Report::new();
    let options = Options { state: Some(state.to_owned()), ..Options::default() };
    let mut lab =
        report.step("boot: three POPs, three transit ASes, clients, targets", |lines| {
            let lab = Lab::up(&Topology::three_pops(), &options)?;
            let times = lab.boot_times();
            lines.push(format!(
                "{} hosts built in {:.2?}",
                lab.topology().hosts.len(),
                times.built
            ));
            lines.push(format!("BGP and OSPF converged after another {:.2?}", times.routed));
            lines.push(format!("six proxies ready and announced after {:.2?}", times.proxies));
            Ok(lab)
        })?;
    let outcome = steps(&lab, &mut report);
    let logs = lab.logs();
    lab.down()?;
    outcome.map_err(|error| anyhow!("{error:#}\nlogs: {}", logs.display()))?;
    std::fs::remove_dir_all(state).context("remove the lab's state")?;
    report.finish();
    Ok(())
}

fn steps(lab: &Lab, report: &mut Report) -> anyhow::Result<()> {
    let joins = report.step("targets join at every POP", |lines| service::join(lab, lines))?;
    report.step("dig from every POP, both families, UDP and TCP", |lines| {
        service::ask_from_everywhere(lab, lines)
    })?;
    report
        .step("the first packet goes through a RAP, later ones straight to the JAP", |lines| {
            service::first_packet_then_direct(lab, lines)
        })?;
    report.step("HTTP through the overlay", |lines| service::fetch_pages(lab, lines))?;
    report.step("ping an anycast address", |lines| service::ping(lab, lines))?;
    report.step("a group without members is refused at once", |lines| {
        service::empty_group(lab, lines)
    })?;
    report.step("kill -9 a target's server under traffic", |lines| {
        failures::kill_server(lab, lines)
    })?;
    report.step("kill -9 a target's JAP: it registers elsewhere", |lines| {
        failures::kill_join_proxy(lab, &joins, lines)
    })?;
    report.step("kill -9 the IAP of a running download: it goes on", |lines| {
        failures::kill_ingress(lab, lines)
    })
}
