//! Every bound of the lab, and what happens at it.

use std::time::Duration;

/// Hosts of one topology. A larger topology is refused when it is read.
pub const MAX_HOSTS: usize = 256;

/// Links and LAN ports of one topology. A larger topology is refused when it
/// is read.
pub const MAX_LINKS: usize = 1024;

/// Frames that one direction of an emulated link holds unless the topology
/// says otherwise. A frame that finds the queue full is dropped and counted in
/// `LinkCounters::overflowed`.
pub const DEFAULT_LINK_QUEUE: usize = 10_000;

/// Largest frame a TAP hands over: a 64 KiB super-packet, its Ethernet header
/// and the virtio header before it.
pub const MAX_FRAME: usize = 65_536 + 14 + 4 + 12;

/// Frames read from one TAP before the other direction gets its turn.
pub const FRAMES_PER_TURN: usize = 64;

/// Bytes of one control request or answer. A longer one ends its connection.
pub const MAX_CONTROL_MESSAGE: u64 = 1 << 20;

/// Control connections served at once. The next one waits in the socket's
/// backlog.
pub const MAX_CONTROL_CONNECTIONS: usize = 32;

/// Processes that one lab tracks, ended ones included. A request to start
/// one more is refused.
pub const MAX_PROCESSES: usize = 4096;

/// Time that a command in a host gets unless the caller names another limit.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Time that a lab gets from `up` to routed everywhere.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Time between two looks of [`crate::wait_until`] at its condition.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Questions of one `pias-lab tool ask` that may wait for their answers at
/// once, each on a thread of its own. A pace and a patience that allow more are
/// refused.
pub const MAX_QUESTIONS: u128 = 128;

/// Connections of one `pias-lab tool hold`. More are refused.
pub const MAX_CONNECTIONS: usize = 4096;

/// Connections that `pias-lab tool hold` opens at once; the next waits.
pub const CONNECTION_OPENERS: usize = 32;

/// Questions of one `pias-lab tool query` that may wait for their answers at
/// once, each with a socket of its own. A rate and a patience that allow more
/// are refused.
pub const MAX_OUTSTANDING: usize = 8192;

/// Time between two reports of `pias-lab tool hold` and `query`.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(200);
