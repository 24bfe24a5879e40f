//! `pias-sim fig6` and `pias-sim fig7`: the paper's figures, as tables, CSV and SVG.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use pias_sim::{
    Topology,
    figures::{BANDS, Cell, Clients, Crowd, Fig6, Fig7, Study},
    read,
};

/// POPs of the topology that is made up where no file is given.
const POPS: usize = 400;
/// Least proxies: as many as a group has RAPs.
const LEAST: usize = 4;

/// How clients are spread over proxies.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Spread {
    /// At the POPs, many at few and few at many; each reaches the nearest proxy
    Cities,
    /// As many at every proxy
    Even,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Average over so many seeds
    #[arg(long, default_value_t = 20, value_name = "N")]
    runs: usize,
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// How long the event lasts
    #[arg(long, default_value_t = 6.0, value_name = "HOURS")]
    hours: f64,
    /// POP links or round-trip times of cities [default: a synthetic topology of 400 POPs]
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    /// How clients are spread over proxies
    #[arg(long, value_enum, default_value = "cities")]
    clients: Spread,
    /// Runs that go at once [default: the machine's cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Plot to a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Six {
    /// How many proxies
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    proxies: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Seven {
    /// How many proxies, several by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [100, 300, 1_000, 3_000, 10_000],
        value_name = "N"
    )]
    proxies: Vec<usize>,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn six(arguments: &Six) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let cells = common.study(&[arguments.proxies], &BANDS)?;
    let figure = Fig6(&cells);
    print!("{}", figure.table());
    common.write(|| figure.csv(), || figure.svg())
}

pub(crate) fn seven(arguments: &Seven) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    // How often a JAP refreshes does not depend on the band.
    let cells = common.study(&arguments.proxies, &[100])?;
    let figure = Fig7(&cells);
    print!("{}", figure.table());
    common.write(|| figure.csv(), || figure.svg())
}

impl Common {
    fn study(&self, proxies: &[usize], refreshed: &[u8]) -> anyhow::Result<Vec<Cell>> {
        ensure!(self.runs > 0, "--runs: at least 1");
        ensure!(proxies.iter().all(|&n| n >= LEAST), "--proxies: at least {LEAST}");
        ensure!((0.02..=48.0).contains(&self.hours), "--hours: from 0.02 to 48");
        let length = Duration::from_secs_f64(self.hours * 3_600.0);
        let pops = match &self.topology {
            Some(file) => read(file)?,
            None => Topology::synthetic(POPS, self.seed),
        };
        let crowd = Crowd::new(self.seed, length);
        println!(
            "{} POPs; {} runs of {} h; in the first, {} members join and {} leave, at most {} are \
             there at once\n",
            pops.pops.len(),
            self.runs,
            self.hours,
            crowd.joins(),
            crowd.leaves(),
            crowd.peak()
        );
        let jobs = self.jobs.or_else(|| thread::available_parallelism().ok().map(usize::from));
        let (runs, seed, jobs) = (self.runs, self.seed, jobs.unwrap_or(1));
        let began = Instant::now();
        let clients = match self.clients {
            Spread::Cities => Clients::Cities,
            Spread::Even => Clients::Even,
        };
        let study = Study { pops: &pops, clients, proxies, runs, seed, length, refreshed, jobs };
        Ok(study.run(|done, all| {
            let seconds = began.elapsed().as_secs();
            eprint!("\r{done} of {all} runs, {seconds} s{}", if done == all { "\n" } else { "" });
        }))
    }

    fn write(
        &self,
        csv: impl FnOnce() -> String,
        svg: impl FnOnce() -> String,
    ) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.csv {
            save(path, &csv())?;
        }
        if let Some(path) = &self.svg {
            save(path, &svg())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
