/* A new flow: a slot for its entry, a NAT port, and its cells. What is done here, and in which order, user
 * space does in src/flow/nat/. */
#ifndef PIAS_OPEN_H
#define PIAS_OPEN_H

#include "nat.h"

enum { NO_SLOT = 0xFFFFFFFF, TAKE_TRIES = 4 };

/* Takes an entry from all others, who leave it alone until it is published: its meta then, or 0 if it is not
 * as it was `seen`. */
INLINE u64 claim(struct nat_flow *flow, u64 seen)
{
    u64 claimed = ((seen & VERSIONS) + VERSION) | (u64)WRITING << STAGE_AT;
    return __sync_val_compare_and_swap(&flow->meta, seen, claimed) == seen ? claimed : 0;
}

/* Puts a cell in, unless one is there, or comes at the same time, that has its tag, too. */
__attribute__((noinline)) int put_cell(struct cells *bucket, u64 cell, u32 first)
{
    u32 free = CELLS;
    if (bucket == 0)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 step = 0; step < CELLS; step++) {
        u32 at = (first + step) % CELLS;
        u64 other = *(volatile u64 *)&bucket->cell[at];
        if (has_tag(other, cell))
            return 0;
        if (other == 0 && free == CELLS)
            free = at;
    }
    if (free == CELLS)
        return 0;
    u64 *place = &bucket->cell[free % CELLS];
    if (__sync_val_compare_and_swap(place, 0, cell) != 0)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < CELLS; at++) {
        u64 other = *(volatile u64 *)&bucket->cell[at];
        if (other != cell && has_tag(other, cell)) {
            __sync_val_compare_and_swap(place, cell, 0);
            return 0;
        }
    }
    return 1;
}

/* Takes a cell out, if it is in. */
__attribute__((noinline)) int take_cell(struct cells *bucket, u64 cell)
{
    if (bucket == 0)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < CELLS; at++)
        if (__sync_val_compare_and_swap(&bucket->cell[at], cell, 0) == cell)
            return 1;
    return 0;
}

INLINE void unlink_client(u64 hash, u32 slot)
{
    u64 product = client_product(hash);
    u32 index = bucket_of(product);
    take_cell(map_lookup(&NAT_FORWARD, &index), cell_of(product, slot));
}

INLINE void unlink_target(const struct nat_flow *flow, u8 protocol, u32 slot)
{
    u64 address = address_product(&flow->target_address);
    u64 product = target_product(address, flow->target_port, flow->nat_port, protocol);
    u32 index = bucket_of(product);
    take_cell(map_lookup(&NAT_REVERSE, &index), cell_of(product, slot));
}

/* Takes a slot that nobody uses, if there is one. */
INLINE u32 take_slot(struct nat_state *state)
{
#pragma clang loop unroll(disable)
    for (u32 try = 0; try < TAKE_TRIES; try++) {
        u64 taken = *(volatile u64 *)&state->taken;
        if (taken == *(volatile u64 *)&state->given)
            break;
        u32 place = taken & CONFIG.nat_free_mask;
        const u64 *free = map_lookup(&NAT_FREE, &place);
        if (free == 0)
            break;
        u32 slot = *(const volatile u64 *)free;
        if (__sync_val_compare_and_swap(&state->taken, taken, taken + 1) == taken)
            return slot;
    }
#pragma clang loop unroll(disable)
    for (u32 try = 0; try < TAKE_TRIES; try++) {
        u64 fresh = *(volatile u64 *)&state->fresh;
        if (fresh >= CONFIG.nat_flows)
            break;
        if (__sync_val_compare_and_swap(&state->fresh, fresh, fresh + 1) == fresh)
            return fresh;
    }
    return NO_SLOT;
}

/* A flow that may be given up for another is looked for. */
struct search {
    u64 next;
    u64 fresh;
    u32 now;
    u32 compared;
    /* Whether only embryonic ones may be. */
    u32 embryonic;
    /* The one that will be missed least so far. */
    u32 slot;
    u64 meta;
    u64 missed;
};

/* How little a flow will be missed: the kind first, then how long it has been idle; 0 where it stays. */
INLINE u64 missed(const struct nat_flow *flow, u64 meta, const struct search *search)
{
    if (!is_flow(meta) || STAGE(meta) == OPEN || (search->embryonic && meta & SETTLED))
        return 0;
    u64 rank = STAGE(meta) == CLOSING ? 3 : meta & SETTLED ? 1 : 2;
    /* Who wrote last may have had a later time. */
    u32 idle = (int)(search->now - flow->last) > 0 ? search->now - flow->last : 0;
    return rank << 32 | idle;
}

/* A step of a loop that the verifier follows once. 1 ends it. */
static long look_at(u32 step, struct search *search)
{
    u32 slot = search->next;
    const struct nat_flow *flow = map_lookup(&NAT_FLOWS, &slot);
    if (flow == 0 || step >= EVICTION_LOOK)
        return 1;
    u64 meta = *(volatile u64 *)&flow->meta, missed_by = missed(flow, meta, search);
    if (missed_by > search->missed) {
        search->missed = missed_by;
        search->slot = slot;
        search->meta = meta;
    }
    search->compared += missed_by != 0;
    search->next = search->next + 1 < search->fresh ? search->next + 1 : 0;
    return search->compared >= EVICTION_SAMPLE;
}

/* Claims the entry of the flow of a few that will be missed least, and gives that flow up. */
__attribute__((noinline)) int claim_victim(struct passage *passage, u64 fresh, int embryonic)
{
    u32 zero = 0;
    struct nat_state *state = map_lookup(&NAT_STATE, &zero);
    if (passage == 0 || state == 0 || fresh == 0)
        return 0;
    struct search search = {
        .next = (client_product(passage->hash) >> 8) % fresh,
        .fresh = fresh,
        .now = passage->now,
        .embryonic = embryonic,
    };
    loop(fresh < EVICTION_LOOK ? fresh : EVICTION_LOOK, look_at, &search, 0);
    struct nat_flow *flow = map_lookup(&NAT_FLOWS, &search.slot);
    if (search.missed == 0 || flow == 0)
        return 0;
    passage->slot = search.slot;
    passage->meta = claim(flow, search.meta);
    if (passage->meta == 0)
        return 0;
    unlink_client(flow->hash, search.slot);
    unlink_target(flow, search.meta & UDP_FLOW ? UDP_PROTOCOL : TCP_PROTOCOL, search.slot);
    if (!(search.meta & SETTLED))
        __sync_fetch_and_add(&state->embryonic, -1);
    count(PATH_FLOW_EVICTED);
    return 1;
}

/* Claims the entry of a slot that is at this stage. */
INLINE int claim_slot(struct passage *passage, u32 slot, u8 stage)
{
    struct nat_flow *flow = map_lookup(&NAT_FLOWS, &slot);
    if (flow == 0)
        return 0;
    u64 seen = *(volatile u64 *)&flow->meta;
    passage->slot = slot;
    passage->meta = STAGE(seen) == stage ? claim(flow, seen) : 0;
    return passage->meta != 0;
}

/* Claims an entry for a new flow: that of a free slot, or that of a flow that is given up. */
INLINE int claim_room(struct passage *passage, struct nat_state *state)
{
    u64 returned = *(volatile u64 *)&state->returned;
    if (UNLIKELY(returned != 0) && __sync_val_compare_and_swap(&state->returned, returned, 0) == returned
        && claim_slot(passage, returned - 1, RETURNED))
        return 1;
    int flooded = (long)*(volatile u64 *)&state->embryonic >= (long)CONFIG.nat_embryonic;
    u32 slot = flooded ? NO_SLOT : take_slot(state);
    if (slot == NO_SLOT)
        return claim_victim(passage, *(volatile u64 *)&state->fresh, flooded);
    return claim_slot(passage, slot, FREE);
}

/* A NAT port is looked for. */
struct port_search {
    u64 start;
    /* The product of the target's address. */
    u64 address;
    u32 slot;
    u16 target_port;
    /* 0 until there is one. */
    u16 port;
    u8 protocol;
};

static long try_port(u32 step, struct port_search *search)
{
    u16 port = be16((u16)(FIRST_FLOW_PORT + (search->start + step) % FLOW_PORTS));
    u64 product = target_product(search->address, search->target_port, port, search->protocol);
    u32 index = bucket_of(product);
    if (!put_cell(map_lookup(&NAT_REVERSE, &index), cell_of(product, search->slot), 0))
        return 0;
    search->port = port;
    return 1;
}

/* Takes a port that no flow to the target has. The start is hashed (RFC 6056 section 3.3.3), so that nobody
 * guesses it from another's. */
__attribute__((noinline)) int take_port(struct passage *passage)
{
    if (passage == 0)
        return 0;
    struct port_search search = {
        .start = mix(passage->hash, CONFIG.seed) % FLOW_PORTS,
        .address = address_product(&passage->to),
        .slot = passage->slot,
        .target_port = passage->to_port,
        .protocol = passage->packet.flow.protocol,
    };
    loop(PORT_SAMPLE, try_port, &search, 0);
    passage->from_port = search.port;
    return search.port != 0;
}

INLINE void write_flow(struct nat_flow *flow, const struct passage *passage)
{
    flow->client = passage->packet.flow.client;
    flow->group = passage->packet.flow.group;
    flow->target = passage->target;
    flow->created = passage->now;
    flow->last = passage->now;
    flow->hash = passage->hash;
    flow->target_address = passage->to;
    flow->nat = passage->from;
    flow->target_port = passage->to_port;
    flow->nat_port = passage->from_port;
    flow->notes = 0;
    flow->ingress = passage->ingress;
    flow->lease = passage->lease;
    flow->pinned = 0;
    flow->back = 0;
}

/* Leaves a claimed entry to the next flow, or to user space, which gives its slot back. While flows fail one
 * after the other, because a target has no port left, they use one slot. */
INLINE void leave_flow(struct nat_flow *flow, u64 claimed, struct nat_state *state, u32 slot)
{
    __sync_lock_test_and_set(&flow->meta, (claimed & VERSIONS) | (u64)RETURNED << STAGE_AT);
    __sync_val_compare_and_swap(&state->returned, 0, (u64)slot + 1);
}

/* Begins the flow of a passage, whose ends but for the NAT port are known. Fails where user space has to make
 * room, or to find out who else began it. */
__attribute__((noinline)) int open_flow(struct passage *passage)
{
    u32 zero = 0;
    struct nat_state *state = map_lookup(&NAT_STATE, &zero);
    if (passage == 0 || state == 0 || !claim_room(passage, state))
        return 0;
    u32 slot = passage->slot;
    u64 claimed = passage->meta, product = client_product(passage->hash);
    struct nat_flow *flow = map_lookup(&NAT_FLOWS, &slot);
    if (flow == 0)
        return 0;
    if (!take_port(passage)) {
        leave_flow(flow, claimed, state, slot);
        return 0;
    }
    write_flow(flow, passage);
    const struct flow *of = &passage->packet.flow;
    u32 index = bucket_of(product);
    if (!put_cell(map_lookup(&NAT_FORWARD, &index), cell_of(product, slot), first_cell(product))) {
        unlink_target(flow, of->protocol, slot);
        leave_flow(flow, claimed, state, slot);
        return 0;
    }
    __sync_fetch_and_add(&state->embryonic, 1);
    int udp = of->protocol == UDP_PROTOCOL;
    passage->meta = (claimed & VERSIONS) | (u64)(udp ? DATAGRAMS : OPENING) << STAGE_AT
                    | (udp ? UDP_FLOW : 0) | (u64)of->group_port << 16 | of->client_port;
    /* An exchange, so that the words above are seen before it. */
    __sync_lock_test_and_set(&flow->meta, passage->meta);
    return 1;
}

#endif
