//! Starting the process that takes over.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{io::AsyncReadExt, process, time::timeout};

use crate::limits::{CHECK_OUTPUT, CHECK_TIME, UPGRADE_TIME};

/// The switch that makes a piasd take over.
const TAKE_OVER: &str = "--take-over";

/// How this process was started, and so how its successor is.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// Why no other process took over; this one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It cannot be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not accept the configuration.
    #[error("{program} does not accept the configuration:\n{output}")]
    Check {
        /// The program.
        program: PathBuf,
        /// What it wrote.
        output: String,
    },
    /// It ended.
    #[error(
        "{program} did not take over, and this piasd goes on: {status}; its reason is in the log"
    )]
    Ended {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// It took too long.
    #[error("{program} did not take over within {UPGRADE_TIME:?}, and this piasd goes on")]
    Slow {
        /// The program.
        program: PathBuf,
    },
}

impl Command {
    /// That of this process. To be asked at the start: later the program's file may be another.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn own() -> io::Result<Self> {
        let program = env::current_exe()?;
        let arguments = env::args_os().skip(1).filter(|argument| argument != TAKE_OVER).collect();
        Ok(Self { program, arguments })
    }

    /// A command of these words.
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { program, arguments }
    }

    fn with(&self, program: Option<&Path>) -> Self {
        let program = program.unwrap_or(&self.program).to_owned();
        Self { program, arguments: self.arguments.clone() }
    }

    fn process(&self, switch: &str) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments).arg(switch).stdin(Stdio::null());
        // The watchdog's beats are the new process's from its first on (sd_watchdog_enabled(3)).
        command.env_remove("WATCHDOG_PID");
        command
    }

    fn cannot_run(&self) -> impl Fn(io::Error) -> UpgradeError + '_ {
        move |source| UpgradeError::Run { program: self.program.clone(), source }
    }
}

/// Starts `program`, by default the file that this process was started from, to take over from this
/// process, and waits. Where it does, `taken` resolves first, and the future is of no more use.
///
/// # Errors
/// As [`UpgradeError`] tells.
pub async fn upgrade<T>(
    own: &Command,
    program: Option<&Path>,
    taken: impl Future<Output = T>,
) -> Result<T, UpgradeError> {
    let command = own.with(program);
    check(&command).await?;
    let mut child = command.process(TAKE_OVER).spawn().map_err(command.cannot_run())?;
    let ended = async {
        tokio::select! {
            biased;
            taken = taken => Ok(taken),
            status = child.wait() => {
                let status = status.map_err(command.cannot_run())?;
                Err(UpgradeError::Ended { program: command.program.clone(), status })
            }
        }
    };
    match timeout(UPGRADE_TIME, ended).await {
        Ok(outcome) => outcome,
        Err(_) => {
            // One that has ended meanwhile cannot be killed, and need not be.
            let _ = child.kill().await;
            Err(UpgradeError::Slow { program: command.program.clone() })
        }
    }
}

/// Lets the program check the configuration, so that its words reach who asked.
async fn check(command: &Command) -> Result<(), UpgradeError> {
    let checked = async {
        let mut checking = command.process("--check");
        checking.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = checking.spawn()?;
        let mut output = Vec::new();
        if let Some(said) = child.stderr.take() {
            // One that says more finds the pipe closed.
            said.take(CHECK_OUTPUT).read_to_end(&mut output).await?;
        }
        Ok((child.wait().await?, output))
    };
    let program = || command.program.clone();
    let (status, output) = timeout(CHECK_TIME, checked)
        .await
        .map_err(|_| UpgradeError::Slow { program: program() })?
        .map_err(command.cannot_run())?;
    if status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    Err(UpgradeError::Check { program: program(), output })
}
