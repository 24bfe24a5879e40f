//! `pias-sim check`: seeds, in parallel threads, until one fails.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use pias_sim::{
    Keep,
    check::{Plan, Report, run as run_seed},
};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many seeds; 0 for as many as there is time, until stopped
    #[arg(long, default_value_t = 100, value_name = "N")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    first: u64,
    /// Most proxies in one world
    #[arg(long, default_value_t = 20, value_name = "N")]
    proxies: usize,
    /// Seeds that run at once [default: the machine's cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Go on after a failure, and list all seeds that fail
    #[arg(long)]
    all: bool,
    /// Print the whole trace of each seed
    #[arg(long)]
    trace: bool,
    /// Print the digest of each seed's run
    #[arg(long)]
    digest: bool,
}

/// What the threads share.
struct Shared<'a> {
    arguments: &'a Arguments,
    next: AtomicU64,
    /// The seeds that ran, their events and the answers that clients were owed.
    sums: Mutex<(u64, u64, u64)>,
    failed: Mutex<Option<Report>>,
    began: Instant,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let jobs = match arguments.jobs {
        _ if arguments.trace || arguments.digest => 1,
        Some(jobs) => jobs.max(1),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let shared = Shared {
        arguments,
        next: AtomicU64::new(0),
        sums: Mutex::default(),
        failed: Mutex::default(),
        began: Instant::now(),
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| shared.work());
        }
    });
    let (seeds, events, answered) = *lock(&shared.sums);
    if let Some(report) = lock(&shared.failed).take() {
        fail(&report, arguments);
        return Ok(ExitCode::FAILURE);
    }
    let seconds = shared.began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds hold: {events} events, {answered} answers that were owed, in {seconds:.1} s"
    );
    Ok(ExitCode::SUCCESS)
}

impl Shared<'_> {
    fn work(&self) {
        let mut told = Instant::now();
        while self.arguments.all || lock(&self.failed).is_none() {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if self.arguments.seeds != 0 && n >= self.arguments.seeds {
                return;
            }
            let keep = if self.arguments.trace { Keep::All } else { Keep::Tail };
            let seed = self.arguments.first + n;
            let report = run_seed(&Plan { seed, proxies: self.arguments.proxies, keep });
            self.take(report);
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                eprintln!("{} seeds hold", lock(&self.sums).0);
            }
        }
    }

    fn take(&self, report: Report) {
        if self.arguments.trace {
            print!("{}", report.trace);
        }
        if self.arguments.digest {
            println!("seed {} digest {:016x}", report.seed, report.digest);
        }
        if let Some(broken) = &report.broken {
            if self.arguments.all {
                println!("seed {} fails: {broken}", report.seed);
            }
            let mut failed = lock(&self.failed);
            // Of several the lowest is reported, whichever thread was faster.
            if failed.as_ref().is_none_or(|other| report.seed < other.seed) {
                *failed = Some(report);
            }
            return;
        }
        let mut sums = lock(&self.sums);
        *sums = (sums.0 + 1, sums.1 + report.events, sums.2 + report.answered);
    }
}

fn fail(report: &Report, arguments: &Arguments) {
    if !arguments.trace {
        println!("{}\n", report.trace);
    }
    if let Some(broken) = &report.broken {
        println!("seed {} fails: {broken}", report.seed);
    }
    let (seed, proxies) = (report.seed, arguments.proxies);
    println!("replay: pias-sim check --seeds 1 --first {seed} --proxies {proxies} --trace");
}

/// A thread that panicked has said so itself; the others' sums are still right.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
