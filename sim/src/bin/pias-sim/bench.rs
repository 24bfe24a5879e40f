//! `pias-sim bench`: the overlay's figures.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::Args;
use pias_sim::bench::{Options, Part, report, run as measure};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A tenth of the proxies and a quarter of an hour: minutes instead of an hour
    #[arg(long)]
    quick: bool,
    /// Measure in some of the worlds only [default: all]
    #[arg(long, value_delimiter = ',', value_name = "WORLD")]
    only: Vec<World>,
    /// How many proxies there are where all are asked for [default: 20000, or 2000 with --quick]
    #[arg(long, value_name = "N")]
    proxies: Option<usize>,
    /// How many proxies a cluster has
    #[arg(long, default_value_t = 4, value_name = "N")]
    cluster_size: usize,
    /// Simulated hours of the run with loss and pauses [default: 24, or 0.25 with --quick]
    #[arg(long, value_name = "H")]
    hours: Option<f64>,
    /// A file with POPs: tab-separated links, or CSV of round-trip times between cities
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    /// What all chance comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the rows are kept; others' rows in it stay
    #[arg(long, value_name = "FILE", default_value = "target/bench/overlay.json")]
    output: PathBuf,
}

/// Names of worlds on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum World {
    /// One proxy with the tables of all: memory
    Memory,
    /// 200 POPs: crashes known inside them
    Pops,
    /// All proxies: idle traffic, crashes, POPs' losses
    All,
    /// A thousand proxies with loss and pauses, for long
    Day,
}

impl From<World> for Part {
    fn from(world: World) -> Self {
        match world {
            World::Memory => Self::Memory,
            World::Pops => Self::Pops,
            World::All => Self::All,
            World::Day => Self::Day,
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (proxies, hours) = if arguments.quick { (2_000, 0.25) } else { (20_000, 24.0) };
    let hours = arguments.hours.unwrap_or(hours);
    ensure!(arguments.cluster_size > 0, "a cluster has at least one proxy");
    ensure!((0.0..10_000.0).contains(&hours), "{hours} hours: give a number from 0 to 10,000");
    let parts: Vec<Part> = if arguments.only.is_empty() {
        Part::ALL.to_vec()
    } else {
        arguments.only.into_iter().map(Part::from).collect()
    };
    let rows = measure(&Options {
        parts,
        proxies: arguments.proxies.unwrap_or(proxies),
        cluster_size: arguments.cluster_size,
        day: Duration::from_secs_f64(hours * 3_600.0),
        topology: arguments.topology,
        seed: arguments.seed,
    })?;
    print!("{}", report::table(&rows));
    report::keep(&arguments.output, &rows)?;
    println!("\nkept in {}", arguments.output.display());
    Ok(ExitCode::SUCCESS)
}
