//! Every bound of the datapath, and what happens at it.
//!
//! The sizes of tables are a [`Limits`], so that tests can make them small; all else is constant.

use std::time::Duration;

/// The sizes of the pipeline's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows pinned at this proxy as an ingress, rounded up to eight times a power of two. They share
    /// buckets of eight: for one too many in a bucket another goes, an embryonic or the longest idle
    /// one (`flow_evicted`); its flow is placed by hash again.
    pub ingress_flows: usize,
    /// Flows NATed at this proxy as a JAP. At the bound an idle UDP or closing TCP flow goes
    /// (`flow_evicted`); where a sample finds none, the new flow is turned away (`nat_table_full`).
    pub nat_flows: usize,
    /// Of these, UDP flows whose target has not answered, and TCP flows that were never established:
    /// a flood of forged SYNs, answered or not, evicts its own kind and never a flow that works.
    pub nat_embryonic: usize,
    /// Flows of mates that are held for them. At the bound a further one is not held
    /// (`standby_full`): it is lost if its proxy dies.
    pub standby_flows: usize,
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
            standby_flows: 1 << 19,
            parked: 4096,
            parked_per_group: 64,
            fragment_trains: 4096,
            fragments_held: 512,
            groups: 1 << 18,
            members: 1 << 16,
        }
    }
}

/// Most former lives of proxies whose heirs are remembered. At the bound the oldest is forgotten:
/// flows still pinned to it are placed anew.
pub const MAX_HEIRS: usize = 4096;

/// Most heirs in a row that died. Beyond, nobody stands in.
pub const MAX_HEIR_CHAIN: usize = 8;

/// Packets and events that may leave beside one batch's own packets; beyond: `side_full`,
/// `event_queue_full`.
pub const MAX_SIDE: usize = 1024;

/// Most proxies that get a copy of an ICMP error about a flow that is not known here. In a larger
/// overlay the error reaches the JAP only if it enters there, or where the group's list is known.
pub const MAX_SEARCHED: usize = 64;

/// How long a packet waits for the overlay; then `parked_expired`.
pub const PARKED_FOR: Duration = Duration::from_secs(1);

/// How long a pinned or NATed UDP flow lives without a packet (RFC 4787 REQ-5 recommends 5 min).
pub const UDP_IDLE: Duration = Duration::from_secs(300);

/// How long an established TCP flow lives without a packet (RFC 5382 REQ-5).
pub const TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// How long a closing TCP flow lives without a packet (RFC 5382 REQ-5: transitory).
pub const TCP_CLOSING: Duration = Duration::from_secs(240);

/// How long a TCP flow lives that never gets established. Shorter than RFC 5382 REQ-5's transitory
/// 4 min: a SYN is retransmitted long before, and a flood of them must not hold ports.
pub const TCP_OPENING: Duration = Duration::from_secs(30);

/// After this long without a packet the port of a UDP flow, or of a TCP flow that is not
/// established, may serve a new flow to the same target where no free port is found
/// (`flow_evicted`): the one of a sample that will be missed least.
pub const PORT_REST: Duration = Duration::from_secs(1);

/// Ticks that a round through all pinned flows takes, where [`AGED_PER_TICK`] and
/// [`MOST_AGED_PER_TICK`] allow: 0.8 s at 50 ms a tick.
pub const ROUND_TICKS: usize = 16;

/// Most entries of the table of pinned flows that one tick looks at, in about a millisecond: 2^20 of
/// them in 0.8 s, 2^22 in 3.2 s. As many while the table doubles.
pub const MOST_AGED_PER_TICK: usize = 65_536;

/// Slots of each flow table that one tick looks at for age: 2^19 of them in 6.4 s at 50 ms a tick.
pub const AGED_PER_TICK: usize = 4096;

/// How old a flow is when a mate is told of it: most end sooner, and are not worth it.
pub const REPLICATED_AFTER: Duration = Duration::from_secs(1);

/// How often a mate is told of every flow, changed or not: what was lost on the way is healed.
pub const REPLICATED_EVERY: Duration = Duration::from_secs(60);

/// How long a live mate's flow is held without being told of again: two rounds may be lost.
pub const STANDBY_FOR: Duration = Duration::from_secs(200);

/// Batches of flows that a mate is told of in one tick; what is left is told in the next. With 512
/// flows each: 80,000 a second at 50 ms a tick.
pub const BATCHES_PER_TICK: usize = 8;

/// Slots of the table of flows that one tick looks at when a new mate is to hear of all: 2^19 of them in
/// 13 s.
pub const RETOLD_PER_TICK: usize = 2048;

/// Flows that ended and that the mate is still to hear of; beyond, the mate forgets them by itself
/// ([`STANDBY_FOR`]).
pub const MAX_ENDED: usize = 65_536;

/// Slots that one tick looks at for the flows of a proxy that is back: 2^19 of them in 0.8 s.
pub const HANDED_PER_TICK: usize = 32_768;

/// Proxies whose flows are being handed back at once; a further one gets none.
pub const MAX_HANDED: usize = 16;

/// How often a flow is tried to be pinned, or to be forgotten, while another party changes its entry
/// each time. Beyond, it is placed by its hash, or ages.
pub const PIN_TRIES: usize = 8;

/// Flows that could go which a full table compares to find the one to give up.
pub const EVICTION_SAMPLE: usize = 16;

/// Slots that are looked at for these; where none of them could go, the new flow is turned away.
pub const EVICTION_LOOK: usize = 64;

/// How often a translated flow is tried to be changed, or looked at, while XDP writes its entry. Beyond, what
/// the packet told is lost, or the flow counts as gone.
pub const NAT_TRIES: usize = 64;

/// Ports that are looked at, before one that rests is taken.
pub const PORT_SAMPLE: u16 = 32;

/// Ports that are looked at when none rests either; then `nat_ports_exhausted`.
pub const PORT_PROBES: u16 = 128;

/// NAT ports of flows: all that RFC 6335 does not call system ports, less those of probes.
pub const FLOW_PORTS: std::ops::RangeInclusive<u16> = 1024..=65_023;

/// NAT ports of probes, kept apart so that a probe never meets a flow.
pub const PROBE_PORTS: std::ops::RangeInclusive<u16> = 65_024..=65_535;

/// Probes under way; beyond, a probe is not begun, and the overlay asks again.
pub const MAX_PROBES: usize = 256;

/// How long a probe waits for an answer.
pub const PROBE_FOR: Duration = Duration::from_secs(1);

/// How often an unanswered probe is sent again.
pub const PROBE_EVERY: Duration = Duration::from_millis(200);

/// How long a new flow may stay unanswered before that is held against its target.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// How soon after its first a flow's second packet tells that the first stays unanswered. Sooner,
/// it is one of a pair: stub resolvers send two questions at once.
pub const PAIR_WITHIN: Duration = Duration::from_millis(20);

/// Unanswered new flows in a row that make a target silent.
pub const SILENT_AFTER: u32 = 3;

/// New flows that are watched for their first answer; beyond, a flow is not watched.
pub const MAX_WATCHED: usize = 65_536;

/// Watched flows that one tick looks at; the rest next time.
pub const JUDGED_PER_TICK: usize = 16_384;

/// Translated flows that XDP tells of which one tick looks at; the rest next time. At the bound of its
/// queue, of 43,000, XDP tells no more, and what is told of every flow in a minute heals that.
pub const NOTICED_PER_TICK: usize = 16_384;

/// How long the place of a fragmented packet is kept (RFC 791: 15 s of reassembly; hosts take 30).
pub const TRAIN_FOR: Duration = Duration::from_secs(30);

/// How long a fragment waits for its first; then `fragment_orphan`.
pub const HELD_FOR: Duration = Duration::from_secs(2);

/// Fragments of one packet that wait: as many as 64 KiB have at Ethernet's MTU when the tunnel had
/// to cut each in two (90), and some.
pub const HELD_PER_TRAIN: usize = 128;

/// How long a learnt path MTU is believed (RFC 1191 section 6.3, RFC 8201 section 4).
pub const PATH_MTU_FOR: Duration = Duration::from_secs(600);

/// The least path MTU that is believed: that of IPv6 less a tunnel header, so that a forged
/// ICMP message cannot make packets arbitrarily small.
pub const LEAST_PATH_MTU: u16 = 576;

/// Least time between two pin notices for one flow.
pub const PIN_EVERY: Duration = Duration::from_millis(100);

/// Answers and notices a second, and at once; beyond: `rate_limited`.
pub mod rates {
    /// Echo replies.
    pub const ECHO: (u64, u64) = (2_000, 1_000);
    /// Resets.
    pub const RESET: (u64, u64) = (5_000, 2_000);
    /// ICMP errors of any kind but the next (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
    pub const ICMP_ERROR: (u64, u64) = (2_000, 1_000);
    /// Packets too big: apart, because a connection that misses one hangs.
    pub const TOO_BIG: (u64, u64) = (2_000, 1_000);
    /// Pin notices.
    pub const PIN: (u64, u64) = (50_000, 10_000);
    /// ICMP errors of unknown flows that are copied to several proxies, in search of the JAP.
    pub const SEARCH: (u64, u64) = (100, 100);
    /// Hints about agents.
    pub const AGENT: (u64, u64) = (100, 100);
    /// Uses of one target.
    pub const TARGET_USED: (u64, u64) = (5, 1);
    /// Refusals of one target.
    pub const TARGET_REFUSES: (u64, u64) = (10, 5);
    /// Silences of one target.
    pub const TARGET_SILENT: (u64, u64) = (5, 2);
    /// Uses of one group's ingress entry.
    pub const INGRESS_USED: (u64, u64) = (1, 1);
}

/// The engine's queues, batches and buffers.
pub mod engine {
    use std::time::Duration;

    /// Updates and queries that wait for the engine. At the bound the sender waits, up to
    /// [`ANSWER_WITHIN`].
    pub const COMMANDS: usize = 4096;

    /// Datagrams of piasd's QUIC endpoint that wait for the engine. At the bound
    /// [`send_registration`](crate::engine::EngineHandle::send_registration) says `false`, and QUIC sends again.
    pub const REGISTRATIONS: usize = 1024;

    /// How long another thread waits for the engine before it takes it for gone.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

    /// How long another thread waits for the engine to gather what it hands over: full tables take a
    /// few hundred milliseconds.
    pub const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);

    /// Packets, receive calls, commands and datagrams taken from one source in one turn; what is left
    /// waits in the kernel or in its queue until the other sources had theirs.
    pub const BATCH: usize = 64;

    /// Receive calls per tunnel socket in one turn: each brings up to [`RECEIVE_BUFFERS`] buffers.
    pub const RECEIVES: usize = 4;

    /// Buffers lent to one receive call; each holds one datagram, or up to 64 KiB of equal ones that
    /// the kernel joined (`UDP_GRO`).
    pub const RECEIVE_BUFFERS: usize = 8;

    /// How long the engine looks again before it sleeps, where the wait before was no longer: most of
    /// a core is spent at 20,000 wake-ups a second and more, nothing below.
    pub const LINGER: Duration = Duration::from_micros(50);

    /// How often tables are aged.
    pub const TICK: Duration = Duration::from_millis(50);

    /// How often XDP's next hops are asked for anew, whatever was heard of routes, and interfaces that
    /// it is not attached to are tried again.
    pub const LOOK_EVERY: Duration = Duration::from_secs(1);

    /// How long XDP goes on after a process that was killed, by what that knew last: as long as a service
    /// manager takes to start the next one, which goes on with its tables. Beyond, all packets are passed up.
    pub const GRACE: Duration = Duration::from_secs(3);

    /// How long a proxy that the process before knew is held for alive without a word of the overlay; then flows
    /// that are pinned to it are placed anew.
    pub const FORMER_PEERS_FOR: Duration = Duration::from_secs(10);

    /// Sending sockets per address family: as many source ports are seen by routers and network cards
    /// that spread tunnel packets by a hash of the outer header.
    pub const SOURCE_PORTS: usize = 64;

    /// Datagrams in one call to send (`UDP_SEGMENT`); more begin the next call. Kernels since 4.18 take
    /// 64.
    pub const SEGMENTS_PER_SEND: usize = 64;

    /// Octets in one call to send: an IP packet of 65,535 octets with room for the outer headers.
    pub const OCTETS_PER_SEND: usize = 65_000;

    /// What is asked of the kernel for each receiving socket's buffer, in octets: 40 ms at 1 Gb/s. At
    /// the bound the kernel drops (`UdpRcvbufErrors`).
    pub const RECEIVE_BUFFER: usize = 8 << 20;

    /// What is asked of the kernel for each sending socket's buffer, in octets. At the bound:
    /// `tunnel_send`.
    pub const SEND_BUFFER: usize = 2 << 20;

    /// Octets of the largest IP packet, segments joined.
    pub const MAX_PACKET: usize = 65_535;

    /// The TUN device's MTU: the kernel shall pass on whatever the routes before and behind it carry.
    pub const DEVICE_MTU: u16 = 65_535;

    /// Packets that wait in the TUN device for the engine. At the bound the kernel drops and counts
    /// them (`tx_dropped` of the device): what 50,000 packets a second bring while one process hands over to the next.
    pub const DEVICE_QUEUE: u32 = 4096;
}
