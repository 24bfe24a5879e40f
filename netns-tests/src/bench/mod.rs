//! `pias-lab bench`: the TUN engine against what else could stand in its
//! place, on one topology (`deploy/lab/bench.toml`) and in one run.
//!
//! | file | subject |
//! | --- | --- |
//! | `places` | the hosts, addresses and ports of the topology |
//! | `candidate`, `baseline`, `pias` | what is compared, and how it starts and stops |
//! | `load` | the load generators |
//! | `metric`, `measure` | what is measured, and measuring it once |
//! | `figures`, `report` | medians, ratios and goals; the table and the JSON rows |
//! | `machine` | what the figures were measured on |
//! | `failover` | a suite of its own, `pias-lab bench-failover`: a join proxy's crash |
//! | `xdp` | a suite of its own, `pias-lab bench-xdp`: what one core does by XDP |
//!
//! What the figures mean is in `docs/benchmarks.md`.

mod baseline;
mod candidate;
mod failover;
mod figures;
pub(crate) mod limits;
pub mod load;
mod machine;
mod measure;
mod metric;
mod pias;
mod places;
mod report;
mod xdp;

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Args, Subcommand};
use pias_datapath::bench::BedError;
use pias_datapath::bench::traffic::TrafficError;
use serde::Serialize;

use crate::control::ControlError;
use crate::host::RunError;
use crate::join::JoinError;
use crate::lab::{Lab, Options, UpError};
use crate::programs::MissingProgram;
use crate::readiness::NotReady;
use crate::stream::StreamError;
use crate::wait::TimedOut;
use candidate::Candidate;
use figures::Figures;
use load::{Load, LoadError};
use machine::Machine;
use measure::Effort;

/// What `pias-lab` does about benchmarks.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Measure PIAS against plain forwarding, nftables and nginx
    Bench(Arguments),
    /// Measure what a join proxy's crash does to established connections
    BenchFailover(failover::Arguments),
    /// Measure what one core does by XDP, beside the kernel's own
    BenchXdp(xdp::Arguments),
    /// Generate load; the benchmarks' own
    #[command(subcommand, hide = true)]
    Load(Load),
}

/// How to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the rows go, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/tun.json")]
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

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The lab did not come up.
    #[error(transparent)]
    Up(#[from] UpError),
    /// A load generator, by itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A command could not be run in a host.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A process could not be started or stopped.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// One of PIAS's programs is not built.
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    /// An agent did not join or leave.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A crowd of connections broke off.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A proxy that was started again did not get ready.
    #[error("{source} (logs: {logs})")]
    NotReady {
        /// What is missing.
        source: NotReady,
        /// Where to look.
        logs: PathBuf,
    },
    /// A candidate did not get ready, or did not stop.
    #[error("{source} (logs: {logs})")]
    TimedOut {
        /// What was waited for.
        source: TimedOut,
        /// Where to look.
        logs: PathBuf,
    },
    /// A measurement failed.
    #[error("{candidate}: `{command}`: {message}")]
    Measurement {
        /// What was measured.
        candidate: &'static str,
        /// With which command.
        command: String,
        /// What it wrote.
        message: String,
    },
    /// The traffic of XDP's suite.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// What XDP costs.
    #[error(transparent)]
    Bed(#[from] BedError),
    /// There is no core for the host under test alone.
    #[error("this takes two cores: one for the host under test, one for all else")]
    Cores,
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Does what the command line asks for.
pub fn run(task: &Task) -> Result<(), BenchError> {
    match task {
        Task::Bench(arguments) => bench(arguments),
        Task::BenchFailover(arguments) => failover::run(arguments),
        Task::BenchXdp(arguments) => xdp::run(arguments),
        Task::Load(load) => Ok(load::run(load)?),
    }
}

/// Measures, prints the tables and writes the rows. A goal that does not hold
/// is a result and no failure.
fn bench(arguments: &Arguments) -> Result<(), BenchError> {
    let candidates = match arguments.only.as_slice() {
        [] => Candidate::ALL.to_vec(),
        only => Candidate::ALL.into_iter().filter(|candidate| only.contains(candidate)).collect(),
    };
    let machine = Machine::look(arguments.rounds, arguments.quick);
    let options = Options { without_proxies: true, ..Options::default() };
    let mut lab = Lab::up(&places::topology(), &options)?;
    baseline::prepare(&lab)?;
    if candidates.iter().any(|candidate| candidate.needs_pias()) {
        pias::prepare(&lab)?;
    }
    let figures = rounds(&lab, &candidates, arguments)?;
    let logs = lab.logs();
    lab.down().map_err(|source| BenchError::TimedOut { source, logs })?;
    let rows = report::rows(&figures);
    print!("{}", report::text(&machine, &candidates, &figures, &rows));
    write_rows(&arguments.output, &rows)
}

/// A turn for every candidate, then the next round: what changes on the
/// machine while it runs meets all of them.
fn rounds(
    lab: &Lab,
    candidates: &[Candidate],
    arguments: &Arguments,
) -> Result<Figures, BenchError> {
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let mut figures = Figures::default();
    for round in 1..=arguments.rounds {
        for candidate in candidates {
            eprintln!("round {round} of {}: {}", arguments.rounds, candidate.title());
            candidate.start(lab)?;
            measure::measure(lab, *candidate, &effort, &mut figures)?;
            candidate.stop(lab)?;
        }
    }
    Ok(figures)
}

fn write_rows<R: Serialize>(path: &Path, rows: &[R]) -> Result<(), BenchError> {
    let failed = |source| BenchError::File { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut text = serde_json::to_string_pretty(rows).map_err(|error| failed(error.into()))?;
    text.push('\n');
    fs::write(path, text).map_err(failed)?;
    println!("{} rows in {}", rows.len(), path.display());
    Ok(())
}
