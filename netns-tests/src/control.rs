//! The keeper's control socket: one JSON request a connection, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use crate::limits::MAX_CONTROL_MESSAGE;
use crate::linkemu::{LinkCounters, Shape};
use crate::topology::Role;

/// The socket's name in the state directory.
pub const SOCKET: &str = "control.sock";

/// Time that the keeper gets for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What the keeper can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Everything there is to know.
    Status,
    /// Start a process; without a command, one that ran before once more.
    Start {
        /// Where.
        host: String,
        /// The name it is known by.
        process: String,
        /// The program and its arguments.
        command: Option<Vec<String>>,
    },
    /// Send a process a signal.
    Kill {
        /// Where.
        host: String,
        /// The process's name.
        process: String,
        /// The signal's number.
        signal: i32,
    },
    /// Apply settings such as `delay=20ms` to an emulated link, or `loss=30` to
    /// a plain one.
    SetLink {
        /// The link's name.
        link: String,
        /// The settings.
        settings: Vec<String>,
    },
    /// Cut a link in both directions, or make it whole.
    CutLink {
        /// The link's name.
        link: String,
        /// True to cut, false to restore.
        cut: bool,
    },
}

/// What it says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(LabStatus),
    /// To [`Request::Start`].
    Started {
        /// The process's id inside the lab.
        pid: u32,
    },
    /// It is done.
    Done,
    /// It cannot be done.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// A lab's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabStatus {
    /// The topology's name.
    pub name: String,
    /// Whether it runs in an unprivileged user namespace.
    pub user_namespace: bool,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
    /// Its links and LAN ports.
    pub links: Vec<LinkStatus>,
}

/// A host's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its addresses with their networks' lengths.
    pub addresses: Vec<String>,
    /// The keeper's descriptors of its network, mount and UTS namespaces.
    pub descriptors: [i32; 3],
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// A process's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The name that `kill` and `logs` know it by.
    pub name: String,
    /// Its id inside the lab.
    pub pid: u32,
    /// Whether it runs.
    pub running: bool,
    /// How it ended, if it did: `exit status: 1`, `signal: 9 (SIGKILL)`.
    pub ended: Option<String>,
}

/// A link's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// Its ends as `host:interface`.
    pub ends: [String; 2],
    /// Whether it is cut.
    pub cut: bool,
    /// Its shape, if it is emulated or loses frames.
    pub shape: Option<Shape>,
    /// Its counters in both directions, if it is emulated.
    pub counters: Option<[LinkCounters; 2]>,
}

/// Why the keeper could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers.
    #[error("no lab answers at {socket}: is it up? ({source})")]
    Unreachable {
        /// The socket's path.
        socket: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The answer broke off or made no sense.
    #[error("the lab's answer cannot be read: {0}")]
    Garbled(#[from] io::Error),
    /// The lab said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the lab of this state directory. Returns the keeper's process id as
/// seen from here along with its answer.
pub fn ask(state: &Path, request: &Request) -> Result<(i32, Answer), ControlError> {
    let socket = state.join(SOCKET);
    let unreachable =
        |source| ControlError::Unreachable { socket: socket.display().to_string(), source };
    let mut stream = UnixStream::connect(&socket).map_err(unreachable)?;
    let keeper = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?.pid();
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    send(&mut stream, request)?;
    match receive(&stream)? {
        Answer::Refused { reason } => Err(ControlError::Refused(reason)),
        answer => Ok((keeper, answer)),
    }
}

/// Writes one message.
pub(crate) fn send<T: Serialize>(stream: &mut UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads one message of bounded length.
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_CONTROL_MESSAGE)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
