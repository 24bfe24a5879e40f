//! What happened, counted: for metrics and `status`.

use serde::Serialize;

/// Counters of one node since its start; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets for groups without an ingress entry.
    pub missed: u64,
    /// Packets resolved as a RAP.
    pub resolved: u64,
    /// Lists sent to ingresses, as a RAP.
    pub lists_sent: u64,
    /// Lists received from RAPs, as an ingress.
    pub lists_received: u64,
    /// Packets that got a second chance, as a JAP.
    pub second_chances: u64,
    /// Packets refused because nobody could take them.
    pub refused_packets: u64,
    /// Packets held because this RAP did not know its groups yet.
    pub held_packets: u64,
    /// Count reports sent to RAPs, as a JAP.
    pub reports_sent: u64,
    /// Count reports received, as a RAP.
    pub reports_received: u64,
    /// Joins granted.
    pub joins: u64,
    /// Joins refused.
    pub joins_refused: u64,
    /// Leases taken over from mates that died.
    pub leases_inherited: u64,
    /// Stateless resets sent to the agents of mates that died.
    pub agents_reset: u64,
    /// Pings sent to agents.
    pub pings: u64,
    /// Pings not sent because the budget was used up.
    pub pings_skipped: u64,
    /// Probes asked of the datapath.
    pub probes: u64,
    /// Messages to proxies that are not known (any more), dropped.
    pub unsendable: u64,
    /// Messages from proxies that are not known (yet), dropped.
    pub strangers: u64,
    /// Entries given up or not made because a table was full.
    pub table_full: u64,
}
