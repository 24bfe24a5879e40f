//! `pias-sim`: the simulator from the command line.

mod bench;
mod check;
mod figures;
mod foca;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The overlay under a discrete-event clock.
#[derive(Debug, Parser)]
#[command(name = "pias-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Explore random faults against invariants; a seed that fails is printed
    Check(check::Arguments),
    /// Measure how soon proxies know what happens, what it costs, and who is wrongly declared down
    Bench(bench::Arguments),
    /// Measure foca, an implementation of SWIM, as a baseline of the overlay's membership
    Foca(foca::Arguments),
    /// The paper's figure 6: messages to the RAPs of a group over a flash crowd's time, by band
    Fig6(figures::Six),
    /// The paper's figure 7: messages to the RAPs of a group by number of proxies and band
    Fig7(figures::Seven),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Task::Check(arguments) => check::run(&arguments),
        Task::Bench(arguments) => bench::run(arguments),
        Task::Foca(arguments) => foca::run(&arguments),
        Task::Fig6(arguments) => figures::six(&arguments),
        Task::Fig7(arguments) => figures::seven(&arguments),
    }
}
