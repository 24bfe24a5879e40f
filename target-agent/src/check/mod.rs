//! Health checks of the local service.
//!
//! | check | up when |
//! | --- | --- |
//! | `tcp` | the target accepts a connection |
//! | `udp`, `udp:HEX` | the target's host does not refuse a datagram (see [`udp`] for what that tells) |
//! | `http://host:port/path` | a GET is answered with 2xx or 3xx |
//! | `exec:COMMAND` | the command exits with 0 |

pub(crate) mod counter;
pub(crate) mod exec;
pub(crate) mod http;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::{fmt, io, net::SocketAddr, str::FromStr, time::Duration};

use pias_protocol::group::GroupKey;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::counter::Counter;
pub use self::http::HttpUrl;
use crate::{
    health::{CheckState, HealthBoard},
    limits::UDP_CHECK_PAYLOAD,
    target::{Target, route_source},
};

/// How a service is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// By connecting to the target.
    Tcp,
    /// By sending the target a datagram with this payload.
    Udp(Vec<u8>),
    /// By a GET.
    Http(HttpUrl),
    /// By a shell command.
    Exec(String),
}

/// How often a service is checked, and how many results count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckTiming {
    /// From one check's beginning to the next's.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a target back.
    pub rise: u32,
    /// Failures in a row that take a target down.
    pub fall: u32,
}

impl Default for CheckTiming {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { interval: second, timeout: second, rise: 2, fall: 3 }
    }
}

/// Why a text is no check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCheckError {
    /// None of the four kinds.
    #[error("`{0}` is not a check: write tcp, udp, udp:HEX, http://HOST:PORT/PATH or exec:COMMAND")]
    Kind(String),
    /// No URL that could be checked.
    #[error("`{0}` is not a URL for a check: write http://HOST:PORT/PATH, without user or TLS")]
    Url(String),
    /// The payload of a UDP check.
    #[error(
        "`{0}` is not a payload: write pairs of hexadecimal digits, at most {UDP_CHECK_PAYLOAD}"
    )]
    Payload(String),
    /// `exec:` without a command.
    #[error("`exec:` needs a command behind it")]
    NoCommand,
}

impl FromStr for Check {
    type Err = ParseCheckError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "udp" => Ok(Self::Udp(Vec::new())),
            Some(("udp", digits)) => payload(digits).map(Self::Udp),
            Some(("http" | "https", _)) => Ok(Self::Http(text.parse()?)),
            Some(("exec", command)) if command.trim().is_empty() => Err(ParseCheckError::NoCommand),
            Some(("exec", command)) => Ok(Self::Exec(command.to_owned())),
            _ => Err(ParseCheckError::Kind(text.to_owned())),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp(_) => f.write_str("udp"),
            Self::Http(url) => url.fmt(f),
            Self::Exec(command) => write!(f, "exec:{command}"),
        }
    }
}

fn payload(digits: &str) -> Result<Vec<u8>, ParseCheckError> {
    let wrong = || ParseCheckError::Payload(digits.to_owned());
    let plain = digits.len().is_multiple_of(2) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain || digits.len() > 2 * UDP_CHECK_PAYLOAD {
        return Err(wrong());
    }
    let octets = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    octets.collect::<Result<_, _>>().map_err(|_| wrong())
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("HTTP status {0}")]
    HttpStatus(u16),
    #[error("the answer is not HTTP/1.x")]
    NotHttp,
    #[error("the command ended with {0}")]
    Exit(String),
}

/// One check, and whom its result concerns.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) check: Check,
    pub(crate) timing: CheckTiming,
    /// One of the groups; where both protocols are joined, both have the same target.
    pub(crate) group: GroupKey,
    pub(crate) target: Target,
    /// The memberships that depend on it.
    pub(crate) members: Vec<u32>,
    pub(crate) board: HealthBoard,
}

impl Watch {
    /// Checks until it is aborted.
    pub(crate) async fn run(self) {
        let mut counter = Counter::new(self.timing.rise, self.timing.fall);
        let mut ticks = interval(self.timing.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let begun = Instant::now();
            let result = self.probe().await;
            tracing::debug!(group = %self.group, check = %self.check, took = ?begun.elapsed(), ?result);
            if counter.record(result.is_ok()).is_none() {
                continue;
            }
            let state = match result {
                Ok(()) => CheckState::Up,
                Err(error) => CheckState::Down(format!("{} check: {error}", self.check)),
            };
            self.board.set_check(&self.members, &state);
        }
    }

    async fn probe(&self) -> Result<(), CheckError> {
        let patience = self.timing.timeout;
        match &self.check {
            Check::Tcp => bounded(patience, tcp::probe(self.address()?)).await,
            Check::Udp(payload) => udp::probe(self.address()?, payload, patience).await,
            Check::Http(url) => bounded(patience, http::probe(url)).await,
            Check::Exec(command) => {
                exec::probe(command, &self.group, self.address()?, patience).await
            }
        }
    }

    fn address(&self) -> io::Result<SocketAddr> {
        let route = match self.target.address() {
            Some(address) => address,
            None => route_source(self.group.address)?,
        };
        Ok(self.target.complete(&self.group, route))
    }
}

async fn bounded(
    patience: Duration,
    probe: impl Future<Output = Result<(), CheckError>>,
) -> Result<(), CheckError> {
    timeout(patience, probe).await.unwrap_or(Err(CheckError::Timeout(patience)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_as_they_are_documented() {
        assert_eq!("tcp".parse(), Ok(Check::Tcp));
        assert_eq!("udp".parse(), Ok(Check::Udp(Vec::new())));
        assert_eq!("udp:00ff".parse(), Ok(Check::Udp(vec![0, 255])));
        assert_eq!("exec:test -e /x".parse(), Ok(Check::Exec("test -e /x".into())));
        assert!(matches!("http://localhost:8080/".parse(), Ok(Check::Http(_))));
    }

    #[test]
    fn wrong_checks_are_told_how_to_write_one() {
        let error = |text: &str| text.parse::<Check>().unwrap_err();
        assert!(matches!(error("ping"), ParseCheckError::Kind(_)));
        assert!(matches!(error("tcp:80"), ParseCheckError::Kind(_)));
        assert!(matches!(error("https://a/"), ParseCheckError::Url(_)));
        assert!(matches!(error("udp:0"), ParseCheckError::Payload(_)));
        assert!(matches!(error("udp:+1"), ParseCheckError::Payload(_)));
        assert!(matches!(
            error(&format!("udp:{}", "00".repeat(1201))),
            ParseCheckError::Payload(_)
        ));
        assert_eq!(error("exec: "), ParseCheckError::NoCommand);
    }
}
