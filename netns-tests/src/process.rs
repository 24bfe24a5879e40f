//! The processes that the keeper keeps: started in a host, logged to a file,
//! known by host and name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::control::ProcessStatus;
use crate::limits::MAX_PROCESSES;
use crate::namespace::{HostSpace, NamespaceError};

/// Why a process could not be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is missing or cannot run.
    #[error("cannot start {command:?} in {host}: {source}")]
    Start {
        /// The host.
        host: String,
        /// The program.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The host cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Two of one name.
    #[error("{host} already runs {process}: stop it first, or choose another name")]
    Running {
        /// The host.
        host: String,
        /// The process.
        process: String,
    },
    /// None of this name.
    #[error("{host} has no process {process:?}: see `pias-lab status`")]
    Unknown {
        /// The host.
        host: String,
        /// The process.
        process: String,
    },
    /// It has ended before.
    #[error("{process} of {host} does not run any more ({ended})")]
    Ended {
        /// The host.
        host: String,
        /// The process.
        process: String,
        /// How it ended.
        ended: String,
    },
    /// The table is full.
    #[error("the lab has {MAX_PROCESSES} processes, which is its bound")]
    TooMany,
    /// No such signal.
    #[error("there is no signal {0}")]
    Signal(i32),
}

/// Where a process's output goes.
pub fn log_path(state: &Path, host: &str, process: &str) -> PathBuf {
    state.join("logs").join(format!("{host}.{process}.log"))
}

/// All processes of a lab, by host and name.
#[derive(Debug)]
pub(crate) struct ProcessTable {
    state: PathBuf,
    /// Prepended to `PATH`, so that piasctl and pias-join are found by name.
    programs: Option<PathBuf>,
    processes: BTreeMap<(String, String), Kept>,
}

#[derive(Debug)]
struct Kept {
    command: Vec<String>,
    child: Child,
}

impl Kept {
    fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl ProcessTable {
    pub(crate) fn new(state: &Path, programs: Option<&Path>) -> Self {
        Self {
            state: state.to_owned(),
            programs: programs.map(Path::to_owned),
            processes: BTreeMap::new(),
        }
    }

    /// Starts a process in a host; without a command, one of this name that
    /// has ended starts again.
    pub(crate) fn start(
        &mut self,
        host: &str,
        space: &HostSpace,
        process: &str,
        command: Option<Vec<String>>,
    ) -> Result<u32, ProcessError> {
        let key = (host.to_owned(), process.to_owned());
        let before = self.processes.get_mut(&key);
        let (running, earlier) = match before {
            Some(kept) => (kept.ended().is_none(), Some(kept.command.clone())),
            None => (false, None),
        };
        if running {
            return Err(ProcessError::Running { host: key.0, process: key.1 });
        }
        let Some(command) = command.or(earlier).filter(|command| !command.is_empty()) else {
            return Err(ProcessError::Unknown { host: key.0, process: key.1 });
        };
        if self.processes.len() >= MAX_PROCESSES {
            return Err(ProcessError::TooMany);
        }
        let failed = |source| ProcessError::Start {
            host: host.to_owned(),
            command: command.join(" "),
            source,
        };
        let mut prepared = self.prepare(host, process, &command).map_err(failed)?;
        let child = space.within(|| prepared.spawn())?.map_err(failed)?;
        let pid = child.id();
        self.processes.insert(key, Kept { command, child });
        Ok(pid)
    }

    fn prepare(&self, host: &str, process: &str, command: &[String]) -> io::Result<Command> {
        let path = log_path(&self.state, host, process);
        let log: File = fs::OpenOptions::new().create(true).append(true).open(path)?;
        let mut prepared = Command::new(&command[0]);
        prepared.args(&command[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own keeps a signal to the lab's terminal away.
        prepared.process_group(0).current_dir("/");
        if let Some(programs) = &self.programs {
            prepared.env("PATH", search_path(programs));
        }
        Ok(prepared)
    }

    /// Sends a running process a signal. What stops it or lets it go on is for
    /// its children too, as from a terminal.
    pub(crate) fn kill(
        &mut self,
        host: &str,
        process: &str,
        signal: i32,
    ) -> Result<(), ProcessError> {
        let signal = Signal::try_from(signal).map_err(|_| ProcessError::Signal(signal))?;
        let key = (host.to_owned(), process.to_owned());
        let Some(kept) = self.processes.get_mut(&key) else {
            return Err(ProcessError::Unknown { host: key.0, process: key.1 });
        };
        // Until it is waited for, its id belongs to nobody else.
        if let Some(ended) = kept.ended() {
            return Err(ProcessError::Ended { host: key.0, process: key.1, ended });
        }
        let gone = |errno: nix::Error| ProcessError::Ended {
            host: host.to_owned(),
            process: process.to_owned(),
            ended: errno.to_string(),
        };
        let pid = Pid::from_raw(kept.child.id().cast_signed());
        match signal {
            Signal::SIGSTOP | Signal::SIGCONT => killpg(pid, signal),
            _ => kill(pid, signal),
        }
        .map_err(gone)
    }

    /// The processes of a host.
    pub(crate) fn of(&mut self, host: &str) -> Vec<ProcessStatus> {
        let of_host = self.processes.iter_mut().filter(|((of, _), _)| of == host);
        of_host
            .map(|((_, name), kept)| {
                let ended = kept.ended();
                ProcessStatus {
                    name: name.clone(),
                    pid: kept.child.id(),
                    running: ended.is_none(),
                    ended,
                }
            })
            .collect()
    }
}

/// `PATH` with the directory of our programs first.
pub(crate) fn search_path(programs: &Path) -> std::ffi::OsString {
    let mut path = programs.as_os_str().to_owned();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}
