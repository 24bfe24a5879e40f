//! Every bound of the brain's tables and queues, and what happens at it. Full tables count in
//! [`Counters::table_full`](crate::Counters::table_full).

/// Most proxies that are known, alive or not. Records of further ones are refused.
pub(crate) const MAX_MEMBERS: usize = 24_576;

/// To how many others news is passed on that came from another proxy.
pub(crate) const GOSSIP_FANOUT: usize = 4;

/// Points of one proxy on the ring: with 64 the most loaded proxy of many has about 1.3 times the
/// mean.
pub(crate) const RING_POINTS: usize = 64;

/// RAPs of one group.
pub(crate) const RAPS: usize = 4;

/// Points of the ring that a lookup visits at most in search of another cluster; then RAPs share
/// clusters.
pub(crate) const MAX_RING_WALK: usize = 4_096;

/// Most groups with an ingress entry. The least recently used one makes room.
pub(crate) const MAX_INGRESS_GROUPS: usize = 16_384;

/// How often an unanswered wish for a list is repeated before the entry is forgotten.
pub(crate) const MAX_RESOLVE_ATTEMPTS: u8 = 8;

/// Most groups that a RAP keeps counts of. Reports of further ones are dropped; their JAPs repeat
/// them.
pub(crate) const MAX_RENDEZVOUS_GROUPS: usize = 131_072;

/// Most ingresses per group that are told when its set of JAPs changes. The one that asked least
/// recently makes room; it learns the change when it asks again.
pub(crate) const MAX_ASKERS: usize = 256;

/// Most packets that a RAP holds while it does not know its groups yet. Further ones are refused.
pub(crate) const MAX_HELD: usize = 256;

/// Up to how many visited proxies a RAP in its warm-up passes a packet on to another RAP: enough is
/// left of [`MAX_HOPS`](pias_protocol::limits::MAX_HOPS) for the JAP.
pub(crate) const MAX_HOPS_TO_PASS_ON: u8 = 2;

/// Most dead mates whose NAT addresses are remembered. Those of further ones are not answered to.
pub(crate) const MAX_HEIRLOOMS: usize = 256;

/// Most heirs in a row that died. Beyond, nobody stands in.
pub(crate) const MAX_HEIR_CHAIN: usize = 8;

/// Most agents connected to one proxy. Further ones are closed.
pub(crate) const MAX_AGENTS: usize = 16_384;

/// Most targets of one proxy. Further joins are refused with `Full`.
pub(crate) const MAX_TARGETS: usize = 65_536;

/// Most targets of one connection. Further joins are refused with `Full`.
pub(crate) const MAX_TARGETS_PER_AGENT: usize = 256;

/// Stateless resets to inherited agents per step: 2,000 a second, so that 10,000 agents join anew
/// within some seconds and not within one.
pub(crate) const RESETS_PER_STEP: usize = 40;

/// Resets that an inherited agent is sent before it is waited for in silence: each may be lost.
pub(crate) const MAX_RESETS: u8 = 3;

/// Agents that are pinged per step after this proxy was taken for dead.
pub(crate) const SUSPECTS_PER_STEP: usize = 40;

/// Leases that an heir takes over per step: 10,000 within half a second.
pub(crate) const INHERITED_PER_STEP: usize = 512;

/// Most leases of mates that are kept in case they die. Further ones are dropped and counted in
/// [`Counters::table_full`](crate::Counters::table_full): their agents must notice for themselves.
pub(crate) const MAX_REPLICATED_LEASES: usize = 4 * MAX_TARGETS;

/// Pings to agents per second, and how many may come at once. Beyond, a ping is skipped and counted
/// in [`Counters::pings_skipped`](crate::Counters::pings_skipped); the lease still bounds how long
/// a dead agent is believed.
pub(crate) const PINGS_PER_SECOND: u32 = 2_000;

/// Groups whose RAPs are looked up anew per step after the ring changed.
pub(crate) const RECHECKS_PER_STEP: usize = 64;

/// Unacknowledged reports that are repeated per step.
pub(crate) const REPEATS_PER_STEP: usize = 64;

/// RAPs, present and former, that one group's reports are remembered for.
pub(crate) const MAX_REPORTED_RAPS: usize = 12;

/// Messages that a node sends itself and handles within one call. More would be a loop; they are
/// dropped and counted in [`Counters::table_full`](crate::Counters::table_full).
pub(crate) const MAX_LOOPBACK: usize = 4_096;
