/* What no flow's way is known for here: dropped, where user space would certainly drop it, for the reason
 * that it would give, so that a flood of it ends here. All else is passed up.
 *
 * The reasons are looked for in the order of src/classify.rs and src/pipeline/mod.rs. */
#ifndef PIAS_JUDGE_H
#define PIAS_JUDGE_H

#include "ours.h"
#include "packet.h"

enum { ICMP_PROTOCOL = 1, ICMPV6_PROTOCOL = 58, ICMP = 8, MOST_IPV4 = 60 };

struct icmp {
    u8 type;
    u8 code;
    u16 checksum;
    u32 rest;
};

/* A packet to one of this proxy's addresses, neither a fragment nor with extension headers. */
struct seen {
    struct address source;
    struct address destination;
    u8 v6;
    u8 protocol;
    /* Octets of the IP header, and of the packet. */
    u16 header;
    u16 length;
    /* ICMP's first two octets, as in a packet. */
    u16 message;
};

/* What is to be done with it; else a counter of the reason for which it is dropped. */
enum { PASS_UP = 0, GOES_ON = 1 };

INLINE int see_ipv4(struct seen *seen, const struct xdp_md *ctx)
{
    const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    const struct ipv4 *ip = data + ETHERNET;
    /* The kernel answers where the TTL is used up. */
    if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4 || ip->ttl <= 1)
        return PASS_UP;
    seen->v6 = 0;
    seen->protocol = ip->protocol;
    seen->source.high = seen->destination.high = 0;
    seen->source.low = MAPPED(ip->source);
    seen->destination.low = MAPPED(ip->destination);
    if (!is_ours(&seen->destination))
        return PASS_UP;
    seen->header = (ip->version_ihl & 0x0F) * 4;
    seen->length = be16(ip->length);
    if (seen->header < IPV4 || seen->length < seen->header
        || (u64)(end - data) < ETHERNET + (u64)seen->length)
        return DROP_MALFORMED;
    return ip->fragment & be16(0x3FFF) ? PASS_UP : GOES_ON;
}

INLINE int see_ipv6(struct seen *seen, const struct xdp_md *ctx)
{
    const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    const struct ipv6 *ip = data + ETHERNET;
    if ((void *)(ip + 1) > end || (ip->version_class_label & 0xF0) != 0x60 || ip->hop_limit <= 1)
        return PASS_UP;
    seen->v6 = 1;
    seen->protocol = ip->next_header;
    seen->source = ip->source;
    seen->destination = ip->destination;
    seen->header = IPV6;
    u32 length = (u32)be16(ip->length) + IPV6;
    if (!is_ours(&seen->destination) || length > 0xFFFF)
        return PASS_UP;
    seen->length = length;
    return (u64)(end - data) < ETHERNET + (u64)length ? DROP_MALFORMED : GOES_ON;
}

/* What is wrong with the lengths and ports of a transport header. */
INLINE int see_transport(const struct transport *ports, const void *end, u16 left, int is_tcp)
{
    if (left < (is_tcp ? TCP : UDP) || (void *)ports + UDP > end)
        return DROP_MALFORMED;
    if (is_tcp) {
        const struct tcp *tcp = (void *)ports;
        if ((void *)(tcp + 1) > end)
            return DROP_MALFORMED;
        u16 header = (tcp->offset >> 4) * 4;
        if (header < TCP || header > left)
            return DROP_MALFORMED;
    } else if (ports->udp.length != 0 && be16(ports->udp.length) < UDP) {
        return DROP_MALFORMED;
    }
    return ports->source != 0 && ports->destination != 0 ? GOES_ON : DROP_PORT_ZERO;
}

INLINE int see_upper(struct seen *seen, const struct xdp_md *ctx)
{
    const void *end = (void *)(long)ctx->data_end;
    u16 header = seen->header;
    if (header > MOST_IPV4)
        return PASS_UP;
    const void *upper = (void *)(long)ctx->data + ETHERNET + header;
    u16 left = seen->length - header;
    switch (seen->protocol) {
    case TCP_PROTOCOL:
        return see_transport(upper, end, left, 1);
    case UDP_PROTOCOL:
        return see_transport(upper, end, left, 0);
    case ICMP_PROTOCOL:
    case ICMPV6_PROTOCOL:
        if ((seen->protocol == ICMPV6_PROTOCOL) != seen->v6)
            return PASS_UP;
        if (left < ICMP || upper + ICMP > end)
            return DROP_MALFORMED;
        seen->message = *(const u16 *)upper;
        return GOES_ON;
    default:
        return PASS_UP;
    }
}

/* is_host of src/classify.rs. */
INLINE int is_host(const struct seen *seen)
{
    if (!seen->v6) {
        u32 source = seen->source.low >> 32;
        u8 first = source;
        return first != 0 && first != 127 && first >> 4 != 14 && source != 0xFFFFFFFF;
    }
    u64 high = seen->source.high, low = seen->source.low;
    /* Unspecified, loopback, mapped, multicast. */
    if (high == 0 && (low == 0 || low == be64(1) || (u32)low == 0xFFFF0000))
        return 0;
    return (u8)high != 0xFF;
}

/* Reads a frame, and says what is to become of it. */
INLINE int see(struct seen *seen, const struct xdp_md *ctx, const struct device *device)
{
    u16 type = frame_type(ctx, device);
    int next = PASS_UP;
    if (type == ETHERTYPE_IPV4)
        next = see_ipv4(seen, ctx);
    else if (type == ETHERTYPE_IPV6)
        next = see_ipv6(seen, ctx);
    if (next == GOES_ON)
        next = see_upper(seen, ctx);
    if (next == GOES_ON && (!is_host(seen) || is_ours(&seen->source)))
        next = DROP_BAD_SOURCE;
    return next;
}

#endif
