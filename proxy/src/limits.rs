//! Every bound of the daemon: what happens at it, and which counter tells.

use std::time::Duration;

/// Messages of peers and agents that wait for the overlay. A full queue makes their readers wait,
/// which QUIC's flow control passes on to the sender; heartbeats that find it full are dropped
/// (`pias_queue_drops_total{queue="brain"}`).
pub const BRAIN_INPUTS: usize = 4096;

/// Events of the datapath that wait for the overlay. At the bound the datapath counts and drops
/// them, as its contract allows.
pub const BRAIN_EVENTS: usize = 8192;

/// Questions of the admin API that wait for the overlay; more make their askers wait.
pub const BRAIN_QUESTIONS: usize = 64;

/// Inputs taken in one go before the overlay's effects are carried out.
pub const BRAIN_BATCH: usize = 64;

/// Proxies that a connection is kept for. A message to one more is dropped
/// (`pias_queue_drops_total{queue="peers"}`), a connection of one more is refused.
pub const PEERS: usize = 32_768;

/// Messages that wait for one peer's connection. More are dropped
/// (`pias_queue_drops_total{queue="peer"}`): all state is soft and comes again.
pub const PEER_QUEUE: usize = 1024;

/// Handshakes of the overlay in progress at once, both directions. More are refused, and tried
/// again by their side.
pub const OVERLAY_HANDSHAKES: usize = 128;

/// How long dialling a peer may take.
pub const DIAL_TIME: Duration = Duration::from_secs(2);

/// Pause after a first failure to reach a peer; doubled at each one up to [`DIAL_PAUSE_MOST`].
pub const DIAL_PAUSE_LEAST: Duration = Duration::from_millis(50);

/// Longest pause between two attempts to reach a peer. Messages that come meanwhile are dropped
/// (`pias_queue_drops_total{queue="unreachable"}`).
pub const DIAL_PAUSE_MOST: Duration = Duration::from_secs(1);

/// After how long without a packet a connection between proxies ends. Mates, contacts and neighbours
/// are beaten at least every two seconds, which keeps theirs; all others are dialled anew.
pub const OVERLAY_IDLE: Duration = Duration::from_secs(5);

/// Unidirectional streams that a peer may hold open: it uses one.
pub const OVERLAY_STREAMS: u32 = 4;

/// Octets of datagrams that wait to be sent or read on one connection of the overlay.
pub const OVERLAY_DATAGRAM_BUFFER: usize = 64 * 1024;

/// Agents connected at once. More are refused (`pias_agents_refused_total{reason="total"}`).
pub const AGENTS: usize = 100_000;

/// Agents connected at once from one address. More are refused
/// (`pias_agents_refused_total{reason="source"}`).
pub const AGENTS_PER_SOURCE: usize = 256;

/// Handshakes of agents in progress at once. More are refused
/// (`pias_agents_refused_total{reason="handshakes"}`).
pub const AGENT_HANDSHAKES: usize = 512;

/// From this many handshakes in progress on, an agent must first prove its address by a QUIC Retry
/// (RFC 9000 section 8.1.2).
pub const AGENT_HANDSHAKES_BUSY: usize = 128;

/// How long a handshake of an agent, and its opening of the stream, may take together.
pub const AGENT_HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Messages that wait for one agent. An agent that does not read them is disconnected
/// (`pias_agents_closed_total{reason="slow"}`).
pub const AGENT_QUEUE: usize = 256;

/// After how long without a packet an agent's connection ends. Above the longest keep-alive
/// interval (15 s): leases end memberships earlier.
pub const AGENT_IDLE: Duration = Duration::from_secs(60);

/// Octets that an agent may have sent and the proxy not yet read.
pub const AGENT_WINDOW: u32 = 128 * 1024;

/// Datagrams of the registration port that wait for QUIC. At the bound the datapath counts and
/// drops them, as a socket's buffer would.
pub const REGISTRATION_QUEUE: usize = 4096;

/// Least time between two stateless resets. quinn's own default of 20 ms would let 50 agents a
/// second move when a proxy dies; a reset is smaller than the packet it answers, so there is
/// nothing to amplify.
pub const RESET_INTERVAL: Duration = Duration::from_micros(100);

/// Flows that one answer of the admin API lists.
pub const FLOWS_LISTED: usize = 10_000;

/// How long the admin API waits for the overlay.
pub const ADMIN_TIME: Duration = Duration::from_secs(5);

/// Longest answer of the daemon that `piasctl` reads, in octets.
pub const ADMIN_ANSWER: usize = 64 * 1024 * 1024;

/// How long a draining daemon keeps its routes, so that its mate hears of young connections before their
/// packets enter there: four ticks of the datapath, in which it tells of 16,384.
pub const TELL_TIME: Duration = Duration::from_millis(200);

/// How long a drained daemon that has said goodbye still gives answers back: those of questions that it
/// delivered, and that no mate knows of.
pub const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long the daemon waits at its end for connections to close.
pub const CLOSE_TIME: Duration = Duration::from_millis(500);

/// Octets of one message of a hand-over: twice what all leases take that a mate may have told. A longer
/// one is an error, and the running process goes on.
pub const HAND_OVER_FRAME: usize = 64 << 20;

/// Descriptors in one message of a hand-over: the device, a tunnel and an overlay socket per address
/// family, and the metrics' listener are six.
pub const HAND_OVER_DESCRIPTORS: usize = 16;

/// Items of one message of a hand-over; more go into the next one.
pub const HAND_OVER_PART: usize = 1024;

/// Items of one table that a hand-over carries: twice the largest table of flows. A RAP of very many
/// groups may have more counts and askers; that is an error, and the running process goes on.
pub const HAND_OVER_ITEMS: usize = 1 << 21;

/// How long two processes may take for each step of their greeting. Meanwhile the running one serves,
/// and lets signals and others that wish to take over wait.
pub const HELLO_TIME: Duration = Duration::from_secs(5);

/// How long it is waited, where no process could be accepted that wishes to take over, before the
/// next one is: what was short then may be there again.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a hand-over waits, while all is served, until other proxies have heard what this one said
/// last.
pub const HEARD_TIME: Duration = Duration::from_secs(1);

/// How long packets that wait for the overlay may hold a hand-over up; those that wait still are lost.
pub const SETTLE_TIME: Duration = Duration::from_millis(20);

/// How long the new process may be silent while the running one stands still; then it is killed,
/// and the running one goes on.
pub const TAKE_TIME: Duration = Duration::from_secs(3);

/// Octets of what a new program says of the configuration that are passed on to who asked.
pub const CHECK_OUTPUT: u64 = 64 * 1024;

/// How long a new program may take to check the configuration.
pub const CHECK_TIME: Duration = Duration::from_secs(10);

/// How long a new program may take to take over, from its start; then it is killed.
pub const UPGRADE_TIME: Duration = Duration::from_secs(45);

/// How long the former process waits at its end until who asked for the upgrade has its answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(1);
