/* What piasd and the programs share, to the octet. src/xdp/layout.rs says the same in Rust, and its
 * tests compare the sizes. Addresses are 16 octets as they stand in a packet, IPv4 in its IPv6-mapped
 * form; ports are the two octets of a packet. */
#ifndef PIAS_LAYOUT_H
#define PIAS_LAYOUT_H

#include "kernel.h"

enum {
    MAX_CANDIDATES = 64,
    MAX_PREFIXES = 16,
    SOURCE_PORTS = 64,
    GENEVE_PORT = 6081,
    PIAS_PORT = 7427,
    DEVICES = 65536,
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
    u32 zero;
    /* Anycast prefixes: (address & mask) == network. */
    struct address network[MAX_PREFIXES];
    struct address mask[MAX_PREFIXES];
    /* NAT addresses of this proxy; unspecified where there is none. */
    struct address nat[2];
    /* Ports that tunnel packets are sent from over IPv4 and IPv6, as in a packet; 0: family unused. */
    u16 source_port[2][SOURCE_PORTS];
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
    u64 reserved[5];
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
    /* The epoch of the next hop below. Written last, and only by who exchanged it for HOP_BUSY. */
    u32 hop_epoch;
    u32 ifindex;
    /* Destination and source of frames to it. */
    u32 macs[3];
    /* What the kernel knows of the path's MTU. */
    u32 hop_mtu;
    u32 reserved[16];
};

enum { HOP_BUSY = 0xFFFFFFFF };

struct group_key {
    struct address address;
    u16 port;
    u8 protocol;
    u8 zero;
    u32 zero_too;
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

/* Counters: the numbers of Path and, behind them, DropReason. */
enum {
    PATH_INGRESS_DIRECT = 0,
    PATH_FLOW_EVICTED = 22,
    COUNTERS = 128,
};

#endif
