//! `tcp-connect`: connections per second.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{LoadError, per_second};
use crate::bench::limits::{CONNECTION_LIMIT, CONNECTION_WORKERS};

/// What `tcp-connect` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConnectReport {
    /// Connections that carried their byte there and back.
    pub connections: u64,
    /// Connections that did not.
    pub failed: u64,
    /// Whole connections per second.
    pub per_second: f64,
}

/// Makes up to `count` connections for at most `time`, by
/// [`CONNECTION_WORKERS`] threads with one at a time each.
pub(super) fn measure(
    to: SocketAddr,
    count: usize,
    time: Duration,
) -> Result<ConnectReport, LoadError> {
    let start = Instant::now();
    let left = AtomicUsize::new(count);
    let worker = || work(to, &left, start + time);
    let (connections, failed) = thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTION_WORKERS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker counts failures and does not panic"))
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    if connections == 0 {
        return Err(LoadError::Silent(to));
    }
    let per_second = per_second(connections, start.elapsed());
    Ok(ConnectReport { connections, failed, per_second })
}

/// Connections made and failed by one thread, until none is left or the time
/// is up.
fn work(to: SocketAddr, left: &AtomicUsize, end: Instant) -> (u64, u64) {
    let (mut made, mut failed) = (0, 0);
    let take =
        || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    while Instant::now() < end && take().is_ok() {
        match exchange(to) {
            Ok(()) => made += 1,
            Err(_) => failed += 1,
        }
    }
    (made, failed)
}

fn exchange(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, CONNECTION_LIMIT)?;
    stream.set_read_timeout(Some(CONNECTION_LIMIT))?;
    let mut byte = [42];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn as_many_connections_are_made_as_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    let (mut stream, _) = listener.accept().expect("a client");
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("its byte");
                    stream.write_all(&byte).expect("the client is there");
                }
            });
            let report = measure(address, 20, Duration::from_secs(30)).expect("a server");
            assert_eq!((report.connections, report.failed), (20, 0));
        });
    }

    #[test]
    fn a_port_where_nobody_listens_is_reported_as_silent() {
        let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let closed = closed.expect("a free port");
        let error = measure(closed, 5, Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, LoadError::Silent(address) if address == closed), "{error}");
    }
}
