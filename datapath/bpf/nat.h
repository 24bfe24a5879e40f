/* The flows that are translated here. One table with user space, which documents its layout, and how its
 * entries and cells are claimed: src/flow/nat/. */
#ifndef PIAS_NAT_H
#define PIAS_NAT_H

#include "hints.h"
#include "maps.h"
#include "packet.h"
#include "pins.h"
#include "tunnel.h"

/* Stages beside those of pins: the slot of a flow that could not begin. */
enum { RETURNED = 5 };
/* The other parts of a meta word, below the stage: src/flow/nat/meta.rs. */
#define UDP_FLOW (1ULL << 32)
#define IDENTITY ((1ULL << 33) - 1)
#define SETTLED (1ULL << 33)
#define ANSWERED (1ULL << 34)
#define CLIENT_FIN (1ULL << 35)
#define TARGET_FIN (1ULL << 36)
#define CLIENT_RST (1ULL << 37)
#define TARGET_RST (1ULL << 38)
/* What a mate must know when it changes. */
#define TOLD (STAGES | CLIENT_FIN | TARGET_FIN)

/* Of the notes of user space: the target's silence has been held against it. */
enum { JUDGED = 1 };

/* The compiler leaves what is read and written before in front of what comes behind. */
#define BARRIER() __asm__ volatile("" ::: "memory")

/* A packet of a flow that is translated here, and what becomes of it. Too large for the stack. */
struct passage {
    struct packet packet;
    /* Of a client's packet. */
    u64 hash;
    /* Where its IP header is in the frame, and by which interface that came in. */
    u32 at;
    u32 ifindex;
    u32 now;
    u32 epoch;
    /* The slot of the flow's entry, and its meta word as it was read. */
    u32 slot;
    u64 meta;
    u64 target;
    u64 lease;
    /* From which proxy a client's packet comes; of a target's, where the flow enters. */
    u64 ingress;
    u32 created;
    u32 notes;
    /* What its entry says of the way back. */
    u32 back;
    u32 zero_too;
    /* Its ends from here on. */
    struct address from;
    struct address to;
    u16 from_port;
    u16 to_port;
    /* The most that the MSS of a SYN may be. */
    u16 most;
    u16 zero;
    /* XDP_TX or XDP_REDIRECT. */
    int way;
    struct hop hop;
};

/* One for each processor, which handles one packet at a time. */
struct {
    UINT(type, MAP_PERCPU_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, struct passage);
} PASSAGE SEC(".maps");

INLINE struct passage *begin_passage(const struct state *state, u32 ifindex)
{
    u32 zero = 0;
    struct passage *passage = map_lookup(&PASSAGE, &zero);
    if (passage == 0)
        return 0;
    passage->packet.unsummed = 0;
    passage->at = ETHERNET;
    passage->ifindex = ifindex;
    passage->now = state->now;
    passage->epoch = state->epoch;
    passage->ingress = NO_HANDLE;
    passage->most = 0xFFFF;
    return passage;
}

/* Where one side of a flow is looked for. */
INLINE u64 client_product(u64 hash)
{
    return hash * CONFIG.seed;
}

INLINE u64 target_product(u64 address, u16 target_port, u16 nat_port, u8 protocol)
{
    u64 ends = target_port | (u64)nat_port << 16 | (u64)protocol << 32;
    return fold(address ^ SECRET_16, ends ^ SECRET_24);
}

/* The part of that product that is of the target's address. */
INLINE u64 address_product(const struct address *target)
{
    return fold(target->high ^ SECRET_0, target->low ^ CONFIG.seed);
}

INLINE u32 bucket_of(u64 product)
{
    return product >> 32 & CONFIG.nat_buckets_mask;
}

/* The cell of a client's side that is looked at first; of a target's side it is 0. */
INLINE u32 first_cell(u64 product)
{
    return (product >> 16) % CELLS;
}

INLINE u64 cell_of(u64 product, u32 slot)
{
    return product << 32 | (slot + 1);
}

enum { NOT_TRANSLATED, TRANSLATED, UNSURE };

/* Whether entries at this stage are flows. */
INLINE int is_flow(u64 meta)
{
    return STAGE(meta) >= DATAGRAMS && STAGE(meta) <= CLOSING;
}

/* Whether what was read since `meta` was of one flow. */
INLINE int still_is(const struct nat_flow *flow, u64 meta)
{
    BARRIER();
    return ((*(volatile u64 *)&flow->meta ^ meta) & VERSIONS) == 0;
}

INLINE int is_client(const struct nat_flow *flow, u64 meta, const struct packet *packet)
{
    const struct flow *of = &packet->flow;
    u64 udp = of->protocol == UDP_PROTOCOL ? UDP_FLOW : 0;
    u64 identity = of->client_port | (u64)of->group_port << 16 | udp;
    return (meta & IDENTITY) == identity && flow->client.low == of->client.low
        && flow->group.low == of->group.low && flow->client.high == of->client.high
        && flow->group.high == of->group.high;
}

/* The packet's client is the target, and its group the NAT address. */
INLINE int is_target(const struct nat_flow *flow, u64 meta, const struct packet *packet)
{
    const struct flow *of = &packet->flow;
    return !(meta & UDP_FLOW) == (of->protocol != UDP_PROTOCOL) && flow->target_port == of->client_port
        && flow->nat_port == of->group_port && flow->target_address.low == of->client.low
        && flow->target_address.high == of->client.high && flow->nat.low == of->group.low
        && flow->nat.high == of->group.high;
}

/* Who sent a packet. What takes one is inlined, and all that it decides is decided by the compiler. */
enum side { CLIENT, TARGET };

/* Whether a packet is of the flow in a slot. An entry that is being written may be its: who writes it
 * knows more. */
INLINE int read_flow(struct passage *passage, u32 slot, enum side side)
{
    const struct nat_flow *flow = map_lookup(&NAT_FLOWS, &slot);
    if (flow == 0)
        return NOT_TRANSLATED;
    u64 meta = *(volatile u64 *)&flow->meta;
    if (STAGE(meta) == WRITING)
        return UNSURE;
    const struct packet *packet = &passage->packet;
    if (!is_flow(meta) || !(side == CLIENT ? is_client(flow, meta, packet) : is_target(flow, meta, packet)))
        return NOT_TRANSLATED;
    passage->slot = slot;
    passage->meta = meta;
    passage->target = flow->target;
    if (side == CLIENT) {
        passage->created = flow->created;
        passage->notes = flow->notes;
        passage->from = flow->nat;
        passage->to = flow->target_address;
        passage->from_port = flow->nat_port;
        passage->to_port = flow->target_port;
    } else {
        passage->ingress = flow->ingress;
        passage->back = flow->back;
        passage->from = flow->group;
        passage->to = flow->client;
        passage->from_port = meta >> 16;
        passage->to_port = meta;
    }
    return still_is(flow, meta) ? TRANSLATED : UNSURE;
}

/* Finds the flow of a packet by the hint of its product, or in the bucket, from the cell `first` on. */
INLINE int find_flow(struct passage *passage, const struct cells *bucket, u64 product, u32 first, enum side side)
{
    u64 wanted = cell_of(product, 0);
    struct hints *hints = hints_of(product);
    if (bucket == 0 || hints == 0)
        return UNSURE;
    u64 cell = hint(hints, wanted);
#pragma clang loop unroll(disable)
    for (u32 step = 0; step <= CELLS; step++) {
        if (step > 0)
            cell = *(volatile u64 *)&bucket->cell[(first + step - 1) % CELLS];
        if (!has_tag(cell, wanted))
            continue;
        int found = read_flow(passage, (u32)cell - 1, side);
        if (step > 0 && found == TRANSLATED)
            keep_hint(hints, cell, passage->now);
        if (found != NOT_TRANSLATED)
            return found;
    }
    return NOT_TRANSLATED;
}

/* Finds the flow of a client's packet. Its own function, so that it is verified once, as others below. */
__attribute__((noinline)) int flow_of_client(struct passage *passage)
{
    if (passage == 0)
        return UNSURE;
    u64 product = client_product(passage->hash);
    u32 index = bucket_of(product);
    return find_flow(passage, map_lookup(&NAT_FORWARD, &index), product, first_cell(product), CLIENT);
}

/* Finds the flow of a target's packet. */
__attribute__((noinline)) int flow_of_target(struct passage *passage)
{
    if (passage == 0)
        return UNSURE;
    const struct flow *of = &passage->packet.flow;
    u64 product = target_product(address_product(&of->client), of->client_port, of->group_port, of->protocol);
    u32 index = bucket_of(product);
    return find_flow(passage, map_lookup(&NAT_REVERSE, &index), product, 0, TARGET);
}

/* Whether a segment may open a flow: a SYN that acknowledges nothing. Any datagram may. */
INLINE int opens(const struct packet *packet)
{
    u8 flags = packet->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN);
    return packet->flow.protocol == UDP_PROTOCOL || flags == TCP_SYN;
}

/* The live target of a handle. */
INLINE struct target *live_target(u64 handle)
{
    u32 index = handle;
    struct target *target = map_lookup(&TARGETS, &index);
    return target != 0 && target->live && target->generation == handle >> 32 ? target : 0;
}

/* Tells user space to look at the flow, with NEWS_ANSWERED if this packet is its first answer. */
INLINE void tell_of(const struct passage *passage, u64 news)
{
    u64 told = passage->meta >> 48 << 32 | passage->slot | news;
    ringbuf_output(&FLOWS, &told, sizeof told, 0);
}

#endif
