//! Every bound of this suite.

use std::time::Duration;

/// Nanoseconds between packets while flows get known; the longer in the next pass, if too many got lost.
pub(super) const GAPS: [u32; 2] = [5_000, 10_000];

/// Flows of which one may be lost without another pass.
pub(super) const ACQUAINTED: u32 = 1000;

/// Time that the last of them get to come out.
pub(super) const LAST: Duration = Duration::from_millis(50);

/// Times that the generator runs before it is looked whether it is over: long beside what to begin takes, and
/// a fraction of a second.
pub(super) const TIMES: u32 = 1 << 20;

/// Connections that the kernel tracks: twice the flows. And its buckets for them.
pub(super) const TRACKED: u32 = 1 << 21;
pub(super) const TRACKED_BUCKETS: u32 = 1 << 20;

/// Time of a measurement, and of the traffic before it.
pub(super) const SPAN: Duration = Duration::from_millis(1000);
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

/// The same of `--quick`.
pub(super) const QUICK: Duration = Duration::from_millis(100);

/// Flows of the load under which `piasd` is replaced, nanoseconds between its packets, and its time before and
/// after.
pub(super) const STEADY_FLOWS: u32 = 1 << 12;
pub(super) const STEADY_GAP: u32 = 20_000;
pub(super) const SETTLED: Duration = Duration::from_millis(500);
