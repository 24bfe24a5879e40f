//! `pias-lab`: the lab from the command line.

mod demo;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::str::FromStr;
use std::{fs, io};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use pias_lab::bench;
use pias_lab::boot::{self, Stage};
use pias_lab::process::log_path;
use pias_lab::{Lab, Options, Topology, default_state_base, keeper, tool};

/// A small Internet on one machine: real routing daemons, servers and clients
/// in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "pias-lab", version)]
struct Cli {
    /// The lab's state directory [default: /run/pias-lab/NAME, or the one lab
    /// that is up]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot a lab and keep it until Ctrl-C
    Up(Up),
    /// End a lab and everything in it
    Down,
    /// Show hosts, addresses, processes and links
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a host
    Exec {
        /// The host
        host: String,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Send a signal to a process of a host
    Kill {
        /// The host
        host: String,
        /// The process, as `status` names it
        process: String,
        /// The signal's name
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Start a process that has ended again
    Restart {
        /// The host
        host: String,
        /// The process, as `status` names it
        process: String,
    },
    /// Show what the processes of a host have written
    Logs {
        /// The host
        host: String,
        /// One process only
        process: Option<String>,
    },
    /// Change, cut or restore a link
    #[command(subcommand)]
    Link(LinkTask),
    /// What clients and targets of the scenarios run
    #[command(subcommand, hide = true)]
    Tool(tool::Tool),
    /// Run the main job on real traffic in a lab of its own, and say what
    /// happened
    Demo,
    /// Measure, or generate the load of a measurement
    #[command(flatten)]
    Bench(bench::Task),
    /// A stage of the lab's own boot
    #[command(hide = true)]
    Stage(StageArguments),
}

#[derive(Debug, Args)]
struct Up {
    /// The topology's TOML file [default: three-pops]
    topology: Option<PathBuf>,
    /// Return when the lab is ready, and leave it running
    #[arg(long)]
    detach: bool,
    /// Leave piasd out: routing, servers and clients only
    #[arg(long)]
    no_proxies: bool,
}

#[derive(Debug, Subcommand)]
enum LinkTask {
    /// Apply settings to an emulated link: delay=20ms jitter=1ms loss=30
    /// reorder=1 rate-mbit=100 queue=1000; or loss to a plain one
    Set {
        /// The link, as `status` names it
        link: String,
        /// The settings
        #[arg(required = true)]
        settings: Vec<String>,
    },
    /// Cut a link in both directions
    Cut {
        /// The link, as `status` names it
        link: String,
    },
    /// Make a cut link whole
    Restore {
        /// The link, as `status` names it
        link: String,
    },
}

#[derive(Debug, Args)]
struct StageArguments {
    /// boot, init or keeper
    stage: String,
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    attached: bool,
    #[arg(long)]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match perform(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pias-lab: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, those left out that it quotes itself.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        line if line.contains(&cause) => line.to_owned(),
        line => format!("{line}: {cause}"),
    })
}

fn perform(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Task::Up(arguments) => up(cli, arguments)?,
        Task::Bench(task) => bench::run(task)?,
        Task::Stage(arguments) => return run_stage(arguments),
        Task::Demo => {
            let state = cli.state_dir.clone();
            demo::run(&state.unwrap_or_else(|| default_state_base().join("demo")))?;
        }
        Task::Tool(tool) => tool::run(tool)?,
        Task::Exec { host, command } => {
            let error = attach(cli)?.host(host).command(command)?.exec();
            return Err(error).context("nsenter");
        }
        Task::Down => {
            let state = state_of(cli)?;
            Lab::attach(&state)?.down()?;
            fs::remove_dir_all(&state).context("remove the lab's state")?;
        }
        Task::Status { json } => status(&attach(cli)?, *json)?,
        Task::Kill { host, process, signal } => {
            let name = signal.to_uppercase();
            let signal = Signal::from_str(&format!("SIG{}", name.trim_start_matches("SIG")))
                .with_context(|| format!("there is no signal {signal}"))?;
            attach(cli)?.host(host).kill(process, signal)?;
        }
        Task::Restart { host, process } => {
            attach(cli)?.host(host).restart(process)?;
        }
        Task::Logs { host, process } => logs(&attach(cli)?, host, process.as_deref())?,
        Task::Link(LinkTask::Set { link, settings }) => {
            let settings: Vec<_> = settings.iter().map(String::as_str).collect();
            attach(cli)?.set_link(link, &settings)?;
        }
        Task::Link(LinkTask::Cut { link }) => attach(cli)?.cut_link(link)?,
        Task::Link(LinkTask::Restore { link }) => attach(cli)?.restore_link(link)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots, says so, and stays until a signal unless it is to detach.
fn up(cli: &Cli, arguments: &Up) -> anyhow::Result<()> {
    let topology = match &arguments.topology {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Topology::parse(&text).with_context(|| path.display().to_string())?
        }
        None => Topology::three_pops(),
    };
    let state = cli.state_dir.clone().unwrap_or_else(|| default_state_base().join(&topology.name));
    let options = Options {
        state: Some(state),
        without_proxies: arguments.no_proxies,
        detached: arguments.detach,
    };
    let mut lab = Lab::up(&topology, &options)?;
    let times = lab.boot_times();
    println!(
        "{}: {} hosts and {} processes in {:.1?}, routed after another {:.1?}, proxies after {:.1?}; logs in {}",
        topology.name,
        topology.hosts.len(),
        lab.status()?.hosts.iter().map(|host| host.processes.len()).sum::<usize>(),
        times.built,
        times.routed,
        times.proxies,
        lab.logs().display(),
    );
    if arguments.detach {
        return Ok(());
    }
    println!("Ctrl-C takes it down");
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    signals.wait()?;
    lab.down()?;
    Ok(())
}

fn run_stage(arguments: &StageArguments) -> anyhow::Result<ExitCode> {
    let stage = Stage {
        state: arguments.state.clone(),
        attached: arguments.attached,
        programs: arguments.programs.clone(),
    };
    let status: ExitStatus = match arguments.stage.as_str() {
        "boot" => boot::boot(&stage)?,
        "init" => boot::init(&stage)?,
        "keeper" => match keeper::keep(&stage)? {},
        other => bail!("there is no stage {other:?}"),
    };
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn attach(cli: &Cli) -> anyhow::Result<Lab> {
    Ok(Lab::attach(&state_of(cli)?)?)
}

/// The named state directory, or the one of the only lab that is up.
fn state_of(cli: &Cli) -> anyhow::Result<PathBuf> {
    if let Some(state) = &cli.state_dir {
        return state.canonicalize().with_context(|| state.display().to_string());
    }
    let base = default_state_base();
    let labs = labs_under(&base).unwrap_or_default();
    match labs.as_slice() {
        [lab] => Ok(lab.clone()),
        [] => bail!("no lab is up (looked in {})", base.display()),
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            bail!("several labs are up; choose one with --state-dir: {}", names.join(", "))
        }
    }
}

fn labs_under(base: &Path) -> io::Result<Vec<PathBuf>> {
    let mut labs: Vec<_> = fs::read_dir(base)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| Lab::attach(path).is_ok())
        .collect();
    labs.sort();
    Ok(labs)
}

fn status(lab: &Lab, json: bool) -> anyhow::Result<()> {
    let status = lab.status()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    println!("lab {} in {}", status.name, lab.state().display());
    for host in &status.hosts {
        let processes: Vec<_> = host
            .processes
            .iter()
            .map(|process| match &process.ended {
                None => format!("{} ({})", process.name, process.pid),
                Some(ended) => format!("{} (ended: {ended})", process.name),
            })
            .collect();
        let role = format!("{:?}", host.role).to_lowercase();
        let addresses = host.addresses.join(" ");
        println!("{:<8} {role:<8} {addresses:<45} {}", host.name, processes.join(", "));
    }
    for link in &status.links {
        let state = match (&link.shape, link.cut) {
            (_, true) => "cut".to_owned(),
            (None, false) => "plain".to_owned(),
            (Some(shape), false) => format!(
                "delay {:?} jitter {:?} loss {} % reorder {} %",
                shape.delay, shape.jitter, shape.loss, shape.reorder
            ),
        };
        println!("link {:<12} {} - {}: {state}", link.name, link.ends[0], link.ends[1]);
    }
    Ok(())
}

fn logs(lab: &Lab, host: &str, process: Option<&str>) -> anyhow::Result<()> {
    let known = lab.host(host).status()?.processes;
    let names: Vec<_> = match process {
        Some(process) => vec![process.to_owned()],
        None => known.into_iter().map(|process| process.name).collect(),
    };
    for name in names {
        let path = log_path(lab.state(), host, &name);
        println!("==> {} <==", path.display());
        print!("{}", lab.host(host).log(&name));
    }
    Ok(())
}
