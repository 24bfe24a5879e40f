//! DNS questions at a steady high rate, each a flow of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use super::{ToolError, any_of_family, clock, describe, dns, failed, print, raise_file_limit};
use crate::limits::{MAX_OUTSTANDING, REPORT_INTERVAL};

/// Longest wait for an answer before the pace is looked at.
const TICK_MS: u8 = 1;

/// Time that may lie between two turns of a client that runs. What is beyond it the machine stood still, and
/// is not counted as waiting: nobody answers then.
const LONGEST_TURN: Duration = Duration::from_millis(100);

/// Asks name servers who they are, at a steady rate.
#[derive(Debug, Args)]
pub struct Query {
    /// The service, or several that are asked in turn
    #[arg(required = true)]
    to: Vec<SocketAddr>,
    /// Questions per second
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Time that each answer gets, while this machine runs
    #[arg(long, default_value = "1s")]
    patience: humantime::Duration,
}

/// How it went since the report before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryReport {
    /// When it was made, in ms since the epoch.
    pub at_ms: f64,
    /// Questions asked.
    pub asked: u64,
    /// Answers that each server gave, by its name.
    pub answers: BTreeMap<String, u64>,
    /// The slowest answer, in ms.
    pub slowest_ms: f64,
    /// Questions that failed.
    pub failed: Vec<FailedQuery>,
}

/// A question without an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedQuery {
    /// When it was asked, in ms since the epoch.
    pub asked_ms: f64,
    /// Whom.
    pub to: SocketAddr,
    /// From which port.
    pub port: u16,
    /// `silence`, `refused` or the system's words.
    pub reason: String,
}

/// A question that was asked.
struct Asked {
    to: SocketAddr,
    socket: UdpSocket,
    at: Instant,
    at_ms: f64,
    /// When its time is over, on the clock of [`Asker::ran`].
    until: Duration,
}

impl Query {
    pub(super) fn run(&self) -> Result<(), ToolError> {
        let outstanding = (f64::from(self.rate) * self.patience.as_secs_f64()).ceil() as usize;
        if outstanding > MAX_OUTSTANDING {
            return Err(ToolError::TooMany(outstanding, MAX_OUTSTANDING));
        }
        raise_file_limit()?;
        let mut asker = Asker::new(self.to.clone(), self.patience.into())?;
        let start = Instant::now();
        loop {
            // As many as are due; a late wake-up is made up for at once.
            let due = (start.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
            while asker.number < due {
                asker.ask()?;
            }
            asker.listen(TICK_MS)?;
            asker.pass_time();
            asker.give_up();
            if asker.reported.elapsed() >= REPORT_INTERVAL {
                print(&asker.report())?;
            }
        }
    }
}

/// The questions under way, by number.
struct Asker {
    to: Vec<SocketAddr>,
    patience: Duration,
    epoll: Epoll,
    /// For how long this client has run, up to its last turn.
    ran: Duration,
    turned: Instant,
    /// The next question's number.
    number: u64,
    /// The number of the first of `asked`.
    first: u64,
    /// In the order of asking; none where there is an answer.
    asked: VecDeque<Option<Asked>>,
    reported: Instant,
    report: QueryReport,
}

impl Asker {
    fn new(to: Vec<SocketAddr>, patience: Duration) -> Result<Self, ToolError> {
        let epoll = Epoll::new(EpollCreateFlags::empty());
        let epoll = epoll.map_err(|error| failed("watch sockets")(error.into()))?;
        Ok(Self {
            to,
            patience,
            epoll,
            ran: Duration::ZERO,
            turned: Instant::now(),
            number: 0,
            first: 0,
            asked: VecDeque::new(),
            reported: Instant::now(),
            report: QueryReport::default(),
        })
    }

    /// Asks the next question from a port of its own.
    fn ask(&mut self) -> Result<(), ToolError> {
        let to = self.to[self.number as usize % self.to.len()];
        let socket = socket_to(to).map_err(failed(format!("open a socket to {to}")))?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, self.number);
        let watched = self.epoll.add(&socket, readable);
        watched.map_err(|error| failed("watch a socket")(error.into()))?;
        let asked_ms = clock().as_secs_f64() * 1e3;
        let until = self.ran + self.patience;
        let asked = Asked { to, socket, at: Instant::now(), at_ms: asked_ms, until };
        let sent = asked.socket.send(&dns::question(self.number as u16));
        self.report.asked += 1;
        self.number += 1;
        match sent {
            Ok(_) => self.asked.push_back(Some(asked)),
            Err(error) => {
                self.fail(&asked, describe(&error));
                self.asked.push_back(None);
            }
        }
        Ok(())
    }

    /// Waits this many ms at most, and takes all answers that are there: what came while the machine stood
    /// still came in time.
    fn listen(&mut self, wait_ms: u8) -> Result<(), ToolError> {
        let mut events = [EpollEvent::empty(); 256];
        let mut wait = EpollTimeout::from(wait_ms);
        loop {
            let ready = match self.epoll.wait(&mut events, wait) {
                Ok(ready) => ready,
                Err(nix::Error::EINTR) => 0,
                Err(error) => return Err(failed("wait for answers")(error.into())),
            };
            for event in &events[..ready] {
                self.take(event.data());
            }
            if ready < events.len() {
                return Ok(());
            }
            wait = EpollTimeout::ZERO;
        }
    }

    /// Counts the time since the turn before.
    fn pass_time(&mut self) {
        self.ran += self.turned.elapsed().min(LONGEST_TURN);
        self.turned = Instant::now();
    }

    /// Takes the answer to a question, or the word that there will be none.
    fn take(&mut self, number: u64) {
        let slot = number.checked_sub(self.first).and_then(|at| self.asked.get_mut(at as usize));
        let Some(asked) = slot.and_then(Option::take) else { return };
        let mut buffer = [0; 512];
        match asked.socket.recv(&mut buffer) {
            Ok(length) => match dns::answer(&buffer[..length], number as u16) {
                Some(server) => {
                    *self.report.answers.entry(server).or_default() += 1;
                    let took = asked.at.elapsed().as_secs_f64() * 1e3;
                    self.report.slowest_ms = self.report.slowest_ms.max(took);
                }
                None => self.fail(&asked, "no answer to the question".to_owned()),
            },
            Err(error) => self.fail(&asked, describe(&error)),
        }
    }

    /// Gives up on questions that had their time.
    fn give_up(&mut self) {
        while let Some(front) = self.asked.front() {
            if front.as_ref().is_some_and(|asked| self.ran < asked.until) {
                return;
            }
            self.first += 1;
            if let Some(Some(asked)) = self.asked.pop_front() {
                self.fail(&asked, "silence".to_owned());
            }
        }
    }

    fn fail(&mut self, asked: &Asked, reason: String) {
        let port = asked.socket.local_addr().map_or(0, |address| address.port());
        self.report.failed.push(FailedQuery { asked_ms: asked.at_ms, to: asked.to, port, reason });
    }

    fn report(&mut self) -> QueryReport {
        self.reported = Instant::now();
        let report = std::mem::take(&mut self.report);
        QueryReport { at_ms: clock().as_secs_f64() * 1e3, ..report }
    }
}

/// A socket that takes datagrams from this service alone.
fn socket_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(any_of_family(to))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_silence_and_from_other_datagrams() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = server.local_addr().expect("a bound socket");
        let mut asker = Asker::new(vec![address], Duration::from_secs(60)).expect("an asker");
        let mut buffer = [0; 512];
        for number in 0..3 {
            asker.ask().expect("a question");
            let (length, from) = server.recv_from(&mut buffer).expect("the question");
            match number {
                // As NSD does it.
                0 => {
                    let mut answer = buffer[..length].to_vec();
                    answer[2] |= 0x84;
                    answer[7] = 1;
                    answer.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x03\x02t1");
                    server.send_to(&answer, from).expect("an answer");
                }
                1 => {
                    server.send_to(b"no", from).expect("a datagram");
                }
                _ => {}
            }
        }
        while asker.report.answers.is_empty() || asker.report.failed.is_empty() {
            asker.listen(100).expect("events");
        }
        asker.ran = Duration::from_secs(60);
        asker.give_up();
        let report = asker.report();
        assert_eq!((report.asked, report.answers["t1"]), (3, 1));
        let reasons: Vec<_> = report.failed.iter().map(|failed| failed.reason.as_str()).collect();
        assert_eq!(reasons, ["no answer to the question", "silence"]);
    }

    #[test]
    fn a_client_whose_machine_stood_still_does_not_count_that_as_waiting() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = server.local_addr().expect("a bound socket");
        let mut asker = Asker::new(vec![address], Duration::from_secs(1)).expect("an asker");
        asker.ask().expect("a question");
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60));
        asker.turned = long_ago.expect("a machine that runs for a minute");
        asker.pass_time();
        asker.give_up();
        assert!(asker.report.failed.is_empty(), "{:?}", asker.report.failed);
        for _ in 0..10 {
            asker.turned = long_ago.expect("a machine that runs for a minute");
            asker.pass_time();
        }
        asker.give_up();
        assert_eq!(asker.report.failed[0].reason, "silence");
    }
}
