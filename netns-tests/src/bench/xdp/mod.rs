//! `pias-lab bench-xdp`: what one core does with packets of 64 octets by XDP, beside the least and the most
//! that the kernel can do, on one topology (`deploy/lab/bench.toml`) and in one run.
//!
//! | file | subject |
//! | --- | --- |
//! | `inside`, `threads` | hosts' networks, cores, and the time that is used on them |
//! | `rig` | links, traffic, and counting what comes out |
//! | `settings` | what is changed of the machine meanwhile |
//! | `candidate` | what is compared, and how it starts and stops |
//! | `upgrade` | what is lost while `piasd` is replaced |
//! | `report` | medians, ratios and goals; the table and the JSON rows |
//!
//! What the figures mean is in `docs/benchmarks.md`.

mod candidate;
mod inside;
mod limits;
mod report;
mod rig;
mod settings;
mod threads;
mod upgrade;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process;

use clap::Args;
use pias_datapath::bench::cost;
use pias_datapath::bench::memory::{self, Sizes};

use super::machine::Machine;
use super::places::{CLIENT, FAR, TARGET, topology};
use super::{BenchError, pias, write_rows};
use crate::lab::{Lab, Options};
use candidate::Candidate;
use inside::Cores;
use report::Figures;
use rig::{Napi, Rig};
use settings::Settings;

/// Interfaces of the host under test.
const TESTED_INTERFACES: [&str; 3] = [CLIENT, FAR, TARGET];

/// The ports of the groups, which follow each other.
const PORT: u16 = 7001;

/// How many groups: with a million flows, each target's port has half as many of them as a NAT address has
/// ports.
const GROUPS: u32 = 32;

/// Flows of which the cost is measured.
const COST_FLOWS: [u32; 3] = [1, 1 << 16, 1 << 20];

/// Tables of which the memory is measured.
const SIZES: Sizes = Sizes { groups: 10_000, targets: 100_000, flows: 4 << 20 };

/// How to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the rows go, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/xdp.json")]
    output: PathBuf,
    /// Rounds; every candidate has a turn in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Short turns, which show that everything works and nothing more
    #[arg(long)]
    quick: bool,
    /// Only these candidates
    #[arg(long, value_delimiter = ',', value_name = "CANDIDATE")]
    only: Vec<Candidate>,
}

/// Measures, prints the table and writes the rows. A goal that does not hold is a result and no failure.
pub(super) fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let candidates = match arguments.only.as_slice() {
        [] => Candidate::ALL.to_vec(),
        only => Candidate::ALL.into_iter().filter(|candidate| only.contains(candidate)).collect(),
    };
    let machine = Machine::look(arguments.rounds, arguments.quick);
    // What is started from here on is on that core and as much preferred, but for what is put elsewhere.
    let cores = Cores::choose()?;
    inside::pin(0, cores.others)?;
    threads::prefer(process::id() as i32)?;
    let _preference = Settings::for_preference()?;
    let mut figures = Figures::default();
    let (alone, mut in_lab): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.is_alone());
    let upgrades = in_lab.contains(&Candidate::Upgrade);
    in_lab.retain(|candidate| *candidate != Candidate::Upgrade);
    if !in_lab.is_empty() {
        in_a_lab(cores, Napi::Threads, |rig| rounds(rig, &in_lab, arguments, &mut figures))?;
    }
    for round in (1..=arguments.rounds).filter(|_| upgrades) {
        tell(round, arguments, Candidate::Upgrade);
        in_a_lab(cores, Napi::Interrupts, |rig| upgrade::measure(rig, &mut figures))?;
    }
    for candidate in alone {
        without_network(candidate, arguments.rounds, &mut figures)?;
    }
    let rows = report::rows(&figures);
    print!("{}", report::text(&machine, &figures, &rows));
    write_rows(&arguments.output, &rows)
}

/// Does something in a lab of its own.
fn in_a_lab(
    cores: Cores,
    napi: Napi,
    work: impl FnOnce(&mut Rig<'_>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let options = Options { without_proxies: true, ..Options::default() };
    let mut lab = Lab::up(&topology(), &options)?;
    pias::prepare(&lab)?;
    candidate::serve(&lab)?;
    let mut rig = Rig::new(&lab, cores, napi)?;
    work(&mut rig)?;
    drop(rig);
    let logs = lab.logs();
    lab.down().map_err(|source| BenchError::TimedOut { source, logs })
}

/// A turn for every candidate, then the next round: what changes on the machine while it runs meets all of
/// them.
fn rounds(
    rig: &mut Rig<'_>,
    candidates: &[Candidate],
    arguments: &Arguments,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    for round in 1..=arguments.rounds {
        for candidate in candidates {
            tell(round, arguments, *candidate);
            turn(rig, *candidate, arguments.quick, figures)?;
        }
    }
    Ok(())
}

fn tell(round: u32, arguments: &Arguments, candidate: Candidate) {
    eprintln!("round {round} of {}: {}", arguments.rounds, candidate.title());
}

/// What needs no lab: the cost of a packet, and what tables take, which is the same each time.
fn without_network(
    candidate: Candidate,
    rounds: u32,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    if candidate == Candidate::Memory {
        figures.memory(SIZES, &memory::measure(SIZES)?);
        return Ok(());
    }
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: {}", candidate.title());
        for flows in COST_FLOWS {
            figures.cost(flows, cost::measure(flows)?);
        }
    }
    Ok(())
}

/// Starts a candidate, measures and stops it.
fn turn(
    rig: &mut Rig<'_>,
    candidate: Candidate,
    quick: bool,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let tracks = candidate == Candidate::Nftables;
    let _tracking = tracks.then(Settings::for_tracking).transpose()?;
    let _attached = candidate.start(rig)?;
    measure(rig, candidate, quick, figures)?;
    if let Some(piasd) = threads::tested_process(rig.lab, "piasd")? {
        figures.piasd(memory::tables_of(piasd), memory::resident(piasd));
    }
    candidate.stop(rig)
}

/// Measures a candidate once, with each number of flows: the fewest first, all ways in turn, since more may push
/// out those that are known.
fn measure(
    rig: &mut Rig<'_>,
    candidate: Candidate,
    quick: bool,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let (warm_up, span) =
        if quick { (limits::QUICK, limits::QUICK) } else { (limits::WARM_UP, limits::SPAN) };
    let counts: BTreeSet<u32> =
        candidate.ways().iter().flat_map(|way| way.flows()).copied().collect();
    for flows in counts {
        for way in candidate.ways().iter().filter(|way| way.flows().contains(&flows)) {
            if let Some(first) = way.acquaintance(flows) {
                figures.known(*way, flows, rig.acquaint(&first)?);
            }
            let passed = rig.flood(&way.stream(flows), warm_up, span)?;
            figures.add(*way, flows, &passed);
        }
    }
    Ok(())
}
