//! A steady stream of DNS questions: what a service looks like to its users
//! while things break.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ToolError, any_of_family, clock, describe, dns, print};
use crate::limits::MAX_QUESTIONS;

/// Asks a name server who it is.
#[derive(Debug, Args)]
pub struct Ask {
    /// The service
    to: SocketAddr,
    /// Over TCP: a connection for each question
    #[arg(long)]
    tcp: bool,
    /// Time from one question to the next
    #[arg(long, default_value = "20ms")]
    every: humantime::Duration,
    /// Time that each answer gets
    #[arg(long, default_value = "500ms")]
    patience: humantime::Duration,
    /// Number of questions
    #[arg(long, default_value_t = 10_000)]
    count: u32,
}

/// How one question went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// When it was asked, in ms since the epoch.
    pub asked_ms: f64,
    /// Time to the answer or the failure, in ms.
    pub took_ms: f64,
    /// The name that the server gave; none is a failure.
    pub answer: Option<String>,
    /// The failure: `silence`, `refused`, `reset` or the system's words.
    pub failure: Option<String>,
}

impl Ask {
    pub(super) fn run(&self) -> Result<(), ToolError> {
        let every = Duration::from(self.every).max(Duration::from_millis(1));
        let at_once = self.patience.as_millis() / every.as_millis();
        if at_once > MAX_QUESTIONS {
            return Err(ToolError::TooEager(at_once));
        }
        let start = Instant::now();
        thread::scope(|scope| {
            for number in 0..self.count {
                // The pace, not a wait for something: when a question is due.
                let due = start + every * number;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                scope.spawn(move || {
                    let _reader_went_away = print(&self.ask(number as u16));
                });
            }
        });
        Ok(())
    }

    fn ask(&self, id: u16) -> Answered {
        let (asked, start) = (clock(), Instant::now());
        let patience = self.patience.into();
        let result = if self.tcp {
            over_tcp(self.to, id, patience)
        } else {
            over_udp(self.to, id, patience)
        };
        let took_ms = start.elapsed().as_secs_f64() * 1e3;
        let (answer, failure) = match result {
            Ok(name) => (Some(name), None),
            Err(error) => (None, Some(describe(&error))),
        };
        Answered { asked_ms: asked.as_secs_f64() * 1e3, took_ms, answer, failure }
    }
}

fn over_udp(to: SocketAddr, id: u16, patience: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind(any_of_family(to))?;
    // A connected socket takes datagrams from the service's address alone.
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&dns::question(id))?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    dns::answer(&buffer[..length], id).ok_or_else(no_answer)
}

fn over_tcp(to: SocketAddr, id: u16, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let question = dns::question(id);
    let length = (question.len() as u16).to_be_bytes();
    stream.write_all(&[&length, question.as_slice()].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    dns::answer(&message, id).ok_or_else(no_answer)
}

fn no_answer() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "no answer to the question")
}
