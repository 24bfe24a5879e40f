//! Every bound of the datapath, and what happens at it.
//!
//! The sizes of tables are a [`Limits`], so that tests can make them small; all else is constant.

use std::time::Duration;

/// The sizes of the pipeline's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows pinned at this proxy as an ingress. At the bound one of a few sampled entries goes, an
    /// embryonic or the longest idle one (`flow_evicted`); its flow is placed by hash again.
    pub ingress_flows: usize,
    /// Flows NATed at this proxy as a JAP. At the bound an idle UDP or closing TCP flow goes
    /// (`flow_evicted`); where a sample finds none, the new flow is dropped (`nat_table_full`).
    pub nat_flows: usize,
    /// Of these, flows that never heard from their target: a flood of SYNs evicts its own kind and
    /// never a flow that works.
    pub nat_embryonic: usize,
    /// Packets that wait for the overlay. At the bound: `parking_full`.
    pub parked: usize,
    /// Of these, packets of one group. At the bound: `parking_full`.
    pub parked_per_group: usize,
    /// Fragmented packets whose first fragment has been seen. At the bound the oldest goes, and its
    /// later fragments become orphans (`fragment_orphan`).
    pub fragment_trains: usize,
    /// Fragments that wait for their first. At the bound: `fragment_room_full`.
    pub fragments_held: usize,
    /// Ingress entries, one per group. The overlay keeps fewer; at the bound an entry is not
    /// installed, and the group is missed again.
    pub groups: usize,
    /// Peers and targets each. The overlay keeps fewer; at the bound one is not installed.
    pub members: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ingress_flows: 1 << 20,
            nat_flows: 1 << 19,
            nat_embryonic: 1 << 17,
            parked: 4096,
            parked_per_group: 64,
            fragment_trains: 4096,
            fragments_held: 512,
            groups: 1 << 18,
            members: 1 << 16,
        }
    }
}

/// Packets and events that may leave beside one batch's own packets; beyond: `side_full`,
/// `event_queue_full`.
pub const MAX_SIDE: usize = 1024;

/// How long a packet waits for the overlay; then `parked_expired`.
pub const PARKED_FOR: Duration = Duration::from_secs(1);
