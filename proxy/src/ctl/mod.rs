//! `piasctl`: what it is asked, and what it prints.

pub mod ca;
mod client;
mod render;
mod table;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::Value;

pub use client::ClientError;

/// Control a proxy, and keep the operator's CA.
#[derive(Parser)]
#[command(name = "piasctl", version, arg_required_else_help = true)]
pub struct Cli {
    /// The daemon's admin socket.
    #[arg(long, global = true, value_name = "PATH", default_value = crate::ADMIN_SOCKET)]
    socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// For whom to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: exactly what the daemon says.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// The proxy as a whole: its state and its figures
    Status,
    /// All proxies that it knows, with their round-trip times
    Proxies,
    /// All groups that it has to do with, in any role
    Groups,
    /// All about one group
    Group {
        /// AA:port, or AA:port/tcp or /udp
        group: String,
    },
    /// The targets registered here
    Targets,
    /// The flows that pass here, ten thousand at most
    Flows {
        /// Those of one group alone: AA:port, or AA:port/tcp or /udp
        group: Option<String>,
    },
    /// Packets that went no further, by reason
    Drops {
        /// Those that never happened, too
        #[arg(long)]
        all: bool,
    },
    /// Where a packet would go that entered here, and why
    Explain {
        /// Who sends: IP, or IP:port for one flow
        client: String,
        /// To which group: AA:port (TCP), or AA:port/udp
        group: String,
    },
    /// Withdraw the routes, send agents elsewhere, and keep serving what there is until stopped
    Drain,
    /// Put a new piasd in the place of the running one, which hands over its flows, its targets and
    /// what it knows of others; also the way to a new configuration
    Upgrade {
        /// The program [default: the file that the running one was started from]
        program: Option<PathBuf>,
    },
    /// The operator's certificate authority
    #[command(subcommand)]
    Ca(Ca),
    /// Completions for a shell, on standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
enum Ca {
    /// Make a CA: ca.pem, ca.key and reset.key
    Init {
        #[command(flatten)]
        dir: CaDirectory,
        /// Days that it is valid
        #[arg(long, default_value_t = ca::CA_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issue a certificate
    #[command(subcommand)]
    Issue(Issue),
}

#[derive(Subcommand)]
enum Issue {
    /// Of a proxy: NAME.pem and NAME.key
    Proxy {
        /// The proxy's name, as in its configuration
        name: String,
        #[command(flatten)]
        dir: CaDirectory,
        /// Where to write them (the CA's directory, unless given)
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Days that it is valid
        #[arg(long, default_value_t = ca::PROXY_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
}

#[derive(Args)]
struct CaDirectory {
    /// The CA's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The daemon did not answer, or said no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The CA did not do it.
    #[error(transparent)]
    Ca(#[from] ca::CaError),
    /// Standard output is closed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl CtlError {
    /// The program's exit code: 3 where no daemon answers, else 1 (2 is clap's, for usage).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::NotRunning { .. } | ClientError::NotAllowed { .. }) => 3,
            _ => 1,
        }
    }
}

/// Does what was asked, and prints to `out`.
///
/// # Errors
/// As [`CtlError`] tells.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<(), CtlError> {
    let Cli { socket, output, command } = cli;
    let (path, view): (String, fn(&Value) -> String) = match command {
        Command::Ca(command) => return keep_ca(command, output, out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "piasctl", out);
            return Ok(());
        }
        Command::Drain => {
            let answer = client::post(&socket, "/drain").await?;
            return print(&answer, output, render::drain, out);
        }
        Command::Upgrade { program } => {
            let path = match program {
                Some(program) => format!("/upgrade?program={}", escaped(&program)?),
                None => "/upgrade".to_owned(),
            };
            let answer = client::post(&socket, &path).await?;
            return print(&answer, output, render::upgrade, out);
        }
        Command::Status => ("/status".to_owned(), render::status),
        Command::Proxies => ("/proxies".to_owned(), render::proxies),
        Command::Groups => ("/groups".to_owned(), render::groups),
        Command::Group { group } => {
            (format!("/group?group={}", client::escape(&group)), render::group)
        }
        Command::Targets => ("/targets".to_owned(), render::targets),
        Command::Flows { group: None } => ("/flows".to_owned(), render::flows),
        Command::Flows { group: Some(group) } => {
            (format!("/flows?group={}", client::escape(&group)), render::flows)
        }
        Command::Drops { all: true } => ("/drops".to_owned(), render::all_drops),
        Command::Drops { all: false } => ("/drops".to_owned(), render::drops),
        Command::Explain { client, group } => {
            let (client, group) = (client::escape(&client), client::escape(&group));
            (format!("/explain?client={client}&group={group}"), render::explain)
        }
    };
    let answer = client::get(&socket, &path).await?;
    print(&answer, output, view, out)
}

/// A program's absolute path in a URL: the daemon's working directory is another.
fn escaped(program: &Path) -> io::Result<String> {
    Ok(client::escape(&std::path::absolute(program)?.display().to_string()))
}

fn print(
    answer: &str,
    output: Output,
    view: fn(&Value) -> String,
    out: &mut impl Write,
) -> Result<(), CtlError> {
    match (output, serde_json::from_str(answer)) {
        (Output::Table, Ok(value)) => out.write_all(view(&value).as_bytes())?,
        (Output::Json, _) | (Output::Table, Err(_)) => writeln!(out, "{answer}")?,
    }
    Ok(())
}

fn keep_ca(command: Ca, output: Output, out: &mut impl Write) -> Result<(), CtlError> {
    let files = match command {
        Ca::Init { dir, days } => ca::init(&dir.dir, days)?,
        Ca::Issue(Issue::Proxy { name, dir, out, days }) => {
            ca::issue_proxy(&name, &dir.dir, out.as_deref().unwrap_or(&dir.dir), days)?
        }
    };
    match output {
        Output::Json => writeln!(out, "{}", serde_json::json!({ "files": files }))?,
        Output::Table => {
            for file in files {
                writeln!(out, "wrote {}", file.display())?;
            }
        }
    }
    Ok(())
}
