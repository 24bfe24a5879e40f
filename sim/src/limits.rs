//! Every bound of the simulator's own queues, and what happens at it.

/// Most events that wait for one paused or slow proxy. As in a socket's buffer, further datagrams
/// are dropped (counted in [`Tally::inbox_full`](crate::Tally::inbox_full)); what comes on streams
/// waits at its sender, and is kept.
pub(crate) const MAX_INBOX: usize = 8_192;

/// Last lines of the trace that a failing check shows.
pub(crate) const TAIL_LINES: usize = 60;

/// Connections remembered before those without a message on its way, or idle ones, are dropped from
/// their table. Dropping one changes nothing: what has arrived is in order, what is idle is gone.
pub(crate) const MAX_IDLE_STREAMS: usize = 1 << 20;
