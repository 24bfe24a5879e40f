/* The flows that entered here, and their JAPs. One table with user space, which documents its layout
 * and how entries are claimed: src/flow/ingress.rs. */
#ifndef PIAS_PINS_H
#define PIAS_PINS_H

#include "maps.h"
#include "packet.h"

/* The stage of an entry, and where it is in its meta word. */
enum { FREE, DATAGRAMS, OPENING, OPEN, CLOSING, WRITING = 255 };
#define STAGE_AT 40
#define STAGE(meta) ((u8)((meta) >> STAGE_AT))
#define STAGES (0xFFULL << STAGE_AT)
#define PORTS ((1ULL << STAGE_AT) - 1)
#define VERSIONS (0xFFFFULL << 48)
#define VERSION (1ULL << 48)

/* The ports and the protocol of a flow, as in the lower 40 bits of a meta word. */
INLINE u64 pin_ports(const struct flow *flow)
{
    return flow->client_port | (u64)flow->group_port << 16 | (u64)flow->protocol << 32;
}

/* The place of a flow. */
struct pin_place {
    u32 bucket;
    u32 first;
    /* Whether it may still be where it was before the table grew, and which bucket that is. */
    u32 moving;
    u32 before;
};

INLINE struct pin_place pin_place(u64 hash, const struct state *state)
{
    u64 product = hash * CONFIG.seed;
    u32 buckets = 1 << (state->bucket_bits & 31), half = buckets >> 1;
    u32 bucket = product >> 32 & (buckets - 1);
    struct pin_place place = {
        .bucket = bucket,
        .first = (product >> 16) % WAYS,
        .moving = state->splitting && bucket & half,
        .before = bucket & ~half,
    };
    return place;
}

/* Whether an entry is of this flow. */
INLINE int pin_is(const struct pin *pin, u64 meta, const struct flow *flow, u64 ports)
{
    return (meta & PORTS) == ports && pin->client.low == flow->client.low
        && pin->group.low == flow->group.low && pin->client.high == flow->client.high
        && pin->group.high == flow->group.high;
}

/* How far the flow has come with a packet of these TCP flags. */
INLINE u8 next_stage(u8 stage, u8 flags)
{
    if (stage == DATAGRAMS)
        return stage;
    if (flags & (TCP_FIN | TCP_RST))
        return CLOSING;
    if (flags & TCP_SYN)
        return OPENING;
    return stage == OPENING ? OPEN : stage;
}

/* Notes a packet. Who loses a race against another writer lets it be. */
INLINE void pin_touch(struct pin *pin, u64 meta, u8 flags, u32 now)
{
    if (pin->last != now)
        pin->last = now;
    u8 stage = STAGE(meta), next = next_stage(stage, flags);
    if (UNLIKELY(next != stage))
        __sync_val_compare_and_swap(&pin->meta, meta, (meta & ~STAGES) | (u64)next << STAGE_AT);
}

/* One second, in ticks. */
enum { SECOND = 61 };

/* Whether a mate may have told of a flow. */
INLINE int is_elsewhere(u64 hash)
{
    u32 slot = hash >> (64 - ELSEWHERE_BITS) >> 6;
    const struct elsewhere *elsewhere = map_lookup(&ELSEWHERE, &slot);
    return elsewhere == 0 || elsewhere->counters[(hash >> (64 - ELSEWHERE_BITS)) % ELSEWHERE_SLOT] != 0;
}

enum { NOT_PINNED, PINNED, BEING_PINNED };

/* A flow, and its JAP's handle once that is known. */
struct query {
    struct flow flow;
    u8 flags;
    u32 now;
    u64 hash;
    u64 peer;
};

/* Finds the JAP of a flow in a bucket. An entry that is being written may be this flow's: who writes it
 * knows more. Its own function, so that it is verified once. */
__attribute__((noinline)) int find_in(struct query *query, u32 index, u32 first)
{
    struct bucket *bucket = map_lookup(&PINS, &index);
    if (query == 0 || bucket == 0)
        return NOT_PINNED;
    u64 ports = pin_ports(&query->flow);
#pragma clang loop unroll(disable)
    for (u32 step = 0; step < WAYS; step++) {
        struct pin *pin = &bucket->ways[(first + step) % WAYS];
        if (pin->hash != query->hash)
            continue;
        u64 meta = *(volatile u64 *)&pin->meta;
        u8 stage = STAGE(meta);
        if (stage == WRITING)
            return BEING_PINNED;
        if (stage == FREE || !pin_is(pin, meta, &query->flow, ports))
            continue;
        query->peer = pin->peer;
        if ((*(volatile u64 *)&pin->meta ^ meta) & VERSIONS)
            return BEING_PINNED;
        pin_touch(pin, meta, query->flags, query->now);
        return PINNED;
    }
    return NOT_PINNED;
}

/* Finds the JAP of a flow. */
INLINE int pin_find(struct query *query, const struct pin_place *place)
{
    int found = find_in(query, place->bucket, place->first);
    if (UNLIKELY(found == NOT_PINNED && place->moving))
        found = find_in(query, place->before, place->first);
    return found;
}

/* How little an entry will be missed: those that are opening or closing first, then by how long they
 * were idle. Free entries first of all. */
INLINE u64 expendable(u64 meta, u32 last, u32 now)
{
    u8 stage = STAGE(meta);
    if (stage == FREE)
        return 1ULL << 34;
    if (stage == WRITING)
        return 0;
    /* Who wrote last may have had a later time. */
    u32 idle = (int)(now - last) > 0 ? now - last : 0;
    return 1 + (u64)idle + (stage == OPENING || stage == CLOSING ? 1ULL << 33 : 0);
}

INLINE void count_pinned(void)
{
    u32 zero = 0;
    struct state *state = map_lookup(&STATE, &zero);
    if (state != 0)
        __sync_fetch_and_add(&state->pinned, 1);
}

/* Pins the flow of a query, in a free entry or in place of the one that will be missed least. Its own
 * function, so that it is verified once. */
__attribute__((noinline)) int pin_flow(struct query *query, u32 index, u32 first)
{
    struct bucket *bucket = map_lookup(&PINS, &index);
    u64 most = 0;
    u32 chosen = 0;
    if (query == 0 || bucket == 0)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 step = 0; step < WAYS; step++) {
        u32 way = (first + step) % WAYS;
        struct pin *pin = &bucket->ways[way];
        u64 missed = expendable(pin->meta, pin->last, query->now);
        if (missed > most) {
            most = missed;
            chosen = way;
        }
        if (missed >> 34)
            break;
    }
    struct pin *pin = &bucket->ways[chosen % WAYS];
    u64 seen = *(volatile u64 *)&pin->meta;
    u64 claimed = ((seen & VERSIONS) + VERSION) | (u64)WRITING << STAGE_AT;
    /* Whoever was faster may have it: this flow is pinned with its next packet. */
    if (STAGE(seen) == WRITING || __sync_val_compare_and_swap(&pin->meta, seen, claimed) != seen)
        return 0;
    pin->client = query->flow.client;
    pin->group = query->flow.group;
    pin->peer = query->peer;
    pin->created = query->now;
    pin->last = query->now;
    pin->hash = query->hash;
    u8 stage = query->flow.protocol == UDP_PROTOCOL ? DATAGRAMS : OPENING;
    u64 meta = (claimed & VERSIONS) | (u64)stage << STAGE_AT | pin_ports(&query->flow);
    /* An exchange, so that the words above are seen before it. */
    __sync_lock_test_and_set(&pin->meta, meta);
    if (STAGE(seen) != FREE)
        count(PATH_FLOW_EVICTED);
    else
        count_pinned();
    return 1;
}

#endif
