//! Many TCP connections that stay open and busy: what a crowd of users notices
//! while things break.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use super::{ToolError, clock, describe, failed, print, raise_file_limit};
use crate::limits::{CONNECTION_OPENERS, MAX_CONNECTIONS, REPORT_INTERVAL};

/// Time between two looks at who has something to say.
const TICK: Duration = Duration::from_millis(5);

/// Opens connections to an echo server; each says a numbered word, waits for
/// its echo, and so on. Reports begin when all are open.
#[derive(Debug, Args)]
pub struct Hold {
    /// The echo server
    to: SocketAddr,
    /// Number of connections
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Time from one word of a connection to its next
    #[arg(long, default_value = "200ms")]
    every: humantime::Duration,
    /// Time that each echo gets before its connection counts as lost
    #[arg(long, default_value = "20s")]
    patience: humantime::Duration,
}

/// What the connections did since the report before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// When it was made, in ms since the epoch.
    pub at_ms: f64,
    /// Connections that are open.
    pub open: usize,
    /// Echoes that came.
    pub words: u64,
    /// The longest time to an echo, in ms; of those still awaited, the time so
    /// far.
    pub longest_ms: f64,
    /// Connections that ended: by the client's port, `reset`, `silence`,
    /// `closed` or the system's words.
    pub lost: BTreeMap<u16, String>,
}

/// One connection.
struct Connection {
    stream: TcpStream,
    port: u16,
    word: u64,
    said: Instant,
    /// Octets of the echo that are here; none while there is nothing to hear.
    heard: Option<usize>,
    echo: [u8; 8],
}

impl Connection {
    /// Says the next word.
    fn speak(&mut self, now: Instant) -> io::Result<()> {
        self.word += 1;
        self.said = now;
        self.heard = Some(0);
        // One word is under way at most, so there is room for it.
        self.stream.write_all(&self.word.to_be_bytes())
    }

    /// Takes what has come; true when the echo is whole.
    fn hear(&mut self) -> io::Result<bool> {
        let heard = self.heard.unwrap_or(0);
        match self.stream.read(&mut self.echo[heard..]) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "closed")),
            Ok(more) if heard + more < self.echo.len() => {
                self.heard = Some(heard + more);
                Ok(false)
            }
            Ok(_) if u64::from_be_bytes(self.echo) == self.word => {
                self.heard = None;
                Ok(true)
            }
            Ok(_) => Err(io::Error::new(ErrorKind::InvalidData, "another word than was said")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it is time to speak.
    fn is_due(&self, now: Instant, every: Duration) -> bool {
        self.heard.is_none() && now.duration_since(self.said) >= every
    }
}

impl Hold {
    pub(super) fn run(&self) -> Result<(), ToolError> {
        if self.count > MAX_CONNECTIONS {
            return Err(ToolError::TooMany(self.count, MAX_CONNECTIONS));
        }
        raise_file_limit()?;
        let mut crowd = Crowd::open(self)?;
        loop {
            crowd.listen()?;
            crowd.speak();
            if crowd.reported.elapsed() >= REPORT_INTERVAL {
                print(&crowd.report())?;
            }
        }
    }
}

/// All connections.
struct Crowd {
    connections: Vec<Option<Connection>>,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    every: Duration,
    patience: Duration,
    reported: Instant,
    words: u64,
    longest: Duration,
    lost: BTreeMap<u16, String>,
}

impl Crowd {
    fn open(hold: &Hold) -> Result<Self, ToolError> {
        let streams = open_all(hold.to, hold.count, hold.patience.into())
            .map_err(failed(format!("connect to {}", hold.to)))?;
        let failed = |error: nix::Error| failed("watch connections")(error.into());
        let epoll = Epoll::new(EpollCreateFlags::empty()).map_err(failed)?;
        let (start, every) = (Instant::now(), Duration::from(hold.every));
        let mut connections = Vec::with_capacity(streams.len());
        for (number, stream) in streams.into_iter().enumerate() {
            let readable = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            epoll.add(&stream, readable).map_err(failed)?;
            let port = stream.local_addr().map_or(0, |address| address.port());
            // Their first words are spread over one turn.
            let said = start - every + every.mul_f64(number as f64 / hold.count as f64);
            let silent = Connection { stream, port, word: 0, said, heard: None, echo: [0; 8] };
            connections.push(Some(silent));
        }
        Ok(Self {
            events: vec![EpollEvent::empty(); connections.len().max(1)],
            connections,
            epoll,
            every,
            patience: hold.patience.into(),
            reported: start,
            words: 0,
            longest: Duration::ZERO,
            lost: BTreeMap::new(),
        })
    }

    /// Waits a tick at most, and takes the echoes that are there.
    fn listen(&mut self) -> Result<(), ToolError> {
        let tick = EpollTimeout::from(TICK.as_millis() as u8);
        let ready = match self.epoll.wait(&mut self.events, tick) {
            Ok(ready) => ready,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(failed("wait for echoes")(error.into())),
        };
        for at in 0..ready {
            let number = self.events[at].data() as usize;
            let Some(connection) = self.connections[number].as_mut() else { continue };
            match connection.hear() {
                Ok(false) => {}
                Ok(true) => {
                    self.words += 1;
                    self.longest = self.longest.max(connection.said.elapsed());
                }
                Err(error) => self.lose(number, describe(&error)),
            }
        }
        Ok(())
    }

    /// Lets those speak whose turn it is, and gives up on those who heard
    /// nothing for too long.
    fn speak(&mut self) {
        let now = Instant::now();
        for number in 0..self.connections.len() {
            let Some(connection) = self.connections[number].as_mut() else { continue };
            if connection.is_due(now, self.every) {
                if let Err(error) = connection.speak(now) {
                    self.lose(number, describe(&error));
                }
            } else if connection.heard.is_some() {
                let waited = now.duration_since(connection.said);
                self.longest = self.longest.max(waited);
                if waited > self.patience {
                    self.lose(number, "silence".to_owned());
                }
            }
        }
    }

    fn lose(&mut self, number: usize, reason: String) {
        // Closing its socket takes it out of the epoll set.
        if let Some(connection) = self.connections[number].take() {
            self.lost.insert(connection.port, reason);
        }
    }

    fn report(&mut self) -> HoldReport {
        self.reported = Instant::now();
        HoldReport {
            at_ms: clock().as_secs_f64() * 1e3,
            open: self.connections.iter().flatten().count(),
            words: std::mem::take(&mut self.words),
            longest_ms: std::mem::take(&mut self.longest).as_secs_f64() * 1e3,
            lost: std::mem::take(&mut self.lost),
        }
    }
}

/// Opens all connections, a bounded number at once.
fn open_all(to: SocketAddr, count: usize, patience: Duration) -> io::Result<Vec<TcpStream>> {
    let left = AtomicUsize::new(count);
    let open = || -> io::Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        let take = |left: usize| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(streams)
    };
    thread::scope(|scope| {
        let openers: Vec<_> = (0..CONNECTION_OPENERS).map(|_| scope.spawn(open)).collect();
        let mut streams = Vec::with_capacity(count);
        for opener in openers {
            streams.extend(opener.join().expect("an opener reports errors and does not panic")?);
        }
        Ok(streams)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A crowd of two, and the server's ends of its connections.
    fn crowd_of_two() -> (Crowd, Vec<TcpStream>) {
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hold = Hold {
            to: server.local_addr().expect("a bound socket"),
            count: 2,
            every: Duration::ZERO.into(),
            patience: Duration::from_secs(60).into(),
        };
        let crowd = Crowd::open(&hold).expect("two connections");
        let accept = || server.accept().expect("a client").0;
        (crowd, vec![accept(), accept()])
    }

    #[test]
    fn echoes_are_counted_and_a_connection_that_ends_is_reported_as_lost() {
        let (mut crowd, mut server) = crowd_of_two();
        crowd.speak();
        let mut word = [0; 8];
        server[0].read_exact(&mut word).expect("a word");
        server[0].write_all(&word).expect("its echo");
        drop(server.pop());
        while crowd.words == 0 || crowd.lost.is_empty() {
            crowd.listen().expect("events");
        }
        let report = crowd.report();
        assert_eq!((report.open, report.words, report.lost.len()), (1, 1, 1));
        assert_eq!(crowd.report().words, 0);
    }

    #[test]
    fn another_word_than_was_said_is_no_echo() {
        let (mut crowd, mut server) = crowd_of_two();
        crowd.speak();
        server[1].write_all(&7u64.to_be_bytes()).expect("a word");
        while crowd.lost.is_empty() {
            crowd.listen().expect("events");
        }
        assert_eq!(crowd.lost.into_values().collect::<Vec<_>>(), ["another word than was said"]);
    }
}
