/* As a JAP: a target's packet back to the client, straight, and not by the ingress. */
#ifndef PIAS_RETURNING_H
#define PIAS_RETURNING_H

#include "back.h"
#include "hear.h"
#include "nat.h"
#include "ours.h"
#include "translate.h"
#include "tunnel.h"

enum {
    /* Hops that the way to a client takes: into this proxy, through it, and on. */
    HOPS_TO_CLIENT = 3,
    /* Octets of the option that a tunnel packet may have. */
    GENEVE_OPTION = 24,
};

INLINE u32 less(u32 from, u32 amount)
{
    return from > amount ? from - amount : 0;
}

/* The largest segment that a client may send so that it fits into the tunnel from where its flow enters. */
INLINE u16 most_segment(const struct passage *passage)
{
    const struct peer *peer = live_peer(passage->ingress, passage->ingress >> 32);
    u32 inner = peer != 0 ? less(peer->mtu, overhead(peer->v6) + GENEVE_OPTION) : CONFIG.own_inner_mtu;
    return less(inner, TCP + (passage->packet.v6 ? IPV6 : IPV4));
}

/* Finds out how the packet of a passage gets to its client. */
INLINE int find_way_back(struct xdp_md *ctx, struct passage *passage)
{
    u32 ifindex = passage->ifindex;
    const struct packet *packet = &passage->packet;
    if (UNLIKELY(!recall_back(passage))) {
        struct route route = {
            .source = passage->from,
            .destination = passage->to,
            .source_port = passage->from_port,
            .destination_port = passage->to_port,
            .length = packet->length,
            .protocol = packet->flow.protocol,
            .v6 = packet->v6,
        };
        if (!resolve_hop(ctx, &route, &passage->hop))
            return 0;
        keep_back(passage);
    }
    const struct device *device = map_lookup(&DEVICE, &ifindex);
    if (packet->length > passage->hop.mtu || device == 0)
        return 0;
    passage->way = way_out(ctx, device, passage->hop.ifindex);
    return passage->way != XDP_PASS;
}

/* Gives a packet to a NAT address back to its client. What is passed up is as it came, and nothing is noted
 * of it. Its own function, so that it is verified once. */
__attribute__((noinline)) int target_sent_back(struct xdp_md *ctx, struct passage *passage)
{
    if (passage == 0 || passage->packet.ttl <= HOPS_TO_CLIENT || is_ours(&passage->packet.flow.client)
        || flow_of_target(passage) != TRANSLATED)
        return XDP_PASS;
    /* A refusal: user space holds it against the target. */
    if (!(passage->meta & ANSWERED) && passage->packet.flags & TCP_RST)
        return XDP_PASS;
    if (!is_one_family(passage) || !find_way_back(ctx, passage))
        return XDP_PASS;
    if (passage->packet.flags & TCP_SYN)
        passage->most = most_segment(passage);
    hear_target(passage);
    count(PATH_JOIN_RETURN);
    return send_translated(ctx, passage, HOPS_TO_CLIENT);
}

#endif
