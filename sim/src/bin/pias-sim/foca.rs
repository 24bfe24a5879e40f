//! `pias-sim foca`: the baseline of the overlay's membership.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::Args;
use pias_sim::{
    Topology,
    bench::report,
    foca::{Plan, Settings, measure},
};

/// Members that `--quick` runs with.
const QUICK: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many members; several give a table each [default: 100,500,1000,2000]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    members: Vec<usize>,
    /// A hundred members and five minutes of loss and pauses
    #[arg(long)]
    quick: bool,
    /// Foca's parameters [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    settings: Vec<Choice>,
    /// How many members a cluster has
    #[arg(long, default_value_t = 4, value_name = "N")]
    cluster_size: usize,
    /// Simulated minutes of the run with loss and pauses [default: 60, or 5 with --quick]
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u32>,
    /// What all chance comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the rows are kept; others' rows in it stay. Without it they are only printed
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Names of settings on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Choice {
    Lan,
    Wan,
    Tight,
}

impl From<Choice> for Settings {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Lan => Self::Lan,
            Choice::Wan => Self::Wan,
            Choice::Tight => Self::Tight,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    ensure!(arguments.cluster_size > 0, "a cluster has at least one member");
    let sizes = match arguments.members.as_slice() {
        [] if arguments.quick => &[QUICK],
        [] => &[100, 500, 1_000, 2_000][..],
        sizes => sizes,
    };
    let settings: Vec<Settings> = match arguments.settings.as_slice() {
        [] => Settings::ALL.to_vec(),
        some => some.iter().copied().map(Settings::from).collect(),
    };
    let minutes = arguments.minutes.unwrap_or(if arguments.quick { 5 } else { 60 });
    for &members in sizes {
        ensure!(
            (2..=65_536).contains(&members),
            "{members} members: give a number from 2 to 65536"
        );
        let clusters = members.div_ceil(arguments.cluster_size);
        let topology = Topology::synthetic(clusters, arguments.seed).populated(
            members,
            arguments.cluster_size,
            arguments.seed,
        );
        for &settings in &settings {
            let rows = measure(&Plan {
                topology: topology.clone(),
                settings,
                trouble: Duration::from_secs(u64::from(minutes) * 60),
                seed: arguments.seed,
            });
            println!("{}", report::table(&rows));
            if let Some(path) = &arguments.output {
                report::keep(path, &rows)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
