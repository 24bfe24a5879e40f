/* What piasd and the programs share, to the octet. src/xdp/layout.rs says the same in Rust, and its
 * tests compare the sizes. Addresses are 16 octets as they stand in a packet, IPv4 in its IPv6-mapped
 * form; ports are the two octets of a packet. */
#ifndef PIAS_LAYOUT_H
#define PIAS_LAYOUT_H

#include "kernel.h"

enum {
    MAX_CANDIDATES = 64,
    TARGETS_DRAWN = 1024,
    MAX_PREFIXES = 16,
    SOURCE_PORTS = 64,
    GENEVE_PORT = 6081,
    PIAS_PORT = 7427,
    DEVICES = 65536,
    /* NAT ports of flows, and how many are looked at for a new one before user space is asked. */
    FIRST_FLOW_PORT = 1024,
    FLOW_PORTS = 64000,
    PORT_SAMPLE = 32,
    /* Slots that are looked at for a flow to give up, and how many that could go are compared. */
    EVICTION_LOOK = 64,
    EVICTION_SAMPLE = 16,
    VLANS_MOST = 8192,
};

/* One address, by words as they lie in memory. */
struct address {
    u64 high;
    u64 low;
};

/* Set once, before the programs are loaded. */
struct config {
    /* Spreads flows over the buckets of pins; odd, secret. */
    u64 seed;
    /* How many prefixes there are. */
    u32 prefixes;
    /* What a jiffy takes, in ns. */
    u32 jiffy;
    /* Anycast prefixes: (address & mask) == network. */
    struct address network[MAX_PREFIXES];
    struct address mask[MAX_PREFIXES];
    /* NAT addresses of this proxy; unspecified where there is none. */
    struct address nat[2];
    /* Ports that tunnel packets are sent from over IPv4 and IPv6, as in a packet; 0: family unused. */
    u16 source_port[2][SOURCE_PORTS];
    /* This proxy's tunnel endpoints over IPv4 and IPv6; unspecified where there is none. */
    struct address unicast[2];
    /* Slots of the table of translated flows, and most embryonic flows among them. */
    u32 nat_flows;
    u32 nat_embryonic;
    /* Buckets of cells, less one, of which there are a power of two; and places of the ring of free slots,
     * less one. */
    u32 nat_buckets_mask;
    u32 nat_free_mask;
    /* What the tunnel to an ingress that is this proxy would leave room for. */
    u32 own_inner_mtu;
    u32 zero_too;
};

/* One element: what piasd changes all the time. */
struct state {
    /* How much of the table of pins is used: 1 << bucket_bits buckets. */
    u32 bucket_bits;
    /* Whether that was half as much a moment ago: flows of the upper half may be in the lower yet. */
    u32 splitting;
    /* Now, in ticks of 2^14 us since the engine began. */
    u32 now;
    /* Counts changes of routes and neighbours. Next hops of another epoch are looked up again. Never
     * 0, and never HOP_BUSY. */
    u32 epoch;
    /* Free entries of the table of pins that the programs have taken. */
    u64 pinned;
    /* Until when what stands in the tables may be used, by the kernel's coarse clock in ns: piasd puts it
     * off for as long as it lives. */
    u64 until;
    /* The same in jiffies, and of which `until` that is true. */
    u64 until_jiffies;
    u64 until_read;
    /* What is left of the rate of echo replies, in millionths, and above it when that was. */
    u64 echoes;
    u64 reserved;
    /* Of whom the tables are, for the process after this one: see src/xdp/kept.rs. */
    u64 seed;
    u64 fingerprint;
    u64 reserved_too[6];
};

/* Echo replies a second, and at once. */
enum { ECHO_RATE = 2000, ECHO_BURST = 1000 };

/* Frames of one VLAN on an interface: its tag's lower 12 bits as in a packet, 0 for those without. */
struct port {
    u32 ifindex;
    u16 tag;
    u16 zero;
};

/* An interface that the programs are attached to, by its index; all others are 0. */
struct device {
    /* Its address: frames to others are not this host's. */
    u8 mac[6];
    /* NATIVE, in its driver, or GENERIC. */
    u8 mode;
    /* What can be sent from there without the kernel's networking: BOUNCES, TAKES. */
    u8 sends;
};

enum { NATIVE = 1, GENERIC = 2 };
/* What came in there can leave by XDP_TX; anything can by XDP_REDIRECT. */
enum { BOUNCES = 1, TAKES = 2 };

/* A next hop, kept with whoever is reached by it. */
struct known_hop {
    /* In which epoch it was found. Written last, and only by who exchanged it for HOP_BUSY. */
    u32 epoch;
    u32 ifindex;
    /* Destination and source of frames. */
    u32 macs[3];
    /* What the kernel knows of the path's MTU. */
    u16 mtu;
    /* The tag of its VLAN, or 0. */
    u16 tag;
};

enum { HOP_BUSY = 0xFFFFFFFF };

/* Another proxy, by the index of its handle. */
struct peer {
    /* The generation of its handle: a pin of another generation is of a proxy that is gone. */
    u32 generation;
    u8 live;
    /* Whether the tunnel to it is IPv6. */
    u8 v6;
    /* The largest packet on the way to it, tunnel headers and all. */
    u16 mtu;
    struct address tunnel;
    /* Where this proxy's tunnel packets to it come from. */
    struct address own;
    struct known_hop hop;
    /* Which proxy it is. */
    u64 id;
    u64 reserved[7];
};

/* A target of this proxy, by the index of its handle. */
struct target {
    /* The generation of its handle: a flow of another generation has another target, or none. */
    u32 generation;
    /* Whether its flows go on: it is up, or draining. */
    u8 live;
    u8 v6;
    /* As in a packet. */
    u16 port;
    struct address address;
    /* The id of its lease. */
    u64 lease;
    /* When a new flow to it was last told of, and when one that was answered, in ticks. */
    u32 told_new;
    u32 told_answer;
    struct known_hop hop;
};

/* NAT addresses of mates. */
enum { STOOD_FOR_MOST = 1024 };

struct group_key {
    struct address address;
    u16 port;
    u8 protocol;
    u8 zero;
    /* Of the targets of one group, as many as fit stand in each part. */
    u32 part;
};

struct candidate {
    /* By which flows are drawn: the id of the candidate, whoever stands in for it. */
    u64 id;
    u32 weight;
    /* The index of the peer's handle, or HERE. */
    u32 peer;
    u32 generation;
    u32 zero;
};

enum { HERE = 0xFFFFFFFF };

/* The usable candidates of a group's lowest tier that has any. */
struct group {
    u32 count;
    /* When its use was last told, in ticks. */
    u32 used;
    struct candidate candidates[MAX_CANDIDATES];
};

/* A pinned flow: one cache line. See src/flow/ingress.rs. */
struct pin {
    u64 meta;
    struct address client;
    struct address group;
    u64 peer;
    u32 created;
    u32 last;
    u64 hash;
};

enum { WAYS = 8 };

struct bucket {
    struct pin ways[WAYS];
};

/* Flows that are known beside the pins: NATed here, or held for a mate. A counter for each of
 * 2^ELSEWHERE_BITS hashes; where one is not 0, user space has the say. */
enum { ELSEWHERE_BITS = 21, ELSEWHERE_SLOT = 64 };

struct elsewhere {
    u8 counters[ELSEWHERE_SLOT];
};

/* A translated flow: two cache lines. See src/flow/nat/entry.rs. */
struct nat_flow {
    u64 meta;
    struct address client;
    struct address group;
    u64 target;
    u32 created;
    u32 last;
    u64 hash;
    struct address target_address;
    struct address nat;
    u16 target_port;
    u16 nat_port;
    /* User space's own. */
    u32 notes;
    /* The handle of the ingress; NO_HANDLE where it is this proxy. */
    u64 ingress;
    u64 lease;
    /* User space's own. */
    u32 pinned;
    /* The way back to the client: see back.h. */
    u32 back;
};

#define NO_HANDLE 0x00000000FFFFFFFFULL

enum { CELLS = 8 };

/* What is told of a translated flow: its handle, and above it whether it was just answered for the first time. */
#define NEWS_ANSWERED (1ULL << 63)

/* Cells of one bucket: the tag of a flow above, the number of its slot and 1 below; 0 where free. */
struct cells {
    u64 cell[CELLS];
};

/* One element: what stands beside the translated flows. */
struct nat_state {
    /* Slots taken from the ring of free ones, ever, and put into it. */
    u64 taken;
    u64 given;
    /* Slots that were ever used: those from here on are free, too. */
    u64 fresh;
    /* Embryonic flows: signed. */
    u64 embryonic;
    /* The last identification that was given to a packet that may be fragmented. */
    u64 next_id;
    /* Whether a mate wants to hear of flows that become others than they were. */
    u64 wanted;
    /* A slot, and 1 more, whose flow could not begin, to be used before any other; 0 where there is none. A hint:
     * it may have another flow by now. */
    u64 returned;
    u64 reserved;
};

/* Counters: the numbers of Path and, behind them, DropReason. */
enum {
    PATH_INGRESS_DIRECT = 0,
    PATH_INGRESS_LOCAL = 2,
    PATH_JOIN_DELIVER = 4,
    PATH_JOIN_RETURN = 5,
    PATH_ECHO = 8,
    PATH_FLOW_EVICTED = 22,
    DROP_MALFORMED = 23,
    DROP_BAD_SOURCE = 26,
    DROP_PORT_ZERO = 28,
    DROP_RATE_LIMITED = 42,
    DROP_ICMP_IGNORED = 48,
    COUNTERS = 128,
};

#endif
