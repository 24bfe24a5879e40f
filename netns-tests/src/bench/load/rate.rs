//! `udp-rate`: replies per second at saturation.
//!
//! Every socket keeps up to a window of requests outstanding, so the way and
//! the server set the pace, and nothing overflows on purpose. It fills the
//! window again when half of it is free: one request per reply would measure
//! how fast the client and the server wake each other up. A lost datagram would shrink a window for ever; a socket that
//! has been quiet for [`QUIET_LIMIT`] counts its window as lost and fills it
//! again.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::udp::{self, Batch};
use super::{LoadError, failed, per_second};
use crate::bench::limits::{DATAGRAM, QUIET_LIMIT, RATE_SOCKETS, RATE_WINDOW};

/// What `udp-rate` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RateReport {
    /// Replies in the counted time.
    pub replies: u64,
    /// Requests given up in the counted time.
    pub lost: u64,
    /// Replies per second.
    pub per_second: f64,
}

/// One socket and how many requests it waits for.
struct Flow {
    socket: UdpSocket,
    window: Window,
}

/// Counts replies for `time`, after a warm-up of a quarter of it.
pub(super) fn measure(to: SocketAddr, time: Duration) -> Result<RateReport, LoadError> {
    let mut batch = Batch::new();
    let mut flows = open(to)?;
    exchange(&mut flows, &mut batch, time / 4).map_err(|errno| failed("ask", to)(errno.into()))?;
    let start = Instant::now();
    let (replies, lost) =
        exchange(&mut flows, &mut batch, time).map_err(|errno| failed("ask", to)(errno.into()))?;
    if replies == 0 {
        return Err(LoadError::Silent(to));
    }
    Ok(RateReport { replies, lost, per_second: per_second(replies, start.elapsed()) })
}

fn open(to: SocketAddr) -> Result<Vec<Flow>, LoadError> {
    let flow = |_| {
        let socket = udp::connected(to)?;
        socket.set_nonblocking(true).map_err(failed("set non-blocking the socket to", to))?;
        Ok(Flow { socket, window: Window::new(Instant::now()) })
    };
    (0..RATE_SOCKETS).map(flow).collect()
}

/// Sends and receives for `time`; returns replies and requests given up.
fn exchange(flows: &mut [Flow], batch: &mut Batch, time: Duration) -> Result<(u64, u64), Errno> {
    let (mut replies, mut lost) = (0, 0);
    let mut readable = vec![true; flows.len()];
    let mut now = Instant::now();
    let end = now + time;
    while now < end {
        for (flow, readable) in flows.iter_mut().zip(&readable) {
            let received = if *readable { tolerant(batch.receive(&flow.socket))? } else { 0 };
            replies += received as u64;
            lost += flow.window.note(received, now) as u64;
            let vacant = flow.window.vacant();
            if vacant > 0 {
                let sent = tolerant(batch.send(&flow.socket, &[0; DATAGRAM], vacant))?;
                flow.window.outstanding += sent;
            }
        }
        readable = wait(flows)?;
        now = Instant::now();
    }
    Ok((replies, lost))
}

/// Waits until a socket can be read, or one may have been quiet for too long;
/// returns which can.
fn wait(flows: &[Flow]) -> Result<Vec<bool>, Errno> {
    let mut sockets: Vec<_> =
        flows.iter().map(|flow| PollFd::new(flow.socket.as_fd(), PollFlags::POLLIN)).collect();
    let limit = PollTimeout::try_from(QUIET_LIMIT).unwrap_or(PollTimeout::ZERO);
    match poll(&mut sockets, limit) {
        Ok(_) | Err(Errno::EINTR) => {
            Ok(sockets.iter().map(|socket| socket.any().unwrap_or(false)).collect())
        }
        Err(errno) => Err(errno),
    }
}

/// Nothing there, no room, or an ICMP error about an earlier request: zero
/// datagrams this time.
fn tolerant(result: Result<usize, Errno>) -> Result<usize, Errno> {
    match result {
        Err(
            Errno::EAGAIN
            | Errno::EINTR
            | Errno::ENOBUFS
            | Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH,
        ) => Ok(0),
        other => other,
    }
}

/// How many requests of a socket are outstanding. Pure.
#[derive(Debug)]
struct Window {
    outstanding: usize,
    heard: Instant,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { outstanding: 0, heard: now }
    }

    /// Notes that `received` replies came; returns how many requests are
    /// given up. A reply to a request that was given up counts against a later
    /// one, hence no underflow.
    fn note(&mut self, received: usize, now: Instant) -> usize {
        if received > 0 || self.outstanding == 0 {
            self.outstanding = self.outstanding.saturating_sub(received);
            self.heard = now;
        } else if now.duration_since(self.heard) >= QUIET_LIMIT {
            self.heard = now;
            return std::mem::take(&mut self.outstanding);
        }
        0
    }

    /// How many requests may be sent: none until half the window is free.
    fn vacant(&self) -> usize {
        let vacant = RATE_WINDOW.saturating_sub(self.outstanding);
        if vacant < RATE_WINDOW / 2 { 0 } else { vacant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_filled_when_half_of_it_is_free() {
        let start = Instant::now();
        let mut window = Window { outstanding: RATE_WINDOW, heard: start };
        assert_eq!(window.note(RATE_WINDOW / 2 - 1, start), 0);
        assert_eq!(window.vacant(), 0);
        assert_eq!(window.note(1, start), 0);
        assert_eq!(window.vacant(), RATE_WINDOW / 2);
    }

    #[test]
    fn a_socket_quiet_for_too_long_gives_its_window_up_once() {
        let start = Instant::now();
        let mut window = Window { outstanding: 5, heard: start };
        assert_eq!(window.note(0, start + QUIET_LIMIT / 2), 0);
        assert_eq!(window.note(0, start + QUIET_LIMIT), 5);
        assert_eq!(window.vacant(), RATE_WINDOW);
        assert_eq!(window.note(0, start + 2 * QUIET_LIMIT), 0);
    }

    #[test]
    fn late_replies_do_not_count_below_zero() {
        let start = Instant::now();
        let mut window = Window { outstanding: 1, heard: start };
        window.note(4, start);
        assert_eq!(window.vacant(), RATE_WINDOW);
    }
}
