//! `pias-sim`: the simulator from the command line.

mod check;
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
    /// Measure foca, an implementation of SWIM, as a baseline of the overlay's membership
    Foca(foca::Arguments),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Task::Check(arguments) => check::run(&arguments),
        Task::Foca(arguments) => foca::run(&arguments),
    }
}
