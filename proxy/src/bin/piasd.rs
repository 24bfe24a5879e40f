//! `piasd`: see [`pias_proxy::daemon`].

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use pias_proxy::{config, daemon, hand_over::Command};
use tracing_subscriber::EnvFilter;

/// The anycast proxy: ingress, rendezvous and join in one.
#[derive(Parser)]
#[command(name = "piasd", version)]
struct Cli {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/pias/piasd.toml")]
    config: PathBuf,
    /// Check the configuration, files and certificates included, and exit: 0 if all is well.
    #[arg(long)]
    check: bool,
    /// Go on where the running piasd of this configuration ends: it hands over its flows, its targets
    /// and what it knows of others, and stops. Starts anew if none runs.
    #[arg(long, conflicts_with = "check")]
    take_over: bool,
    /// Log as JSON, one object a line. What is logged is set by PIAS_LOG (`info`,
    /// `pias_proxy=debug`, ...).
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match config::load(&cli.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if cli.check {
        println!(
            "{}: proxy {} of cluster {}, no faults",
            cli.config.display(),
            config.name,
            config.cluster
        );
        return ExitCode::SUCCESS;
    }
    log(cli.log_json);
    match serve(config, cli.take_over) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: config::Config, take_over: bool) -> anyhow::Result<()> {
    let command = Command::own().context("cannot find out which program this is")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(daemon::run(config, command, take_over))?;
    Ok(())
}

fn log(json: bool) {
    let filter = EnvFilter::try_from_env("PIAS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        lines.json().init();
    } else {
        lines.with_target(false).init();
    }
}
