//! A host of a running lab: run commands in it, start and kill its processes.

use std::fs;
use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use nix::sys::signal::Signal;

use crate::capture::{Capture, CaptureError};
use crate::control;
use crate::control::{Answer, ControlError, HostStatus, ProcessStatus, Request};
use crate::lab::Lab;
use crate::limits::COMMAND_LIMIT;
use crate::process::{log_path, search_path};
use crate::programs;

/// `timeout(1)` exits so when it had to end the command.
const TIMEOUT_EXIT: i32 = 124;

/// Why a command in a host could not be run, or what it ended with.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The lab does not answer, or has no such host.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The host is not in the topology.
    #[error("the lab has no host {0:?}")]
    UnknownHost(String),
    /// nsenter cannot be started.
    #[error("cannot enter {host} with nsenter(1): {source}")]
    Enter {
        /// The host.
        host: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The command did not end in time.
    #[error("{host}: `{command}` did not end within {limit:?}")]
    TimedOut {
        /// The host.
        host: String,
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The command failed where success was asked for.
    #[error("{host}: `{command}` ended with {status}: {message}")]
    Failed {
        /// The host.
        host: String,
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        message: String,
    },
    /// Its output is no JSON.
    #[error("{host}: `{command}` did not answer in JSON: {source}")]
    Json {
        /// The host.
        host: String,
        /// The command.
        command: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What a command gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long it ran, the entering of the host included (some ms).
    pub took: Duration,
}

impl Output {
    /// Whether it ended with exit status 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

/// A host of a running lab.
#[derive(Debug, Clone)]
pub struct Host<'lab> {
    lab: &'lab Lab,
    name: String,
}

impl<'lab> Host<'lab> {
    pub(crate) fn new(lab: &'lab Lab, name: &str) -> Self {
        Self { lab, name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab that it is in.
    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// Its state.
    pub fn status(&self) -> Result<HostStatus, RunError> {
        let hosts = self.lab.status()?.hosts;
        let host = hosts.into_iter().find(|host| host.name == self.name);
        host.ok_or_else(|| RunError::UnknownHost(self.name.clone()))
    }

    /// A command that runs `words` in this host, streams inherited, without a
    /// time limit.
    pub fn command<S: AsRef<str>>(&self, words: &[S]) -> Result<Command, RunError> {
        let entrance = self.lab.entrance()?;
        let keeper = entrance.keeper;
        let descriptors = entrance.descriptors.get(&self.name);
        let [net, mnt, uts] =
            descriptors.ok_or_else(|| RunError::UnknownHost(self.name.clone()))?;
        let mut command = Command::new("nsenter");
        if entrance.user_namespace {
            command.arg(format!("--user=/proc/{keeper}/ns/user")).arg("--preserve-credentials");
        }
        command
            .arg(format!("--net=/proc/{keeper}/fd/{net}"))
            .arg(format!("--mount=/proc/{keeper}/fd/{mnt}"))
            .arg(format!("--uts=/proc/{keeper}/fd/{uts}"))
            .arg(format!("--pid=/proc/{keeper}/ns/pid"))
            .arg("--")
            .args(words.iter().map(AsRef::as_ref))
            .env("PATH", search_path(&programs::directory()));
        Ok(command)
    }

    /// Runs a command with the default limit of ten seconds.
    pub fn run<S: AsRef<str>>(&self, words: &[S]) -> Result<Output, RunError> {
        self.run_for(COMMAND_LIMIT, words)
    }

    /// Runs a command; one that outlives the limit is killed inside the host.
    pub fn run_for<S: AsRef<str>>(&self, limit: Duration, words: &[S]) -> Result<Output, RunError> {
        let seconds = format!("{:.3}", limit.as_secs_f64());
        let mut limited = vec!["timeout", "-k", "1", &seconds];
        limited.extend(words.iter().map(AsRef::as_ref));
        let start = Instant::now();
        let output = self.command(&limited)?.stdin(Stdio::null()).output();
        let output =
            output.map_err(|source| RunError::Enter { host: self.name.clone(), source })?;
        if output.status.code() == Some(TIMEOUT_EXIT) {
            let command = join(words);
            return Err(RunError::TimedOut { host: self.name.clone(), command, limit });
        }
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        })
    }

    /// Runs a command that must succeed; returns its standard output.
    pub fn ok<S: AsRef<str>>(&self, words: &[S]) -> Result<String, RunError> {
        let output = self.run(words)?;
        if output.success() {
            return Ok(output.stdout);
        }
        let message = format!("{}{}", output.stderr, output.stdout).trim().to_owned();
        Err(RunError::Failed {
            host: self.name.clone(),
            command: join(words),
            status: output.status,
            message,
        })
    }

    /// Runs `piasctl ... -o json` on a proxy.
    pub fn piasctl(&self, words: &[&str]) -> Result<serde_json::Value, RunError> {
        let words = [&["piasctl"], words, &["-o", "json"]].concat();
        let text = self.ok(&words)?;
        serde_json::from_str(&text).map_err(|source| RunError::Json {
            host: self.name.clone(),
            command: join(&words),
            source,
        })
    }

    /// Starts a process under a name, its output in `logs/HOST.NAME.log`; it
    /// runs until it ends, is killed, or the lab ends.
    pub fn spawn<S: AsRef<str>>(&self, process: &str, words: &[S]) -> Result<u32, ControlError> {
        self.request_start(process, Some(words.iter().map(|word| word.as_ref().into()).collect()))
    }

    /// Starts a process of this name, which has ended, with the same command
    /// once more.
    pub fn restart(&self, process: &str) -> Result<u32, ControlError> {
        self.request_start(process, None)
    }

    fn request_start(
        &self,
        process: &str,
        command: Option<Vec<String>>,
    ) -> Result<u32, ControlError> {
        let (host, process) = (self.name.clone(), process.to_owned());
        match control::ask(self.lab.state(), &Request::Start { host, process, command })? {
            (_, Answer::Started { pid }) => Ok(pid),
            (_, other) => {
                Err(ControlError::Garbled(io::Error::other(format!("unexpected {other:?}"))))
            }
        }
    }

    /// Sends a process a signal: `host.kill("piasd", Signal::SIGKILL)`.
    pub fn kill(&self, process: &str, signal: Signal) -> Result<(), ControlError> {
        let (host, process) = (self.name.clone(), process.to_owned());
        self.lab.tell(&Request::Kill { host, process, signal: signal as i32 })
    }

    /// A process's state; none if there never was one of this name.
    pub fn process(&self, name: &str) -> Result<Option<ProcessStatus>, RunError> {
        let status = self.status()?;
        Ok(status.processes.into_iter().find(|process| process.name == name))
    }

    /// Whether a process runs.
    pub fn runs(&self, process: &str) -> bool {
        self.process(process).is_ok_and(|found| found.is_some_and(|process| process.running))
    }

    /// What a process has written so far.
    pub fn log(&self, process: &str) -> String {
        fs::read(log_path(self.lab.state(), &self.name, process))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Captures what crosses an interface, in both directions:
    /// `host.capture("eth0", "udp port 6081")`. Returns once tcpdump listens.
    pub fn capture(&self, interface: &str, filter: &str) -> Result<Capture<'lab>, CaptureError> {
        Capture::start(self, interface, filter)
    }
}

fn join<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}
