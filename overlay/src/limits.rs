//! Every bound of the brain's tables and queues, and what happens at it. Full tables count in
//! [`Counters::table_full`](crate::Counters::table_full).

/// Most proxies that are known, alive or not. Records of further ones are refused.
pub(crate) const MAX_MEMBERS: usize = 24_576;

/// Clusters that watch one cluster.
pub(crate) const WATCHERS: usize = 4;

/// Most clusters that one cluster watches. Who was cut off by more than that looks at the rest as
/// soon as some answer.
pub(crate) const MAX_WATCHED: usize = 2_048;

/// Proxies of a watched cluster that are asked for signs of life.
pub(crate) const CONTACTS: usize = 2;

/// Most proxies of a silent cluster that are asked before it is suspected.
pub(crate) const MAX_ASKED_MEMBERS: usize = 16;

/// Up to so many mates are all neighbours; of more, two to either side.
pub(crate) const MATE_NEIGHBOURS: usize = 8;

/// Neighbours in other clusters that a proxy chooses.
pub(crate) const FAR_NEIGHBOURS: usize = 3;

/// Most neighbours. One more that chooses this proxy is not pushed to.
pub(crate) const MAX_NEIGHBOURS: usize = 20;

/// How far to look for a live proxy to choose as a neighbour.
pub(crate) const MAX_PICK_WALK: usize = 256;

/// Ways that stay eager, however many duplicates come along them.
pub(crate) const MIN_EAGER: usize = 2;

/// Observers of a death that push it to the world; the others only announce it.
pub(crate) const PUSHERS: usize = 2;

/// Most records that wait to be announced. More are left to comparisons.
pub(crate) const MAX_FRESH: usize = 4_096;

/// Most announced records that are waited for. More are left to comparisons.
pub(crate) const MAX_MISSING: usize = 4_096;

/// How often an announced record is asked for.
pub(crate) const WANT_ATTEMPTS: u8 = 3;

/// Most records of clusters in one update: with as many members as it may hold it stays below
/// [`MAX_MESSAGE`](pias_protocol::limits::MAX_MESSAGE).
pub(crate) const MAX_CLUSTERS_PER_UPDATE: usize = 256;

/// Most deaths that are doubted at once. More are believed.
pub(crate) const MAX_DOUBTS: usize = 8_192;

/// Most proxies of which it is remembered when they were told something that nobody is told again and
/// again: that they are held for dead, who calls them, all that is known, flows that they want. More are
/// not told.
pub(crate) const MAX_TOLD: usize = 256;

/// Dead mates that are called per round.
pub(crate) const CALLS_PER_ROUND: usize = 8;

/// Proxies that call a seed in a round, of all that miss it: the smaller a part of a service, the
/// sooner each of it calls, and in a large one a seed that is gone for good costs little.
pub(crate) const CALLERS_OF_A_SEED: usize = 16;

/// Departed proxies that are remembered to tell which groups a RAP has just been handed. After more
/// at once it takes all for new.
pub(crate) const MAX_DEPARTED: usize = 32;

/// JAPs that are remembered to be asked for their counts when they are back. Of one that is not, the
/// counts come when it reports again by itself.
pub(crate) const MAX_FORGOTTEN: usize = 1_024;

/// Points of one proxy on the ring: with 32 the most loaded proxy of many has about 1.5 times the
/// mean, and the ring of 20,000 takes 4 MB.
pub(crate) const RING_POINTS: usize = 32;

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

/// With so many groups a RAP remembers none that it was only asked for: who tries all ports of all
/// addresses leaves room for groups that are served. Their ingresses are told no changes, and ask
/// again.
pub(crate) const MAX_ASKED_GROUPS: usize = MAX_RENDEZVOUS_GROUPS / 2;

/// Most ingresses per group that are told when its set of JAPs changes. The one that asked least
/// recently makes room; it learns the change when it asks again.
pub(crate) const MAX_ASKERS: usize = 256;

/// Most JAPs per group that are remembered to have served it. The one that stopped longest ago makes
/// room; flows that it still has are lost if their ingress dies.
pub(crate) const MAX_FORMER: usize = 4;

/// Most packets that a RAP holds while it does not know its groups yet. Further ones are refused.
pub(crate) const MAX_HELD: usize = 256;

/// Most packets that wait at the start of a proxy until its mates have handed back its flows, as many as
/// the datapath parks. Further ones of flows are dropped there; others are tried elsewhere.
pub(crate) const MAX_WAITING: usize = 4_096;

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
