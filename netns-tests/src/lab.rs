//! A lab from the outside: up, look, break things, down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::boot::{INIT_PID, Stage};
use crate::certificates::{self, CertificateError};
use crate::control::{self, Answer, ControlError, LabStatus, Request};
use crate::host::Host;
use crate::keeper::TOPOLOGY;
use crate::limits::BOOT_LIMIT;
use crate::programs::{self, MissingProgram};
use crate::readiness::{self, NotReady};
use crate::topology::Topology;
use crate::wait::{TimedOut, wait_for, wait_until};

/// Where and how a lab comes up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its state directory; by default a temporary one that goes with the lab.
    pub state: Option<PathBuf>,
    /// Leave piasd out: routing, servers and clients only.
    pub without_proxies: bool,
    /// Keep running after this process ends.
    pub detached: bool,
}

/// Why a lab did not come up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// There is one in this state directory already.
    #[error("a lab is up in {0}: take it down first, or give another --state-dir")]
    AlreadyUp(PathBuf),
    /// One of PIAS's programs is not built.
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    /// The operator's keys.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The state directory.
    #[error("the lab's state directory {directory}: {source}")]
    State {
        /// Where.
        directory: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The topology cannot be written down.
    #[error("cannot write the topology down: {0}")]
    Topology(#[from] toml::ser::Error),
    /// The boot ended early.
    #[error("the lab did not boot: {reason} (log: {log})")]
    Boot {
        /// The last line of its log.
        reason: String,
        /// The whole log.
        log: PathBuf,
    },
    /// It booted but did not get ready.
    #[error("{source} (logs: {logs})")]
    NotReady {
        /// What is missing.
        source: NotReady,
        /// Where to look.
        logs: PathBuf,
    },
    /// It never answered.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

/// How long the parts of a boot took.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootTimes {
    /// Namespaces, links and processes.
    pub built: Duration,
    /// OSPF and BGP converged, every POP reachable from every client.
    pub routed: Duration,
    /// Every proxy ready and announced.
    pub proxies: Duration,
}

/// A running lab. Dropping it takes it down, unless it is detached.
#[derive(Debug)]
pub struct Lab {
    state: PathBuf,
    topology: Topology,
    /// The boot process, whose standard input keeps the lab alive; none where
    /// the lab was found running.
    boot: Option<Child>,
    /// Goes last: the state directory, where it is temporary.
    directory: Option<tempfile::TempDir>,
    times: BootTimes,
    entrance: OnceLock<Entrance>,
}

/// How to get into a lab's hosts; the same for as long as the lab lives.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// The keeper's process id as seen from here.
    pub(crate) keeper: i32,
    /// Whether the lab has a user namespace to enter first.
    pub(crate) user_namespace: bool,
    /// The keeper's descriptors of each host's network, mount and UTS
    /// namespaces.
    pub(crate) descriptors: BTreeMap<String, [i32; 3]>,
}

impl Lab {
    /// Boots a lab and waits until it is routed and its proxies are ready.
    pub fn up(topology: &Topology, options: &Options) -> Result<Lab, UpError> {
        let (state, directory) = state_directory(options)?;
        let state_error = |source| UpError::State { directory: state.clone(), source };
        fs::create_dir_all(state.join("logs")).map_err(state_error)?;
        fs::write(state.join(TOPOLOGY), toml::to_string(topology)?).map_err(state_error)?;
        let found = programs::directory();
        let programs = (!options.without_proxies).then_some(found.clone());
        if let Some(programs) = &programs {
            programs::find(programs, "piasd")?;
            certificates::make(topology, &state, programs)?;
        }
        let stage = Stage { state: state.clone(), attached: !options.detached, programs };
        let boot = start_boot(&stage, &found)?;
        let mut lab = Lab {
            state,
            topology: topology.clone(),
            boot: Some(boot),
            directory,
            times: BootTimes::default(),
            entrance: OnceLock::new(),
        };
        let ready = lab.wait_ready(options);
        if options.detached && ready.is_ok() {
            lab.boot = None;
        }
        ready.map(|()| lab)
    }

    /// Finds a lab that runs in this state directory.
    pub fn attach(state: &Path) -> Result<Lab, ControlError> {
        control::ask(state, &Request::Status)?;
        let unreadable = |error: String| ControlError::Garbled(io::Error::other(error));
        let text = fs::read_to_string(state.join(TOPOLOGY))?;
        let topology = Topology::parse(&text).map_err(|error| unreadable(error.to_string()))?;
        Ok(Lab {
            state: state.to_owned(),
            topology,
            boot: None,
            directory: None,
            times: BootTimes::default(),
            entrance: OnceLock::new(),
        })
    }

    fn wait_ready(&mut self, options: &Options) -> Result<(), UpError> {
        let state = self.state.clone();
        let boot = &mut self.boot;
        let booting = || match boot.as_mut().map(Child::try_wait) {
            Some(Ok(Some(_))) => Some(false),
            _ => control::ask(&state, &Request::Status).is_ok().then_some(true),
        };
        let (up, built) = wait_for(BOOT_LIMIT, "the lab to answer", booting)?;
        if !up {
            let log = self.state.join("logs").join("lab.log");
            let text = fs::read_to_string(&log).unwrap_or_default();
            let reason = text.lines().last().unwrap_or("its log is empty").to_owned();
            return Err(UpError::Boot { reason, log });
        }
        self.times.built = built;
        let logs = self.logs();
        let not_ready = |source| UpError::NotReady { source, logs: logs.clone() };
        self.times.routed = readiness::wait_routed(self).map_err(not_ready)?;
        if !options.without_proxies {
            self.times.proxies = readiness::wait_proxies(self).map_err(not_ready)?;
        }
        Ok(())
    }

    /// Waits until every proxy is ready and announced, as after a boot; how
    /// long that took.
    pub fn wait_proxies(&self) -> Result<Duration, NotReady> {
        readiness::wait_proxies(self)
    }

    /// How long the boot took; zero for an attached lab.
    pub fn boot_times(&self) -> BootTimes {
        self.times
    }

    /// The topology it runs.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The state directory: `logs/`, `hosts/NAME/`, `topology.toml`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where every process's output is, as `HOST.PROCESS.log`.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// A host by name. What is asked of a name that the topology does not have
    /// fails with an error that says so.
    pub fn host(&self, name: &str) -> Host<'_> {
        Host::new(self, name)
    }

    /// Everything the keeper knows.
    pub fn status(&self) -> Result<LabStatus, ControlError> {
        self.ask_status().map(|(_, status)| status)
    }

    fn ask_status(&self) -> Result<(i32, LabStatus), ControlError> {
        match control::ask(&self.state, &Request::Status)? {
            (keeper, Answer::Status(status)) => Ok((keeper, status)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    pub(crate) fn entrance(&self) -> Result<&Entrance, ControlError> {
        if let Some(entrance) = self.entrance.get() {
            return Ok(entrance);
        }
        let (keeper, status) = self.ask_status()?;
        let hosts = status.hosts.into_iter();
        Ok(self.entrance.get_or_init(|| Entrance {
            keeper,
            user_namespace: status.user_namespace,
            descriptors: hosts.map(|host| (host.name, host.descriptors)).collect(),
        }))
    }

    /// Asks the keeper for something that it answers with "done".
    pub(crate) fn tell(&self, request: &Request) -> Result<(), ControlError> {
        match control::ask(&self.state, request)? {
            (_, Answer::Done | Answer::Started { .. }) => Ok(()),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Cuts a link: an emulated one loses every frame in silence, a plain one
    /// goes down. A client's, target's or proxy's link has its host's name.
    pub fn cut_link(&self, link: &str) -> Result<(), ControlError> {
        self.tell(&Request::CutLink { link: link.to_owned(), cut: true })
    }

    /// Makes a cut link whole.
    pub fn restore_link(&self, link: &str) -> Result<(), ControlError> {
        self.tell(&Request::CutLink { link: link.to_owned(), cut: false })
    }

    /// Changes an emulated link: `lab.set_link("fra-nyc", &["delay=5ms", "loss=30"])`.
    /// A plain one takes `loss` alone, whose chances do not follow the
    /// topology's seed.
    pub fn set_link(&self, link: &str, settings: &[&str]) -> Result<(), ControlError> {
        let settings = settings.iter().map(ToString::to_string).collect();
        self.tell(&Request::SetLink { link: link.to_owned(), settings })
    }

    /// Ends the lab and everything in it. Its logs stay where they are, unless
    /// the state directory is temporary.
    pub fn down(&mut self) -> Result<(), TimedOut> {
        if let Some(mut boot) = self.boot.take() {
            // The end of its input is init's end.
            drop(boot.stdin.take());
            let ended = wait_until(Duration::from_secs(5), "the lab to end", || {
                matches!(boot.try_wait(), Ok(Some(_)))
            });
            if ended.is_ok() {
                return Ok(());
            }
        }
        let Some(init) = init_of(&self.state) else { return Ok(()) };
        let _already_gone = kill(init, Signal::SIGKILL);
        wait_until(Duration::from_secs(10), format!("init {init} to end"), || {
            init_of(&self.state).is_none()
        })
        .map(|_| ())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.boot.is_none() {
            return;
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("the lab's logs are kept in {}", directory.keep().join("logs").display());
        }
        let _ended_or_reported_by_the_kernel = self.down();
    }
}

/// The init of the lab in this state directory, if it lives. Its command line
/// is checked, so that a process that got the same id later is left alone.
fn init_of(state: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(state.join(INIT_PID)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = command.split(|byte| *byte == 0).collect();
    let ours = words.contains(&b"init".as_slice())
        && words.contains(&state.as_os_str().as_encoded_bytes());
    ours.then(|| Pid::from_raw(pid))
}

/// An empty state directory, temporary unless the options name one.
fn state_directory(options: &Options) -> Result<(PathBuf, Option<tempfile::TempDir>), UpError> {
    let Some(state) = &options.state else {
        let made = tempfile::Builder::new().prefix("pias-lab-").tempdir();
        let directory =
            made.map_err(|source| UpError::State { directory: env::temp_dir(), source })?;
        return Ok((directory.path().to_owned(), Some(directory)));
    };
    if init_of(state).is_some() {
        return Err(UpError::AlreadyUp(state.clone()));
    }
    let failed = |source| UpError::State { directory: state.clone(), source };
    if state.join(TOPOLOGY).exists() {
        fs::remove_dir_all(state).map_err(failed)?;
    }
    fs::create_dir_all(state).map_err(failed)?;
    let state = state.canonicalize().map_err(failed)?;
    Ok((state, None))
}

fn start_boot(stage: &Stage, programs: &Path) -> Result<Child, UpError> {
    let failed = |source| UpError::State { directory: stage.state.clone(), source };
    let own = env::current_exe().map_err(failed)?;
    let program = if own.file_name().is_some_and(|name| name == "pias-lab") {
        own
    } else {
        programs::find(programs, "pias-lab")?
    };
    let log = fs::File::create(stage.state.join("logs").join("lab.log")).map_err(failed)?;
    let mut command: Command = stage.command(&program, "boot");
    command
        .stdin(if stage.attached { Stdio::piped() } else { Stdio::null() })
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log);
    if !stage.attached {
        // A detached lab outlives its terminal's signals.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
    }
    command.spawn().map_err(failed)
}

fn unexpected(answer: &Answer) -> ControlError {
    ControlError::Garbled(io::Error::other(format!("unexpected answer {answer:?}")))
}

/// The directory below which labs keep their state unless told otherwise.
pub fn default_state_base() -> PathBuf {
    if geteuid().is_root() {
        return "/run/pias-lab".into();
    }
    let runtime = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
    runtime.join("pias-lab")
}
