//! Every bound of the agent, and what happens at it.

use std::time::Duration;

/// Most groups (address, port and protocol) of one agent. More are a
/// [`StartError::TooManyGroups`](crate::StartError::TooManyGroups).
pub const MAX_GROUPS: usize = 256;

/// Events that wait for the application. The oldest are forgotten when it does not read, and
/// [`Events::missed`](crate::Events::missed) counts them.
pub const EVENT_QUEUE: usize = 1024;

/// Messages that wait to be written to one connection: a `Join`, a `Health` and a `Leave` for each
/// group, and keep-alives. A proxy that lets it fill up is taken to be lost.
pub(crate) const WRITE_QUEUE: usize = 4 * MAX_GROUPS;

/// Messages read but not yet handled; the reader waits, and QUIC's flow control with it.
pub(crate) const INPUT_QUEUE: usize = 64;

/// How long a connection attempt may take; then the next is due.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The same for the attempt right after a loss: routing may still lead to the dead proxy, and a
/// handshake begun with it cannot be completed by another.
pub(crate) const REJOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Within what time after a reset the first attempt begins, at random: a proxy that dies has
/// thousands of agents, and its heir resets them all.
pub(crate) const RESET_SPREAD: Duration = Duration::from_millis(500);

/// How long a proxy may take to answer a `Join`; then it is taken to be lost.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What QUIC takes for the round trip before it has measured one. A lost first packet is sent again
/// after three times this: 150 ms. A path that is longer costs one superfluous packet.
pub(crate) const INITIAL_RTT: Duration = Duration::from_millis(50);

/// QUIC's own idle timeout. It only ends what the keep-alives did not; it must exceed
/// [`KEEP_ALIVE_MAX`].
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The keep-alive intervals that a proxy can ask for; others are moved into this range, so that no
/// proxy turns an agent into a flood, or to sleep.
pub(crate) const KEEP_ALIVE_MIN: Duration = Duration::from_millis(100);
/// See [`KEEP_ALIVE_MIN`].
pub(crate) const KEEP_ALIVE_MAX: Duration = Duration::from_secs(60);

/// A keep-alive may stay unanswered this long, or three round trips if that is longer.
pub(crate) const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a clean end (flush the leaves, close, drain) may take.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest wait between connection attempts.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// See [`BACKOFF_MIN`].
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Longest wait between attempts to get away from a draining proxy, which closes within seconds.
pub(crate) const HANDOVER_BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A connection that lasted this long earns another re-join without a wait.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(5);

/// Longest status line that an HTTP check reads, in octets; a longer one is no HTTP.
pub(crate) const HTTP_STATUS_LINE: usize = 512;

/// Most octets that a UDP check sends: what passes any path in one datagram.
pub(crate) const UDP_CHECK_PAYLOAD: usize = 1200;

/// Shortest interval and timeout of a check.
pub(crate) const CHECK_TIME_MIN: Duration = Duration::from_millis(10);
/// Longest interval and timeout of a check.
pub(crate) const CHECK_TIME_MAX: Duration = Duration::from_secs(3600);
