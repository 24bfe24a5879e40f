/* A client's packet that enters here: to where it is pinned, or to where its hash places it. */
#ifndef PIAS_INGRESS_H
#define PIAS_INGRESS_H

#include "maps.h"
#include "packet.h"
#include "pins.h"
#include "place.h"
#include "tunnel.h"

/* One second, in ticks. */
enum { SECOND = 61 };

/* Whether nobody sends from an address: it is anycast, or a NAT address of this proxy. */
INLINE int is_ours(const struct address *address)
{
    for (int at = 0; at < 2; at++)
        if (address->low == CONFIG.nat[at].low && address->high == CONFIG.nat[at].high)
            return 1;
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < MAX_PREFIXES && at < CONFIG.prefixes; at++)
        if ((address->low & CONFIG.mask[at].low) == CONFIG.network[at].low
            && (address->high & CONFIG.mask[at].high) == CONFIG.network[at].high)
            return 1;
    return 0;
}

/* Whether a flow may be known beside the pins. */
INLINE int is_elsewhere(u64 hash)
{
    u32 slot = hash >> (64 - ELSEWHERE_BITS) >> 6;
    const struct elsewhere *elsewhere = map_lookup(&ELSEWHERE, &slot);
    return elsewhere == 0 || elsewhere->counters[(hash >> (64 - ELSEWHERE_BITS)) % ELSEWHERE_SLOT] != 0;
}

/* The live peer of a handle. */
INLINE struct peer *live_peer(u32 index, u32 generation)
{
    struct peer *peer = map_lookup(&PEERS, &index);
    return peer != 0 && peer->live && peer->generation == generation ? peer : 0;
}

/* Tells user space that a group is used, at most once a second. */
INLINE void report_use(struct group *group, struct group_key *key, u32 now)
{
    if (group->used != 0 && now - group->used < SECOND)
        return;
    group->used = now | 1;
    ringbuf_output(&USED, key, sizeof *key, 0);
}

/* Draws the JAP of a flow that is not pinned. Fails where user space has the say. */
INLINE int place(struct query *query)
{
    struct group_key key = {
        .address = query->flow.group,
        .port = query->flow.group_port,
        .protocol = query->flow.protocol,
    };
    struct group *group = map_lookup(&GROUPS, &key);
    if (group == 0 || is_ours(&query->flow.client) || is_elsewhere(query->hash))
        return 0;
    struct draw best = draw(group, query->hash);
    if (best.peer == HERE)
        return 0;
    query->peer = best.peer | (u64)best.generation << 32;
    report_use(group, &key, query->now);
    return 1;
}

INLINE int enter(struct xdp_md *ctx, const struct packet *packet, const struct state *state,
                 const struct device *device)
{
    struct query query = {
        .flow = packet->flow,
        .flags = packet->flags,
        .now = state->now,
        .hash = flow_hash(&packet->flow),
    };
    struct pin_place pins = pin_place(query.hash, state);
    int found = pin_find(&query, &pins);
    if (UNLIKELY(found == BEING_PINNED) || (found == NOT_PINNED && !place(&query)))
        return XDP_PASS;
    /* User space knows who stands in for one that is gone. */
    struct peer *peer = live_peer(query.peer, query.peer >> 32);
    struct path path;
    if (peer == 0 || !find_path(ctx, packet, query.hash, peer, state->epoch, device, &path))
        return XDP_PASS;
    /* What is passed up is pinned there: this packet must not count twice. */
    if (found == NOT_PINNED)
        pin_flow(&query, pins.bucket, pins.first);
    return send_to_peer(ctx, packet, peer, &path);
}

INLINE int ingress(struct xdp_md *ctx)
{
    u32 zero = 0, ifindex = ctx->ingress_ifindex;
    const struct state *state = map_lookup(&STATE, &zero);
    const struct device *device = map_lookup(&DEVICE, &ifindex);
    struct packet packet = {};
    if (state == 0 || device == 0 || !read_packet(&packet, ctx, device))
        return XDP_PASS;
    return enter(ctx, &packet, state, device);
}

#endif
