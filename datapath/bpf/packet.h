/* A client's packet, as far as XDP handles it: TCP or UDP, whole, without options. */
#ifndef PIAS_PACKET_H
#define PIAS_PACKET_H

#include "hash.h"
#include "layout.h"

enum { ETHERNET = 14, IPV4 = 20, IPV6 = 40, UDP = 8, TCP = 20, TCP_PROTOCOL = 6, UDP_PROTOCOL = 17 };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* Fields are at their natural places in all of these; where the frame itself begins does not matter
 * to the machines that this runs on. */
struct ethernet {
    u8 destination[6];
    u8 source[6];
    u16 type;
};

struct ipv4 {
    u8 version_ihl;
    u8 tos;
    u16 length;
    u16 id;
    u16 fragment;
    u8 ttl;
    u8 protocol;
    u16 checksum;
    u32 source;
    u32 destination;
};

struct ipv6 {
    u32 version_class_label;
    u16 length;
    u8 next_header;
    u8 hop_limit;
    struct address source;
    struct address destination;
};

struct transport {
    u16 source;
    u16 destination;
    union {
        struct {
            u16 length;
            u16 checksum;
        } udp;
        struct {
            u32 sequence;
        } tcp;
    };
};

/* The rest of a TCP header's fixed part. */
struct tcp {
    struct transport ports;
    u32 acknowledgement;
    u8 offset;
    u8 flags;
    u16 window;
    u16 checksum;
    u16 urgent;
};

#define ETHERTYPE_IPV4 be16(0x0800)
#define ETHERTYPE_IPV6 be16(0x86DD)
/* The first words of an IPv4-mapped address. */
#define MAPPED(address) ((u64)(address) << 32 | 0xFFFF0000ULL)

struct packet {
    struct flow flow;
    u8 v6;
    /* TCP's; 0 for UDP. */
    u8 flags;
    /* Octets of the IP packet. */
    u16 length;
    u8 ttl;
    /* A UDP datagram without a checksum. */
    u8 unsummed;
};

/* The type of a frame to this device that is long enough for its IP header, else 0. */
INLINE u16 frame_type(const struct xdp_md *ctx, const struct device *device)
{
    const struct ethernet *ethernet = (void *)(long)ctx->data;
    if ((void *)(ethernet + 1) + IPV4 > (void *)(long)ctx->data_end)
        return 0;
    /* The last two octets of each word are something else. */
    u64 differs = *(const u64 *)ethernet ^ *(const volatile u64 *)device;
    return differs << 16 == 0 ? ethernet->type : 0;
}

/* Reads the transport header at `at`; `length` octets of the IP packet are left for it. */
INLINE int read_transport(struct packet *packet, const struct xdp_md *ctx, const void *at, u16 length)
{
    const void *end = (void *)(long)ctx->data_end;
    const struct transport *ports = at;
    if (packet->flow.protocol == TCP_PROTOCOL) {
        const struct tcp *tcp = at;
        if ((void *)(tcp + 1) > end || length < TCP)
            return 0;
        u16 header = (tcp->offset >> 4) * 4;
        if (header < TCP || header > length)
            return 0;
        packet->flags = tcp->flags;
    } else {
        if ((void *)ports + UDP > end || length < UDP || be16(ports->udp.length) != length)
            return 0;
        packet->flags = 0;
        packet->unsummed = ports->udp.checksum == 0;
    }
    packet->flow.client_port = ports->source;
    packet->flow.group_port = ports->destination;
    return ports->source != 0 && ports->destination != 0;
}

/* Whether an IPv4 source is one host's. Of some that are, user space knows better. */
INLINE int is_host4(u32 source)
{
    u8 first = (u8)source;
    return first != 0 && first != 127 && first < 224;
}

/* Global unicast and unique local addresses: whatever else may send, user space knows. */
INLINE int is_host6(const struct address *source)
{
    u8 first = (u8)source->high;
    return (first & 0xE0) == 0x20 || (first & 0xFE) == 0xFC;
}

/* Reads the packet at the octet `at` of the frame, which may have so much `room`. */
INLINE int read_ipv4(struct packet *packet, const struct xdp_md *ctx, u32 at, u64 room)
{
    const struct ipv4 *ip = (void *)(long)ctx->data + at;
    if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
        return 0;
    u16 length = be16(ip->length);
    /* A fragment has an offset, or more behind it. */
    if (ip->version_ihl != 0x45 || ip->fragment & be16(0x3FFF) || ip->ttl <= 1 || length < IPV4
        || length > room || !is_host4(ip->source))
        return 0;
    if (ip->protocol != TCP_PROTOCOL && ip->protocol != UDP_PROTOCOL)
        return 0;
    packet->v6 = 0;
    packet->length = length;
    packet->ttl = ip->ttl;
    packet->flow.protocol = ip->protocol;
    packet->flow.client.high = 0;
    packet->flow.client.low = MAPPED(ip->source);
    packet->flow.group.high = 0;
    packet->flow.group.low = MAPPED(ip->destination);
    return read_transport(packet, ctx, ip + 1, length - IPV4);
}

INLINE int read_ipv6(struct packet *packet, const struct xdp_md *ctx, u32 at, u64 room)
{
    const struct ipv6 *ip = (void *)(long)ctx->data + at;
    if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
        return 0;
    u32 length = (u32)be16(ip->length) + IPV6;
    if ((ip->version_class_label & 0xF0) != 0x60 || ip->hop_limit <= 1
        || length > room || length > 0xFFFF || !is_host6(&ip->source))
        return 0;
    if (ip->next_header != TCP_PROTOCOL && ip->next_header != UDP_PROTOCOL)
        return 0;
    packet->v6 = 1;
    packet->length = length;
    packet->ttl = ip->hop_limit;
    packet->flow.protocol = ip->next_header;
    packet->flow.client = ip->source;
    packet->flow.group = ip->destination;
    return read_transport(packet, ctx, ip + 1, length - IPV6);
}

/* Reads a frame; 0 where it is nothing that is handled here. */
INLINE int read_packet(struct packet *packet, const struct xdp_md *ctx, const struct device *device)
{
    u16 type = frame_type(ctx, device);
    u64 room = (u64)ctx->data_end - ctx->data - ETHERNET;
    if (type == ETHERTYPE_IPV4)
        return read_ipv4(packet, ctx, ETHERNET, room);
    if (type == ETHERTYPE_IPV6)
        return read_ipv6(packet, ctx, ETHERNET, room);
    return 0;
}

#endif
