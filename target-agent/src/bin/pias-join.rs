//! `pias-join`: puts a service of this host into an anycast group, and keeps it there.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{CommandFactory, Parser, error::ErrorKind};
use clap_complete::Shell;
use pias_agent::{
    Agent, Check, CheckTiming, End, Event, Group, Target,
    config::Config,
    output::{self, Stream},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What ends the program, as its exit status.
const INTERNAL: u8 = 1;
const USAGE: u8 = 2;
const REFUSED: u8 = 3;
const UNREACHABLE: u8 = 4;

/// Puts a service of this host into an anycast group, and keeps it there.
///
/// Connects to the group's anycast address, so that routing picks the proxy, joins, and joins again
/// through whichever proxy is nearest then when that one is lost. Leaves on SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "pias-join", version, after_help = AFTER_HELP)]
struct Arguments {
    /// Group to join; without a protocol, both TCP and UDP.
    #[arg(value_name = "AA:PORT[/tcp|/udp]", required_unless_present_any = ["config", "completions", "man"])]
    groups: Vec<Group>,

    /// Where the service is: ADDR:PORT, ADDR or :PORT [default: the group's port on the address that
    /// the route to the group uses].
    #[arg(long, value_name = "TARGET")]
    to: Option<Target>,

    /// The operator's certificate authority (PEM): only its proxies are spoken to.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Share of flows relative to other targets.
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,

    /// Takes the target out while this fails: tcp, udp, udp:HEX, http://HOST:PORT/PATH, exec:COMMAND.
    #[arg(long, value_name = "CHECK")]
    check: Option<Check>,

    /// Time between checks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    check_interval: Duration,

    /// A check that takes longer has failed.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    check_timeout: Duration,

    /// Successes in a row that bring the target back.
    #[arg(long, value_name = "N", default_value_t = 2)]
    rise: u32,

    /// Failures in a row that take the target out.
    #[arg(long, value_name = "N", default_value_t = 3)]
    fall: u32,

    /// Takes groups and checks from a TOML file instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["groups", "to", "weight", "check", "check_interval", "check_timeout", "rise", "fall"])]
    config: Option<PathBuf>,

    /// Prints one JSON object a line.
    #[arg(long)]
    json: bool,

    /// Ends when the first attempt finds no proxy, instead of trying for ever.
    #[arg(long)]
    fail_fast: bool,

    /// The proxies' port of registration.
    #[arg(long, value_name = "PORT", default_value_t = pias_protocol::PIAS_PORT)]
    port: u16,

    /// Prints a shell's completions.
    #[arg(long, value_name = "SHELL", hide = true)]
    completions: Option<Shell>,

    /// Prints the manual page (roff).
    #[arg(long, hide = true)]
    man: bool,
}

const AFTER_HELP: &str = "\
Checks:
  tcp          the target accepts a connection
  udp[:HEX]    the target's host does not refuse a datagram; silence counts as up
  http://...   a GET is answered with 2xx or 3xx
  exec:...     the shell command exits with 0; it finds PIAS_GROUP and PIAS_TARGET in its environment
The first result counts at once, later ones by --rise and --fall.

Exit status:
  0  left after SIGINT or SIGTERM
  1  internal error
  2  wrong usage or configuration
  3  every group was refused
  4  no proxy answered the first attempt (--fail-fast)

PIAS_LOG=debug logs to standard error.";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("PIAS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let arguments = Arguments::parse();
    match print_for_packagers(&arguments) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => return complain(&error, INTERNAL),
    }
    let json = arguments.json;
    // Before anything is joined: from then on a signal means to leave.
    let signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => return complain(&error, INTERNAL),
    };
    let agent = match start(arguments) {
        Ok(agent) => agent,
        Err(error) => return complain(&error, USAGE),
    };
    match serve(agent, signals, json).await {
        End::Left => ExitCode::SUCCESS,
        End::Refused => ExitCode::from(REFUSED),
        End::Unreachable => ExitCode::from(UNREACHABLE),
    }
}

fn complain(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("pias-join: {error:#}");
    ExitCode::from(status)
}

/// Completions and the manual page; whether one of them was asked for.
fn print_for_packagers(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut command = Arguments::command();
    if let Some(shell) = arguments.completions {
        clap_complete::generate(shell, &mut command, "pias-join", &mut io::stdout());
        return Ok(true);
    }
    if arguments.man {
        clap_mangen::Man::new(command).render(&mut io::stdout())?;
        return Ok(true);
    }
    Ok(false)
}

fn start(arguments: Arguments) -> anyhow::Result<Agent> {
    let (port, fail_fast) = (arguments.port, arguments.fail_fast);
    let (groups, ca) = wanted(arguments)?;
    let Some(ca) = ca else {
        let missing = "no certificate authority: give --ca FILE, or `ca` in the configuration";
        Arguments::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
    };
    let pem = std::fs::read(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
    let mut builder = Agent::builder().certificate_authority(pem).port(port).fail_fast(fail_fast);
    for group in groups {
        builder = builder.group(group);
    }
    Ok(builder.start()?)
}

/// The groups and the certificate authority, from the arguments or the file.
fn wanted(arguments: Arguments) -> anyhow::Result<(Vec<Group>, Option<PathBuf>)> {
    if let Some(path) = arguments.config {
        let place = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(place)?;
        let config = Config::parse(&text).with_context(place)?;
        let ca = arguments.ca.or_else(|| config.ca.clone());
        return Ok((config.into_groups(), ca));
    }
    let timing = CheckTiming {
        interval: arguments.check_interval,
        timeout: arguments.check_timeout,
        rise: arguments.rise,
        fall: arguments.fall,
    };
    let complete = |group: Group| {
        let mut group = group.weight(arguments.weight).timing(timing);
        if let Some(target) = arguments.to {
            group = group.to(target);
        }
        match &arguments.check {
            Some(check) => group.check(check.clone()),
            None => group,
        }
    };
    Ok((arguments.groups.into_iter().map(complete).collect(), arguments.ca))
}

/// Prints events until the agent ends, or is told to.
async fn serve(mut agent: Agent, mut signals: Signals, json: bool) -> End {
    let end = loop {
        tokio::select! {
            event = agent.next() => match event {
                Some(event) => print(&event, json),
                None => break agent.ended().await,
            },
            () = signals.next() => break agent.leave().await,
        }
    };
    while let Some(event) = agent.next().await {
        print(&event, json);
    }
    end
}

/// The signals that mean to leave.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        Ok(Self { interrupt, terminate })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A reader that went away does not end the membership.
fn print(event: &Event, json: bool) {
    let (stream, line) =
        if json { (Stream::Out, output::json(event)) } else { output::text(event) };
    let written = match stream {
        Stream::Out => writeln!(io::stdout(), "{line}"),
        Stream::Err => writeln!(io::stderr(), "{line}"),
    };
    if let Err(error) = written {
        tracing::warn!(%error, "cannot print");
    }
}
