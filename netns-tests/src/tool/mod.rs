//! `pias-lab tool`: what clients and targets of the scenarios run in their
//! hosts where Debian has no program for it. Reports are lines of JSON.
//!
//! | command | what it does |
//! | --- | --- |
//! | `ask` | a steady stream of DNS questions, each a new flow |
//! | `converse` | one TCP connection that says something, hears it back, and so on |
//! | `datagram` | one datagram of any size there and back |
//! | `hold` | many TCP connections that stay open and busy |
//! | `query` | DNS questions at a steady high rate, each a new flow, as sums |
//! | `send` | datagrams of given bytes, without an answer |
//! | `echo` | the server for `converse`, `datagram` and `hold` |

mod ask;
mod converse;
mod datagram;
mod dns;
mod echo;
mod hold;
mod query;

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

pub use ask::Answered;
pub use converse::Heard;
pub use hold::HoldReport;
pub use query::{FailedQuery, QueryReport};

/// What a tool is to do.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Ask a name server for its name again and again, each time as a new flow
    Ask(ask::Ask),
    /// Talk to an echo server over one TCP connection
    Converse(converse::Converse),
    /// Send one datagram to an echo server and compare what comes back
    Datagram(datagram::Datagram),
    /// Keep many TCP connections to an echo server open and busy
    Hold(hold::Hold),
    /// Ask a name server for its name at a steady high rate
    Query(query::Query),
    /// Send datagrams of these bytes from one socket
    Send {
        /// Whom
        to: SocketAddr,
        /// Their payloads, in hexadecimal
        #[arg(long, required = true)]
        hex: Vec<Payload>,
    },
    /// Echo TCP and UDP in both families until killed
    Echo {
        /// The port
        port: u16,
    },
}

/// Why a tool gave up.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    /// More questions would be under way than [`crate::limits::MAX_QUESTIONS`].
    #[error("{0} questions would wait at once: ask less often, or with less patience")]
    TooEager(u128),
    /// More sockets would be open than the tool's bound.
    #[error("{0} sockets would be open at once, and the bound is {1}")]
    TooMany(usize, usize),
    /// The echo differs from what was sent.
    #[error("{received} octets came back for {sent}, and differ from octet {differs} on")]
    Altered {
        /// Octets sent.
        sent: usize,
        /// Octets received.
        received: usize,
        /// The first different octet.
        differs: usize,
    },
}

/// The bytes of a datagram.
#[derive(Debug, Clone)]
pub struct Payload(Vec<u8>);

impl std::str::FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octet = |at: usize| {
            let digits = text.get(at..at + 2).ok_or("an odd number of hexadecimal digits")?;
            u8::from_str_radix(digits, 16).map_err(|error| format!("{digits:?}: {error}"))
        };
        (0..text.len()).step_by(2).map(octet).collect::<Result<_, _>>().map(Self)
    }
}

/// Runs a tool; `echo` returns only with an error.
pub fn run(tool: &Tool) -> Result<(), ToolError> {
    match tool {
        Tool::Ask(ask) => ask.run(),
        Tool::Converse(converse) => converse.run(),
        Tool::Datagram(datagram) => datagram.run(),
        Tool::Hold(hold) => hold.run(),
        Tool::Query(query) => query.run(),
        Tool::Send { to, hex } => send(*to, hex),
        Tool::Echo { port } => match echo::serve(*port)? {},
    }
}

fn send(to: SocketAddr, payloads: &[Payload]) -> Result<(), ToolError> {
    let socket = UdpSocket::bind(any_of_family(to)).map_err(failed("open a socket"))?;
    for Payload(bytes) in payloads {
        socket.send_to(bytes, to).map_err(failed(format!("send to {to}")))?;
    }
    Ok(())
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ToolError {
    let what = what.into();
    move |source| ToolError::Socket { what, source }
}

/// A failed exchange in a word, or in the system's words.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "silence".to_owned(),
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        _ => error.to_string(),
    }
}

/// Lets this process open as many files as the system allows it: a socket each.
fn raise_file_limit() -> Result<(), ToolError> {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    raised.map_err(|error| failed("raise the limit of open files")(error.into()))
}

/// The unspecified address of the family of `to`.
fn any_of_family(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    }
}

fn print<T: Serialize>(report: &T) -> Result<(), ToolError> {
    let line = serde_json::to_string(report).map_err(io::Error::from)?;
    writeln!(io::stdout().lock(), "{line}")?;
    Ok(())
}

/// Time since the epoch: all processes of the machine read the same clock.
pub fn clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_from_hexadecimal_digits() {
        let read = |text: &str| text.parse::<Payload>().map(|payload| payload.0);
        assert_eq!(read("00ff1a"), Ok(vec![0, 255, 26]));
        assert!(read("0").is_err());
        assert!(read("0g").is_err());
        assert!(read("é").is_err());
    }
}
