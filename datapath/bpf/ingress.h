/* What comes in: a client's packet goes to where it is pinned, where it is translated, or where its hash places
 * it; other proxies' and targets' packets are the JAP's. */
#ifndef PIAS_INGRESS_H
#define PIAS_INGRESS_H

#include "echo.h"
#include "join.h"
#include "maps.h"
#include "ours.h"
#include "packet.h"
#include "pins.h"
#include "place.h"
#include "returning.h"
#include "tunnel.h"

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
    if (best.weight == 0)
        return 0;
    query->peer = best.peer | (u64)best.generation << 32;
    report_use(group, &key, query->now);
    return 1;
}

/* What is said of a packet beside XDP's verdicts: nothing is known of it as a client's, or join() is to have it,
 * its flow being so found. */
enum { NOT_PLACED = 15, JOINS = 16 };

/* A client's packet. Its own function, for the sake of its stack. */
static __attribute__((noinline)) int enter(struct xdp_md *ctx, struct passage *passage, const struct state *state,
                                           const struct device *device)
{
    const struct packet *packet = &passage->packet;
    struct query query = {
        .flow = packet->flow,
        .flags = packet->flags,
        .now = state->now,
        .hash = flow_hash(&packet->flow),
    };
    struct pin_place pins = pin_place(query.hash, state);
    int found = pin_find(&query, &pins);
    if (UNLIKELY(found == BEING_PINNED))
        return XDP_PASS;
    if (found == NOT_PINNED) {
        passage->hash = query.hash;
        int here = flow_of_client(passage);
        if (here == NOT_TRANSLATED && !place(&query))
            return NOT_PLACED;
        if (here != NOT_TRANSLATED || (u32)query.peer == HERE)
            return JOINS + here;
    }
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

/* A packet that may be of a flow: to this proxy itself, of a target or of another proxy; or a client's. */
INLINE int forward(struct xdp_md *ctx, struct passage *passage, const struct state *state,
                   const struct device *device)
{
    if (is_tunnelled(&passage->packet))
        return peer_sent(ctx, passage);
    if (is_nat(&passage->packet.flow.group))
        return target_sent_back(ctx, passage);
    int next = enter(ctx, passage, state, device);
    if (next >= JOINS)
        return join(ctx, passage, next - JOINS);
    if (next != NOT_PLACED)
        return next;
    /* Flows of mates that are gone: seldom are they so many that another lookup matters. */
    return map_lookup(&STOOD_FOR, &passage->packet.flow.group) != 0 ? target_sent_back(ctx, passage) : XDP_PASS;
}

/* A frame without a tag, that came in by this interface, or by the VLAN's device of this index. */
INLINE int handle(struct xdp_md *ctx, struct state *state, const struct device *device, u32 ifindex)
{
    struct passage *passage = begin_passage(state, ifindex);
    int verdict = XDP_PASS;
    if (LIKELY(passage != 0 && read_packet(&passage->packet, ctx, device)))
        verdict = forward(ctx, passage, state, device);
    return LIKELY(verdict != XDP_PASS) ? verdict : pass_up(ctx, state, device);
}

/* Whether what stands in the tables may be used: where piasd is gone, nobody keeps them true. The coarse clock
 * takes 13 ns to read, so that is done once for all packets until piasd puts the end off. */
INLINE int in_time(struct state *state)
{
    u64 until = *(volatile u64 *)&state->until;
    if (UNLIKELY(state->until_read != until)) {
        u64 now = coarse_clock();
        state->until_jiffies = until > now ? jiffies() + (until - now) / CONFIG.jiffy : 0;
        /* An exchange, so that the word above is seen before it. */
        __sync_lock_test_and_set(&state->until_read, until);
    }
    return jiffies() <= state->until_jiffies;
}

INLINE int ingress(struct xdp_md *ctx)
{
    u32 zero = 0;
    struct state *state = map_lookup(&STATE, &zero);
    if (state == 0 || !in_time(state))
        return XDP_PASS;
    struct entrance entrance = {.ifindex = ctx->ingress_ifindex};
    if (!pop_tag(ctx, &entrance))
        return XDP_ABORTED;
    const struct device *device = map_lookup(&DEVICE, &entrance.ifindex);
    int verdict = device != 0 ? handle(ctx, state, device, entrance.ifindex) : XDP_PASS;
    if (LIKELY(!entrance.tagged) || verdict != XDP_PASS)
        return verdict;
    return push_tag(ctx, entrance.control) ? XDP_PASS : XDP_ABORTED;
}

#endif
