//! Every bound of the benchmarks.

use std::time::Duration;

/// Octets of every datagram's payload.
pub(crate) const DATAGRAM: usize = 64;

/// Datagrams of one system call.
pub(crate) const BATCH: usize = 64;

/// Receive buffer asked for, in octets: a whole load of
/// [`RATE_SOCKETS`] × [`RATE_WINDOW`] datagrams, each in a page of its own.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;

/// Flows of `udp-rate`.
pub(crate) const RATE_SOCKETS: usize = 16;

/// Requests that each flow of `udp-rate` has outstanding.
pub(crate) const RATE_WINDOW: usize = 16;

/// A flow of `udp-rate` that hears nothing for so long gives its window up as
/// lost and fills it again. Far above a round trip under load.
pub(crate) const QUIET_LIMIT: Duration = Duration::from_millis(50);

/// Time that `udp-rtt` waits for a reply; the request then counts as lost, and
/// as a sample of this time.
pub(crate) const REPLY_LIMIT: Duration = Duration::from_millis(200);

/// Requests of `udp-rtt` before the first one that is timed: the first packets
/// of a flow fill tables, which is not what a round trip measures.
pub(crate) const WARM_UP_REQUESTS: usize = 200;

/// Samples that `udp-rtt` keeps. It ends at this number.
pub(crate) const MAX_SAMPLES: usize = 1_000_000;

/// Threads of `tcp-connect` with one connection each, and threads of
/// `tcp-accept`: the server never is a client short.
pub(crate) const CONNECTION_WORKERS: usize = 8;

/// Time that one connection of `tcp-connect` or `tcp-accept` gets for each of
/// its steps; a connection that takes longer counts as failed.
pub(crate) const CONNECTION_LIMIT: Duration = Duration::from_secs(1);

/// Connections that wait for `tcp-accept`; the kernel drops a SYN beyond.
pub(crate) const ACCEPT_BACKLOG: i32 = 1024;

/// Time that a candidate gets to be ready, and to stop. The benchmark fails
/// if it takes longer.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Time that a load generator gets beside twice its own; then it is killed and
/// the benchmark fails.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
