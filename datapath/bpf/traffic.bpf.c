/* Traffic to measure with: what makes it, what counts it where it comes out, and the simplest that can stand
 * between the two. No part of a proxy.
 *
 *   generate ──veth──► pass, bounce, discard, or what is measured ──veth──► count_…
 *
 * Each frame bears a mark, and the number of its flow: all others, the hosts' own, pass.
 *
 *   UDP: │ Ethernet │ IPv4 │ UDP │ MARK 4 │ flow 4 │ 0 10 │     TCP: the mark is the sequence number
 */
#include "packet.h"

enum { FRAME = 60, INNER = FRAME - ETHERNET, GENEVE = 8, OUTER = IPV4 + UDP + GENEVE };

#define MARK be32(0x50494153)

/* In nanoseconds. */
enum { MOMENT = 1000000 };

static u64 (*ktime_get_ns)(void) = (void *)5;

enum kind { TO_GROUP, SYN_TO_GROUP, IN_TUNNEL, ANSWERS };

/* What is to be made. Addresses and ports as in a packet, but for `port`. */
struct order {
    u32 kind;
    /* Where frames leave. */
    u32 ifindex;
    /* How many flows take turns, a power of two. */
    u32 flows;
    /* Groups have the ports from `port` on, a power of two of them. */
    u32 groups;
    u32 port;
    u32 group;
    /* The ends of the tunnel; the first is the target where ANSWERS are made. */
    u32 from;
    u32 to;
    u32 macs[3];
    /* Arrivals of another one are forgotten. */
    u32 epoch;
    /* How many frames there are to be, and nanoseconds from one to the next; 0: without end, at once. */
    u32 frames;
    u32 gap;
};

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, struct order);
} ORDER SEC(".maps");

/* How far the order is. */
struct turn {
    /* When the next frame is due. */
    u64 due;
    /* How many were made. */
    u32 made;
    u32 zero;
};

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, struct turn);
} TURN SEC(".maps");

/* What the target does beside counting: whether it answers. */
struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, u32);
} ANSWERING SEC(".maps");

/* From where flows came to the target, by their numbers. */
enum { MAX_FLOWS = 1 << 20 };

struct arrival {
    u32 epoch;
    u32 source;
    u16 source_port;
    u16 port;
};

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, MAX_FLOWS);
    TYPE(key, u32);
    TYPE(value, struct arrival);
} ARRIVALS SEC(".maps");

enum { SENT, AT_CLIENT, AT_FAR, AT_TARGET, DISCARDED, COUNTED };

struct {
    UINT(type, MAP_PERCPU_ARRAY);
    UINT(max_entries, COUNTED);
    TYPE(key, u32);
    TYPE(value, u64);
} COUNTS SEC(".maps");

INLINE void count(u32 what)
{
    u64 *value = map_lookup(&COUNTS, &what);
    if (value != 0)
        *value += 1;
}

struct mark {
    u32 mark;
    u32 flow;
};

/* Spreads neighbours, so that flows are not visited in the order of their addresses in memory. */
INLINE u32 spread(u32 turn, u32 flows)
{
    return turn * 0x9E3779B1 & (flows - 1);
}

INLINE u16 folded(u64 sum)
{
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return sum + (sum >> 16);
}

INLINE u64 words(const u32 *from, int count)
{
    u64 sum = 0;
#pragma clang loop unroll(full)
    for (int at = 0; at < count; at++)
        sum += from[at];
    return sum;
}

INLINE void write_ip(struct ipv4 *ip, u16 length, u8 protocol, u32 source, u32 destination)
{
    ip->version_ihl = 0x45;
    ip->tos = 0;
    ip->length = be16(length);
    ip->id = 0;
    ip->fragment = be16(0x4000);
    ip->ttl = 64;
    ip->protocol = protocol;
    ip->checksum = 0;
    ip->source = source;
    ip->destination = destination;
    ip->checksum = ~folded(words((u32 *)ip, IPV4 / 4));
}

/* The sum of a pseudo-header. */
INLINE u64 pseudo(const struct ipv4 *ip)
{
    return (u64)ip->source + ip->destination + be16(INNER - IPV4) + ((u64)ip->protocol << 8);
}

INLINE void write_udp(struct ipv4 *ip, u16 source, u16 destination, u32 flow)
{
    struct transport *udp = (void *)(ip + 1);
    struct mark *mark = (void *)udp + UDP;
    udp->source = source;
    udp->destination = destination;
    udp->udp.length = be16(INNER - IPV4);
    udp->udp.checksum = 0;
    mark->mark = MARK;
    mark->flow = flow;
    __builtin_memset(mark + 1, 0, INNER - IPV4 - UDP - sizeof *mark);
    /* Zeros add nothing. */
    u16 checksum = ~folded(pseudo(ip) + words((u32 *)udp, 4));
    udp->udp.checksum = checksum == 0 ? 0xFFFF : checksum;
}

INLINE void write_syn(struct ipv4 *ip, u16 source, u16 destination)
{
    struct tcp *tcp = (void *)(ip + 1);
    tcp->ports.source = source;
    tcp->ports.destination = destination;
    tcp->ports.tcp.sequence = MARK;
    tcp->acknowledgement = 0;
    tcp->offset = TCP / 4 << 4;
    tcp->flags = TCP_SYN;
    tcp->window = be16(64000);
    tcp->checksum = 0;
    tcp->urgent = 0;
    __builtin_memset(tcp + 1, 0, INNER - IPV4 - TCP);
    tcp->checksum = ~folded(pseudo(ip) + words((u32 *)tcp, TCP / 4));
}

/* A packet of a client in 10.64.0.0/10 to one of the groups. */
INLINE void write_to_group(struct ipv4 *ip, const struct order *order, u32 flow)
{
    u32 group = flow & (order->groups - 1), rest = flow / 32;
    u32 source = be32(0x0A400000 | (rest >> 8 & 0x3FFFFF));
    u16 port = be16(1024 + (rest & 0x7FFF)), destination = be16(order->port + group);
    if (order->kind == SYN_TO_GROUP) {
        write_ip(ip, INNER, TCP_PROTOCOL, source, order->group);
        write_syn(ip, port, destination);
    } else {
        write_ip(ip, INNER, UDP_PROTOCOL, source, order->group);
        write_udp(ip, port, destination, flow);
    }
}

INLINE void write_outer(struct ipv4 *ip, const struct order *order, u32 flow)
{
    struct transport *udp = (void *)(ip + 1);
    u32 *geneve = (void *)udp + UDP;
    write_ip(ip, OUTER + INNER, UDP_PROTOCOL, order->from, order->to);
    udp->source = be16(49152 + (flow & 0xFFF));
    udp->destination = be16(GENEVE_PORT);
    udp->udp.length = be16(UDP + GENEVE + INNER);
    udp->udp.checksum = 0;
    geneve[0] = (u32)ETHERTYPE_IPV4 << 16;
    geneve[1] = 0;
}

/* Whether a frame is due. Of what is late by more than a moment, nothing is made up for. */
INLINE int is_due(const struct order *order, struct turn *turn)
{
    if (order->frames != 0 && turn->made >= order->frames)
        return 0;
    if (order->gap == 0)
        return 1;
    u64 now = ktime_get_ns();
    if (now < turn->due)
        return 0;
    turn->due = (now - turn->due > MOMENT ? now : turn->due) + order->gap;
    return 1;
}

/* The next frame of the order. Recycled frames hold what they held before, so all of it is written. */
SEC("xdp") int generate(struct xdp_md *ctx)
{
    u32 zero = 0;
    const struct order *order = map_lookup(&ORDER, &zero);
    struct turn *turn = map_lookup(&TURN, &zero);
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (order == 0 || turn == 0 || data + FRAME > end)
        return XDP_ABORTED;
    if (!is_due(order, turn))
        return XDP_DROP;
    u32 flow = spread(turn->made++, order->flows);
    u32 *macs = data;
    macs[0] = order->macs[0];
    macs[1] = order->macs[1];
    macs[2] = order->macs[2];
    ((struct ethernet *)data)->type = ETHERTYPE_IPV4;
    struct ipv4 *ip = data + ETHERNET;
    if (order->kind == ANSWERS) {
        const struct arrival *arrival = map_lookup(&ARRIVALS, &flow);
        if (arrival == 0 || arrival->epoch != order->epoch)
            return XDP_DROP;
        write_ip(ip, INNER, UDP_PROTOCOL, order->from, arrival->source);
        write_udp(ip, arrival->port, arrival->source_port, flow);
    } else if (order->kind == IN_TUNNEL) {
        if (data + FRAME + OUTER > end)
            return XDP_ABORTED;
        write_outer(ip, order, flow);
        write_to_group((void *)ip + OUTER, order, flow);
    } else {
        write_to_group(ip, order, flow);
    }
    count(SENT);
    return redirect(order->ifindex, 0);
}

/* The innermost IP header of a marked frame. */
INLINE struct ipv4 *marked(const struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + FRAME > end || ((struct ethernet *)data)->type != ETHERTYPE_IPV4)
        return 0;
    struct ipv4 *ip = data + ETHERNET;
    struct transport *transport = (void *)(ip + 1);
    if (ip->protocol == UDP_PROTOCOL && transport->destination == be16(GENEVE_PORT)) {
        if (data + FRAME + OUTER > end)
            return 0;
        ip = (void *)ip + OUTER;
        transport = (void *)(ip + 1);
    }
    if (ip->protocol == TCP_PROTOCOL)
        return transport->tcp.sequence == MARK ? ip : 0;
    const struct mark *mark = (void *)transport + UDP;
    return ip->protocol == UDP_PROTOCOL && mark->mark == MARK ? ip : 0;
}

SEC("xdp") int count_client(struct xdp_md *ctx)
{
    if (marked(ctx) == 0)
        return XDP_PASS;
    count(AT_CLIENT);
    return XDP_DROP;
}

SEC("xdp") int count_far(struct xdp_md *ctx)
{
    if (marked(ctx) == 0)
        return XDP_PASS;
    count(AT_FAR);
    return XDP_DROP;
}

INLINE int send_back(const struct xdp_md *ctx)
{
    u32 *macs = (void *)(long)ctx->data;
    if ((void *)macs + ETHERNET > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    u32 first = macs[0], second = macs[1], third = macs[2];
    macs[0] = second >> 16 | third << 16;
    macs[1] = third >> 16 | first << 16;
    macs[2] = first >> 16 | second << 16;
    return XDP_TX;
}

/* Notes from where flows came, and sends them back where it is to answer. */
SEC("xdp") int count_target(struct xdp_md *ctx)
{
    u32 zero = 0;
    struct ipv4 *ip = marked(ctx);
    const u32 *answering = map_lookup(&ANSWERING, &zero);
    const struct order *order = map_lookup(&ORDER, &zero);
    if (ip == 0 || answering == 0 || order == 0)
        return XDP_PASS;
    count(AT_TARGET);
    if (*answering == 0)
        return XDP_DROP;
    struct transport *transport = (void *)(ip + 1);
    const struct mark *mark = (void *)transport + UDP;
    u32 flow = mark->flow, source = ip->source;
    u16 port = transport->source;
    struct arrival *arrival = map_lookup(&ARRIVALS, &flow);
    if (arrival != 0) {
        arrival->epoch = order->epoch;
        arrival->source = source;
        arrival->source_port = port;
        arrival->port = transport->destination;
    }
    ip->source = ip->destination;
    ip->destination = source;
    transport->source = transport->destination;
    transport->destination = port;
    return send_back(ctx);
}

/* The least that can be done with a frame, of the two that leave nothing to others. */
SEC("xdp") int discard(struct xdp_md *ctx)
{
    (void)ctx;
    count(DISCARDED);
    return XDP_DROP;
}

SEC("xdp") int bounce(struct xdp_md *ctx)
{
    return send_back(ctx);
}

/* For the kernel's networking: frames that XDP sends need a program where they arrive. */
SEC("xdp") int pass(struct xdp_md *ctx)
{
    (void)ctx;
    return XDP_PASS;
}

SEC("license") char LICENSE[] = "Dual MIT/GPL";
