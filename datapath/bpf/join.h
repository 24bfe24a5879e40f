/* As a JAP: a client's packet, which entered here or which another proxy sent, to its target.
 *
 *   │ Ethernet 14 │ IPv4 20 or IPv6 40 │ UDP 8 │ Geneve 8 │ a client's packet │
 *   └──────────────────── outer headers, cut ─────────────┘
 */
#ifndef PIAS_JOIN_H
#define PIAS_JOIN_H

#include "hear.h"
#include "nat.h"
#include "open.h"
#include "ours.h"
#include "pins.h"
#include "place.h"
#include "translate.h"
#include "tunnel.h"

enum {
    /* Hops that the way to a target takes: into this proxy, and on from it. */
    HOPS_TO_TARGET = 2,
    /* Ticks within which a client's second packet is the twin of its first. */
    PAIR_WITHIN = 2,
    GENEVE_OAM = 0x80,
};

/* Whether a packet is for the tunnel of this proxy. */
INLINE int is_tunnelled(const struct packet *packet)
{
    return packet->flow.group_port == be16(GENEVE_PORT) && packet->flow.protocol == UDP_PROTOCOL
        && is_same(&packet->flow.group, &CONFIG.unicast[packet->v6 != 0]);
}

/* The target of a flow that is known, where that goes on and XDP may say so. */
INLINE struct target *goes_on(const struct passage *passage)
{
    u64 meta = passage->meta;
    if (STAGE(meta) == CLOSING && opens(&passage->packet))
        return 0;
    /* The client sent again: user space holds that against the target, once. */
    if (!(meta & ANSWERED) && !(passage->notes & JUDGED)
        && (int)(passage->now - passage->created) >= PAIR_WITHIN)
        return 0;
    struct target *target = live_target(passage->target);
    int is_there = target != 0 && is_same(&passage->to, &target->address);
    return is_there ? target : 0;
}

/* A draw among the targets of a group, part by part. */
struct target_drawing {
    struct group_key key;
    struct drawing drawing;
};

/* A step of it. 1 ends it. */
static long draw_next(u32 at, struct target_drawing *among)
{
    u32 place = at % MAX_CANDIDATES;
    if (place == 0) {
        among->key.part = at / MAX_CANDIDATES;
        among->drawing.group = map_lookup(&JOINED, &among->key);
    }
    const struct group *group = among->drawing.group;
    if (group == 0 || place >= group->count)
        return 1;
    consider(&among->drawing, &group->candidates[place]);
    return 0;
}

/* Draws a target among those of a group: the index of its handle below, its generation above, NO_HANDLE where
 * there is none. Its own function, for the sake of its stack. */
__attribute__((noinline)) u64 draw_target(struct passage *passage)
{
    if (passage == 0)
        return NO_HANDLE;
    const struct flow *flow = &passage->packet.flow;
    struct target_drawing among = {
        .key = {.address = flow->group, .port = flow->group_port, .protocol = flow->protocol},
        .drawing = {.flow = passage->hash, .best = {.peer = HERE, .generation = HERE}},
    };
    loop(TARGETS_DRAWN, draw_next, &among, 0);
    return among.drawing.best.peer | (u64)among.drawing.best.generation << 32;
}

/* Whether a client may begin a flow to a group here at all. */
INLINE int is_clients(const struct flow *flow)
{
    int registers = flow->group_port == be16(PIAS_PORT) && flow->protocol == UDP_PROTOCOL;
    return !registers && is_anycast(&flow->group) && !is_ours(&flow->client);
}

/* Chooses a target for a flow that is new, and its ends but for the port. */
INLINE struct target *choose(struct passage *passage)
{
    const struct packet *packet = &passage->packet;
    if (!opens(packet) || !is_clients(&packet->flow) || is_elsewhere(passage->hash)
        || !own_nat(packet->v6 != 0, &passage->from))
        return 0;
    passage->target = draw_target(passage);
    struct target *target = live_target(passage->target);
    if (target == 0)
        return 0;
    passage->lease = target->lease;
    passage->to = target->address;
    passage->to_port = target->port;
    /* Who is a target must not get its own packets; user space knows another. */
    return is_same(&packet->flow.client, &target->address) ? 0 : target;
}

/* Finds out how the packet of a passage gets to its target. */
INLINE int find_way(struct xdp_md *ctx, struct passage *passage, struct target *target)
{
    u32 ifindex = passage->ifindex;
    const struct packet *packet = &passage->packet;
    struct hop *hop = &passage->hop;
    if (UNLIKELY(!recall_hop(&target->hop, passage->epoch, hop))) {
        struct route route = {
            .source = passage->from,
            .destination = passage->to,
            .destination_port = passage->to_port,
            .length = packet->length,
            .protocol = packet->flow.protocol,
            .v6 = packet->v6,
        };
        if (!learn_hop(ctx, &target->hop, passage->epoch, &route, hop))
            return 0;
    }
    const struct device *device = map_lookup(&DEVICE, &ifindex);
    if (packet->length > hop->mtu || device == 0)
        return 0;
    passage->way = way_out(ctx, device, hop->ifindex);
    return passage->way != XDP_PASS;
}

INLINE int open(struct passage *passage, struct target *target)
{
    if (!open_flow(passage))
        return 0;
    if (target->told_new != passage->now) {
        target->told_new = passage->now;
        tell_of(passage, 0);
    }
    return 1;
}

/* Delivers a client's packet, whose flow was `found` or was not. What is passed up is as it came, and nothing
 * is noted of it. Its own function, so that it is verified once. */
__attribute__((noinline)) int join(struct xdp_md *ctx, struct passage *passage, int found)
{
    if (passage == 0 || found == UNSURE || passage->packet.ttl <= HOPS_TO_TARGET)
        return XDP_PASS;
    struct target *target = found == TRANSLATED ? goes_on(passage) : choose(passage);
    if (target == 0 || !is_one_family(passage) || !find_way(ctx, passage, target))
        return XDP_PASS;
    if (found == TRANSLATED)
        hear_client(passage);
    else if (!open(passage, target))
        return XDP_PASS;
    if (passage->ingress == NO_HANDLE)
        count(PATH_INGRESS_LOCAL);
    count(PATH_JOIN_DELIVER);
    return send_translated(ctx, passage, HOPS_TO_TARGET);
}

/* Handles of peers that sent last, by a part of a hash of where from. */
enum { SENDERS_MOST = 256 };

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, SENDERS_MOST);
    TYPE(key, u32);
    TYPE(value, u64);
} SENDERS SEC(".maps");

/* The handle of the live peer whose endpoint this is; NO_HANDLE where there is none. Mostly it is the one that is
 * remembered, and its own entry says so: that saves a lookup by address. */
INLINE u64 peer_at(const struct address *endpoint)
{
    u32 place = fold(endpoint->high ^ SECRET_0, endpoint->low ^ SECRET_8) % SENDERS_MOST;
    u64 *last = map_lookup(&SENDERS, &place);
    if (last == 0)
        return NO_HANDLE;
    u64 handle = *(volatile u64 *)last;
    const struct peer *peer = live_peer(handle, handle >> 32);
    if (LIKELY(peer != 0 && is_same(endpoint, &peer->tunnel)))
        return handle;
    const u64 *known = map_lookup(&TUNNELS, endpoint);
    if (known == 0 || live_peer(*known, *known >> 32) == 0)
        return NO_HANDLE;
    *(volatile u64 *)last = *known;
    return *known;
}

/* Reads the packet that a peer sent in place of the outer one. What has an option is for user space, which
 * then resolves, or pins, or knows another ingress. The outer UDP checksum is not looked at: those inside are
 * kept as they came, and whoever gets the packet verifies them. Its own function, so that it is verified
 * once. */
__attribute__((noinline)) int unwrap(struct xdp_md *ctx, struct passage *passage)
{
    if (passage == 0)
        return 0;
    struct packet *packet = &passage->packet;
    struct address sender = packet->flow.client;
    u64 handle = peer_at(&sender);
    u32 at = ETHERNET + (packet->v6 ? IPV6 : IPV4) + UDP;
    u32 room = packet->length - overhead(packet->v6);
    const struct geneve *geneve = (void *)(long)ctx->data + at;
    if (handle == NO_HANDLE || room > packet->length
        || (void *)(geneve + 1) > (void *)(long)ctx->data_end)
        return 0;
    /* Version 0, and no options. */
    if (geneve->version_options != 0 || geneve->flags & GENEVE_OAM)
        return 0;
    passage->ingress = handle;
    passage->at = at + sizeof *geneve;
    if (geneve->protocol == ETHERTYPE_IPV4)
        return read_ipv4(packet, ctx, passage->at, room);
    if (geneve->protocol == ETHERTYPE_IPV6)
        return read_ipv6(packet, ctx, passage->at, room);
    return 0;
}

/* A packet in the tunnel to this proxy. */
INLINE int peer_sent(struct xdp_md *ctx, struct passage *passage)
{
    if (!unwrap(ctx, passage))
        return XDP_PASS;
    passage->hash = flow_hash(&passage->packet.flow);
    return join(ctx, passage, flow_of_client(passage));
}

#endif
