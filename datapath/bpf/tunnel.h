/* A packet into the tunnel, and onto the wire.
 *
 *   │ Ethernet 14 │ IPv4 20 or IPv6 40 │ UDP 8 │ Geneve 8 │ inner packet │
 */
#ifndef PIAS_TUNNEL_H
#define PIAS_TUNNEL_H

#include "maps.h"
#include "packet.h"
#include "vlan.h"

struct geneve {
    u8 version_options;
    u8 flags;
    u16 protocol;
    u32 vni;
};

struct tunnel {
    struct transport udp;
    struct geneve geneve;
};

enum { TUNNEL_TTL = 64 };

/* Octets in front of the inner packet. Whether the tunnel is IPv6 is read once of a peer, and handed on:
 * piasd may change it at any time. */
INLINE u32 overhead(int v6)
{
    return (v6 ? IPV6 : IPV4) + sizeof(struct tunnel);
}

INLINE u16 fold_sum(u64 sum)
{
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return sum;
}

/* The sum of an address' 16-bit words, before it is folded. */
INLINE u64 address_sum(const struct address *address)
{
    return (u32)address->high + (address->high >> 32) + (u32)address->low + (address->low >> 32);
}

/* Where a packet goes next. */
struct hop {
    /* Of an interface, not of a VLAN's device. */
    u32 ifindex;
    u32 macs[3];
    u16 mtu;
    /* The tag of its VLAN, or 0. */
    u16 tag;
};

/* A packet as routing sees it. */
struct route {
    struct address source;
    struct address destination;
    u16 source_port;
    u16 destination_port;
    u16 length;
    u8 protocol;
    u8 v6;
};

/* Asks the kernel for a packet's next hop. Fails where that has no known address: the kernel asks for it
 * when user space sends the packet. And where the packet is too long. Its own function, so that it is
 * verified once, and has a stack of its own. */
__attribute__((noinline)) int resolve_hop(struct xdp_md *ctx, const struct route *route, struct hop *hop)
{
    if (route == 0 || hop == 0)
        return 0;
    struct fib_lookup fib = {
        .family = route->v6 ? AF_INET6 : AF_INET,
        .l4_protocol = route->protocol,
        .sport = route->source_port,
        .dport = route->destination_port,
        .tot_len = route->length,
        .ifindex = ctx->ingress_ifindex,
    };
    if (route->v6) {
        __builtin_memcpy(fib.source, &route->source, 16);
        __builtin_memcpy(fib.destination, &route->destination, 16);
    } else {
        fib.source[0] = route->source.low >> 32;
        fib.destination[0] = route->destination.low >> 32;
    }
    if (fib_lookup(ctx, &fib, sizeof fib, 0) != 0)
        return 0;
    struct port device = {.ifindex = fib.ifindex};
    const struct port *below = map_lookup(&VLANS, &device);
    hop->ifindex = below != 0 ? below->ifindex : fib.ifindex;
    hop->tag = below != 0 ? below->tag : 0;
    hop->mtu = fib.tot_len;
    __builtin_memcpy(hop->macs, fib.destination_mac, 6);
    __builtin_memcpy((u8 *)hop->macs + 6, fib.source_mac, 6);
    return 1;
}

/* A next hop as it was found in this epoch; fails where it was not. */
INLINE int recall_hop(const struct known_hop *known, u32 epoch, struct hop *hop)
{
    if (UNLIKELY(*(volatile u32 *)&known->epoch != epoch))
        return 0;
    hop->ifindex = known->ifindex;
    hop->mtu = known->mtu;
    hop->tag = known->tag;
    __builtin_memcpy(hop->macs, known->macs, 12);
    return 1;
}

/* Keeps a next hop for this epoch; fails where somebody else does. */
INLINE int keep_hop(struct known_hop *known, u32 epoch, const struct hop *found)
{
    u32 seen = *(volatile u32 *)&known->epoch;
    if (seen == HOP_BUSY || __sync_val_compare_and_swap(&known->epoch, seen, HOP_BUSY) != seen)
        return 0;
    known->ifindex = found->ifindex;
    known->mtu = found->mtu;
    known->tag = found->tag;
    __builtin_memcpy(known->macs, found->macs, 12);
    __sync_lock_test_and_set(&known->epoch, epoch);
    return 1;
}

/* Asks the kernel for a next hop, and keeps it. */
INLINE int learn_hop(struct xdp_md *ctx, struct known_hop *known, u32 epoch, const struct route *route,
                     struct hop *hop)
{
    struct hop found = {};
    if (!resolve_hop(ctx, route, &found))
        return 0;
    *hop = found;
    keep_hop(known, epoch, &found);
    return 1;
}

/* The next hop of a peer for a packet of this length, as it is known or by asking. */
INLINE int find_hop(struct xdp_md *ctx, struct peer *peer, int v6, u32 epoch, u16 length, struct hop *hop)
{
    if (LIKELY(recall_hop(&peer->hop, epoch, hop)))
        return 1;
    struct route route = {
        .source = peer->own,
        .destination = peer->tunnel,
        .destination_port = be16(GENEVE_PORT),
        .length = length,
        .protocol = UDP_PROTOCOL,
        .v6 = v6,
    };
    return learn_hop(ctx, &peer->hop, epoch, &route, hop);
}

/* Takes one off the TTL or hop limit, as the kernel does on the way to the TUN device. */
INLINE void decrement_ttl(void *ip, int v6)
{
    if (v6) {
        ((struct ipv6 *)ip)->hop_limit -= 1;
        return;
    }
    struct ipv4 *ipv4 = ip;
    ipv4->ttl -= 1;
    /* One less in the upper octet of a word: one more in that of the checksum (RFC 1624). */
    u32 sum = ipv4->checksum + (u32)be16(0x0100);
    ipv4->checksum = sum + (sum >= 0xFFFF);
}

INLINE void write_ipv4(struct ipv4 *ip, const struct peer *peer, u16 length)
{
    ip->version_ihl = 0x45;
    ip->tos = 0;
    ip->length = be16(length);
    ip->id = 0;
    ip->fragment = be16(0x4000);
    ip->ttl = TUNNEL_TTL;
    ip->protocol = UDP_PROTOCOL;
    ip->source = peer->own.low >> 32;
    ip->destination = peer->tunnel.low >> 32;
    u64 sum = 0x45 + (u64)be16(length) + be16(0x4000) + (TUNNEL_TTL | UDP_PROTOCOL << 8);
    ip->checksum = ~fold_sum(sum + ip->source + ip->destination);
}

INLINE void write_ipv6(struct ipv6 *ip, const struct peer *peer, u16 length)
{
    ip->version_class_label = 0x60;
    ip->length = be16(length);
    ip->next_header = UDP_PROTOCOL;
    ip->hop_limit = TUNNEL_TTL;
    ip->source = peer->own;
    ip->destination = peer->tunnel;
}

/* What an inner packet adds to the sum of the outer UDP checksum: with a right checksum of its own,
 * its TCP or UDP part sums up to the complement of its pseudo-header, and an IPv4 header to nothing.
 * One with a wrong checksum gives a wrong outer one, and is dropped there. */
INLINE u64 sum_of_inner(const struct packet *packet, const void *ip)
{
    const struct flow *flow = &packet->flow;
    u16 part = packet->length - (packet->v6 ? IPV6 : IPV4);
    u64 fixed = (u64)be16(part) + ((u64)flow->protocol << 8);
    if (packet->v6) {
        const struct ipv6 *ipv6 = ip;
        /* The addresses stand in the header, and are taken off with the pseudo-header. */
        u64 header = (u64)ipv6->version_class_label + ipv6->length
                     + (ipv6->next_header | (u64)ipv6->hop_limit << 8);
        return header + (u16)~fold_sum(fixed);
    }
    fixed += (flow->client.low >> 32) + (flow->group.low >> 32);
    return (u16)~fold_sum(fixed);
}

/* The checksum of a tunnel packet over IPv6, where it must not be left out (RFC 8200 section 8.1). */
INLINE u16 tunnel_checksum(const struct peer *peer, const struct tunnel *tunnel, u64 inner)
{
    u64 sum = address_sum(&peer->own) + address_sum(&peer->tunnel) + tunnel->udp.udp.length
              + ((u64)UDP_PROTOCOL << 8);
    sum += (u64)tunnel->udp.source + tunnel->udp.destination + tunnel->udp.udp.length
           + tunnel->geneve.protocol;
    u16 checksum = ~fold_sum(sum + inner);
    return checksum == 0 ? 0xFFFF : checksum;
}

INLINE void write_tunnel(struct tunnel *tunnel, const struct packet *packet, u16 port)
{
    tunnel->udp.source = port;
    tunnel->udp.destination = be16(GENEVE_PORT);
    tunnel->udp.udp.length = be16(packet->length + sizeof(struct tunnel));
    tunnel->udp.udp.checksum = 0;
    tunnel->geneve.version_options = 0;
    tunnel->geneve.flags = 0;
    tunnel->geneve.protocol = packet->v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
    tunnel->geneve.vni = 0;
}

/* Cuts the padding of a short frame, and makes room for the outer headers: 0 where there is none. */
INLINE int make_room(struct xdp_md *ctx, const struct packet *packet, int v6)
{
    long padding = (void *)(long)ctx->data_end - (void *)(long)ctx->data - ETHERNET - packet->length;
    if (padding > 0 && adjust_tail(ctx, -(int)padding) != 0)
        return 0;
    return adjust_head(ctx, -(int)overhead(v6)) == 0;
}

/* Writes all headers in front of the inner packet, of which a hop is taken off. Fails never: but the
 * verifier does not know what was read before. */
INLINE int write_headers(struct xdp_md *ctx, const struct packet *packet, const struct peer *peer, int v6,
                         const struct hop *hop, u16 port)
{
    void *data = (void *)(long)ctx->data, *outer = data + ETHERNET;
    struct tunnel *tunnel = outer + (v6 ? IPV6 : IPV4);
    void *inner = tunnel + 1;
    u32 *macs = data;
    u16 length = packet->length + sizeof(struct tunnel);
    if (inner + (packet->v6 ? IPV6 : IPV4) > (void *)(long)ctx->data_end)
        return 0;
    macs[0] = hop->macs[0];
    macs[1] = hop->macs[1];
    macs[2] = hop->macs[2];
    ((struct ethernet *)data)->type = v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
    decrement_ttl(inner, packet->v6);
    write_tunnel(tunnel, packet, port);
    if (v6) {
        write_ipv6(outer, peer, length);
        tunnel->udp.udp.checksum = tunnel_checksum(peer, tunnel, sum_of_inner(packet, inner));
    } else {
        write_ipv4(outer, peer, length + IPV4);
    }
    return 1;
}

/* The live peer of a handle. */
INLINE struct peer *live_peer(u32 index, u32 generation)
{
    struct peer *peer = map_lookup(&PEERS, &index);
    return peer != 0 && peer->live && peer->generation == generation ? peer : 0;
}

/* What sending to a peer takes. */
struct path {
    int v6;
    u16 port;
    /* XDP_TX or XDP_REDIRECT. */
    int way;
    struct hop hop;
};

/* How what came in at `from` leaves by the interface of this index: XDP_TX or XDP_REDIRECT. XDP_PASS where
 * it cannot: to send it would lose it, and nobody would know. */
INLINE int way_out(struct xdp_md *ctx, const struct device *from, u32 ifindex)
{
    int generic = from->mode == GENERIC;
    if (ifindex == ctx->ingress_ifindex && (generic || from->sends & BOUNCES))
        return XDP_TX;
    const struct device *to = map_lookup(&DEVICE, &ifindex);
    return to != 0 && to->mode != 0 && (generic || to->sends & TAKES) ? XDP_REDIRECT : XDP_PASS;
}

/* A frame leaves that is ready but for the tag of its VLAN. */
INLINE int leave(struct xdp_md *ctx, const struct hop *hop, int way)
{
    if (UNLIKELY(hop->tag != 0) && !push_tag(ctx, hop->tag))
        return XDP_ABORTED;
    return way == XDP_TX ? XDP_TX : redirect(hop->ifindex, 0);
}

/* Frames of this length carry no padding, or are not to be shortened. */
enum { LEAST_FRAME = 60 };

/* Cuts what a frame has behind so many octets, but for a short frame's padding. */
INLINE int cut_tail(struct xdp_md *ctx, u32 octets)
{
    u32 least = octets > LEAST_FRAME ? octets : LEAST_FRAME;
    long spare = (long)ctx->data_end - (long)ctx->data - least;
    return spare <= 0 || adjust_tail(ctx, -(int)spare) == 0;
}

/* Finds the path to a peer; fails where XDP cannot send this packet there. */
INLINE int find_path(struct xdp_md *ctx, const struct packet *packet, u64 hash, struct peer *peer, u32 epoch,
                     const struct device *from, struct path *path)
{
    path->v6 = peer->v6 != 0;
    path->port = CONFIG.source_port[path->v6][(hash >> 32) % SOURCE_PORTS];
    u32 length = packet->length + overhead(path->v6);
    /* Without a checksum inside, the outer one would take all of the packet to compute. */
    if (path->port == 0 || length > peer->mtu || (path->v6 && packet->unsummed))
        return 0;
    if (!find_hop(ctx, peer, path->v6, epoch, length, &path->hop) || length > path->hop.mtu)
        return 0;
    path->way = way_out(ctx, from, path->hop.ifindex);
    return path->way != XDP_PASS;
}

/* Sends a packet straight to its JAP. */
INLINE int send_to_peer(struct xdp_md *ctx, const struct packet *packet, const struct peer *peer, const struct path *path)
{
    if (!make_room(ctx, packet, path->v6))
        return XDP_PASS;
    if (!write_headers(ctx, packet, peer, path->v6, &path->hop, path->port))
        return XDP_ABORTED;
    count(PATH_INGRESS_DIRECT);
    return leave(ctx, &path->hop, path->way);
}

#endif
