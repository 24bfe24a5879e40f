/* Echo requests to anycast addresses: `Pipeline::echo`, and the kernel's way from the TUN device to the
 * network. What ICMP has else for a proxy are errors, which are passed up, and what it ignores. */
#ifndef PIAS_ECHO_H
#define PIAS_ECHO_H

#include "judge.h"
#include "tunnel.h"

enum { ECHO = 8, ECHO_REPLY = 0, ECHO_V6 = 128, ECHO_REPLY_V6 = 129 };
/* Of echo replies; a tick is 2^14 us, and ECHO_BURST of them take no longer than this many. */
enum { MILLIONTHS = 1000000, ECHO_TICK = ECHO_RATE << 14, ECHO_FULL = 64 };

/* Whether another echo is answered now: src/rate.rs, its time in ticks. Who loses a race has it answered in
 * user space. */
INLINE int spend_echo(struct state *state)
{
    u64 seen = *(volatile u64 *)&state->echoes;
    u32 now = state->now, passed = now - (u32)(seen >> 32);
    u64 level = (u32)seen, most = (u64)ECHO_BURST * MILLIONTHS;
    /* Nothing was ever taken of a full bucket. */
    level = seen == 0 || passed > ECHO_FULL ? most : level + (u64)passed * ECHO_TICK;
    level = level > most ? most : level;
    if (level < MILLIONTHS)
        return DROP_RATE_LIMITED;
    u64 left = (u64)now << 32 | (level - MILLIONTHS);
    return __sync_val_compare_and_swap(&state->echoes, seen, left) == seen ? GOES_ON : PASS_UP;
}

/* The checksum over a word that became another (RFC 1624), as src/checksum.rs has it. */
INLINE u16 changed_sum(u16 checksum, u16 old, u16 new)
{
    return ~fold_sum((u64)(u16)~checksum + (u16)~old + new);
}

/* Swaps the addresses, and gives the packet its full life less the hop that is taken off where it leaves. */
INLINE int turn_ipv4(struct ipv4 *ip, const void *end)
{
    struct icmp *icmp = (void *)(ip + 1);
    if ((void *)(icmp + 1) > end)
        return 0;
    decrement_ttl(ip, 0);
    u32 source = ip->source;
    ip->source = ip->destination;
    ip->destination = source;
    u16 *life = (u16 *)&ip->ttl, old = *life;
    ip->ttl = TUNNEL_TTL;
    ip->checksum = changed_sum(ip->checksum, old, *life);
    decrement_ttl(ip, 0);
    icmp->type = ECHO_REPLY;
    icmp->checksum = changed_sum(icmp->checksum, ECHO, ECHO_REPLY);
    return 1;
}

INLINE int turn_ipv6(struct ipv6 *ip, const void *end)
{
    struct icmp *icmp = (void *)(ip + 1);
    if ((void *)(icmp + 1) > end)
        return 0;
    struct address source = ip->source;
    ip->source = ip->destination;
    ip->destination = source;
    ip->hop_limit = TUNNEL_TTL - 1;
    icmp->type = ECHO_REPLY_V6;
    icmp->checksum = changed_sum(icmp->checksum, ECHO_V6, ECHO_REPLY_V6);
    return 1;
}

/* The reply in place of its request, with a short frame's padding and no more behind it. Fails where the
 * frame is as it should not be any more, which does not happen. */
INLINE int turn(struct xdp_md *ctx, const struct seen *seen, const struct hop *hop)
{
    if (!cut_tail(ctx, ETHERNET + seen->length))
        return 0;
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *ip = data + ETHERNET;
    if (ip + IPV4 > end)
        return 0;
    write_macs(data, hop->macs);
    if (!seen->v6)
        return turn_ipv4(ip, end);
    return ip + IPV6 <= end && turn_ipv6(ip, end);
}

/* Answers an echo request, where the way back is known. */
INLINE int echo(struct xdp_md *ctx, const struct seen *seen, struct state *state, const struct device *device)
{
    int allowed = spend_echo(state);
    if (allowed == DROP_RATE_LIMITED) {
        count(DROP_RATE_LIMITED);
        return XDP_DROP;
    }
    struct hop hop = {};
    struct route route = {
        .v6 = seen->v6,
        .protocol = seen->protocol,
        .length = seen->length,
        .source = seen->destination,
        .destination = seen->source,
    };
    /* With IP options user space has the say. */
    if (allowed != GOES_ON || seen->header != (seen->v6 ? IPV6 : IPV4) || !resolve_hop(ctx, &route, &hop)
        || seen->length > hop.mtu)
        return XDP_PASS;
    int way = way_out(ctx, device, hop.ifindex);
    if (way == XDP_PASS)
        return XDP_PASS;
    if (!turn(ctx, seen, &hop))
        return XDP_ABORTED;
    count(PATH_ECHO);
    return leave(ctx, &hop, way);
}

/* A message of ICMP to an anycast address. */
INLINE int message(struct xdp_md *ctx, const struct seen *seen, struct state *state, const struct device *device)
{
    u8 type = (u8)seen->message, code = seen->message >> 8;
    if (type == (seen->v6 ? ECHO_V6 : ECHO) && code == 0)
        return echo(ctx, seen, state, device);
    int is_error = seen->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
    if (is_error)
        return XDP_PASS;
    count(DROP_ICMP_IGNORED);
    return XDP_DROP;
}

/* What becomes of a packet that is nothing to the flows here. */
static __attribute__((noinline)) int pass_up(struct xdp_md *ctx, struct state *state, const struct device *device)
{
    struct seen seen = {};
    int next = see(&seen, ctx, device);
    if (next == PASS_UP)
        return XDP_PASS;
    if (next != GOES_ON) {
        count(next);
        return XDP_DROP;
    }
    int is_icmp = seen.protocol == ICMP_PROTOCOL || seen.protocol == ICMPV6_PROTOCOL;
    return is_icmp && is_anycast(&seen.destination) ? message(ctx, &seen, state, device) : XDP_PASS;
}

#endif
