//! `piasctl`: see [`pias_proxy::ctl`].

use std::process::ExitCode;

use clap::Parser;
use pias_proxy::ctl::{Cli, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse(), &mut std::io::stdout().lock()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("piasctl: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
