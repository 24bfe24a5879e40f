//! The two processes between a user's `up` and the lab's keeper: `boot`, which
//! makes the namespaces, and `init`, the lab's PID 1.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::{env, fs, thread};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::namespace::{NamespaceError, furnish, separate};

/// The file in the state directory that holds init's process id as the machine
/// sees it.
pub const INIT_PID: &str = "init.pid";

/// What a stage of the boot needs to know; it hands it on to the next.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The lab's state directory, absolute.
    pub state: PathBuf,
    /// Whether the lab ends when its standard input does, which is when the
    /// process that holds the other end has died.
    pub attached: bool,
    /// Where piasd, piasctl and pias-join are.
    pub programs: Option<PathBuf>,
}

/// Why a stage of the boot failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No namespaces.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The next stage could not be started or waited for.
    #[error("cannot run the lab's {stage}: {source}")]
    Stage {
        /// "init" or "keeper".
        stage: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl Stage {
    /// The command that runs a stage of this lab with the program at `program`.
    pub fn command(&self, program: &Path, stage: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("stage").arg(stage).arg("--state").arg(&self.state);
        if self.attached {
            command.arg("--attached");
        }
        if let Some(programs) = &self.programs {
            command.arg("--programs").arg(programs);
        }
        command
    }

    fn spawn(&self, stage: &'static str, stdin: Stdio) -> Result<Child, BootError> {
        let failed = |source| BootError::Stage { stage, source };
        let program = env::current_exe().map_err(failed)?;
        self.command(&program, stage).stdin(stdin).spawn().map_err(failed)
    }
}

/// Makes the lab's namespaces, runs init in them and waits for its end.
pub fn boot(stage: &Stage) -> Result<ExitStatus, BootError> {
    separate()?;
    let failed = |source| BootError::Stage { stage: "init", source };
    let mut init = stage.spawn("init", Stdio::inherit())?;
    fs::write(stage.state.join(INIT_PID), init.id().to_string()).map_err(failed)?;
    init.wait().map_err(failed)
}

/// As PID 1: furnishes the lab, runs its keeper, buries orphans, and ends with
/// the keeper or with the attached input, whichever is first.
pub fn init(stage: &Stage) -> Result<ExitStatus, BootError> {
    if stage.attached {
        thread::spawn(end_with_input);
    }
    furnish(&stage.state)?;
    let keeper = stage.spawn("keeper", Stdio::null())?;
    let keeper = Pid::from_raw(keeper.id().cast_signed());
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == keeper => {
                return Ok(ExitStatus::from_raw(code << 8));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == keeper => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(BootError::Stage { stage: "keeper", source: error.into() }),
        }
    }
}

/// Ends the process, and as it is PID 1 the whole lab, at the end of its input.
fn end_with_input() {
    let mut byte = [0];
    while io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
    process::exit(0);
}
