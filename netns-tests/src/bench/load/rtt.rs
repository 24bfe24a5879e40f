//! `udp-rtt`: one request at a time, and the time to its reply.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::percentile::percentile;
use super::{LoadError, failed, udp};
use crate::bench::limits::{DATAGRAM, MAX_SAMPLES, REPLY_LIMIT, WARM_UP_REQUESTS};

/// What `udp-rtt` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RttReport {
    /// Requests timed.
    pub samples: usize,
    /// Requests without a reply; each counts as a sample of [`REPLY_LIMIT`],
    /// so that a loss cannot flatter the percentiles.
    pub lost: usize,
    /// Median, in ns.
    pub p50: u64,
    /// 99th percentile, in ns.
    pub p99: u64,
}

/// Times up to `count` requests for at most `time`, after a warm-up.
pub(super) fn measure(
    to: SocketAddr,
    count: usize,
    time: Duration,
) -> Result<RttReport, LoadError> {
    let socket = udp::connected(to)?;
    socket.set_read_timeout(Some(REPLY_LIMIT)).map_err(failed("set a timeout on", to))?;
    let count = count.min(MAX_SAMPLES);
    let mut samples = Vec::with_capacity(count);
    let mut lost = 0;
    let end = Instant::now() + time;
    for number in 0..WARM_UP_REQUESTS + count {
        if Instant::now() >= end {
            break;
        }
        let took = ask(&socket, number as u64).map_err(failed("ask", to))?;
        if number >= WARM_UP_REQUESTS {
            lost += usize::from(took.is_none());
            samples.push(took.unwrap_or(REPLY_LIMIT).as_nanos() as u64);
        }
    }
    samples.sort_unstable();
    match (percentile(&samples, 50), percentile(&samples, 99)) {
        (Some(p50), Some(p99)) if lost < samples.len() => {
            Ok(RttReport { samples: samples.len(), lost, p50, p99 })
        }
        _ => Err(LoadError::Silent(to)),
    }
}

/// Sends request `number` and waits for its reply; none if it does not come.
fn ask(socket: &UdpSocket, number: u64) -> io::Result<Option<Duration>> {
    let mut request = [0; DATAGRAM];
    request[..8].copy_from_slice(&number.to_be_bytes());
    let start = Instant::now();
    if let Err(error) = socket.send(&request) {
        return lost(error);
    }
    let mut reply = [0; DATAGRAM];
    while start.elapsed() < REPLY_LIMIT {
        match socket.recv(&mut reply) {
            Ok(_) if reply == request => return Ok(Some(start.elapsed())),
            // The late reply to an earlier request.
            Ok(_) => {}
            Err(error) => return lost(error),
        }
    }
    Ok(None)
}

/// A timeout or an ICMP error is a lost request; anything else is an error.
fn lost<T>(error: io::Error) -> io::Result<Option<T>> {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut, WouldBlock};
    match error.kind() {
        ConnectionRefused | HostUnreachable | TimedOut | WouldBlock => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn requests_to_an_echo_are_all_answered_and_the_percentiles_are_in_order() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = server.local_addr().expect("a bound socket");
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; DATAGRAM];
                for _ in 0..WARM_UP_REQUESTS + 50 {
                    let (length, from) = server.recv_from(&mut buffer).expect("a request");
                    server.send_to(&buffer[..length], from).expect("a client");
                }
            });
            let report = measure(address, 50, Duration::from_secs(30)).expect("an echo");
            assert_eq!((report.samples, report.lost), (50, 0));
            assert!(report.p50 > 0 && report.p50 <= report.p99);
        });
    }

    #[test]
    fn a_port_where_nobody_listens_is_reported_as_silent() {
        let closed = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let closed = closed.expect("a free port");
        let error = measure(closed, 1, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, LoadError::Silent(address) if address == closed), "{error}");
    }
}
