/* What a packet costs, to be run by BPF_PROG_TEST_RUN many times in a row. That hands each run what
 * the one before left, so each begins by making its packet anew, of the next flow. */
#include "ingress.h"

struct bench {
    /* How many flows take turns, a power of two. */
    u32 flows;
    u32 turn;
    /* Whether the packet is handled, or only made: what that takes is to be subtracted. */
    u32 handled;
    /* To whom, as in a packet. */
    u32 destination;
    u16 port;
    u16 zero;
};

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, struct bench);
} BENCH SEC(".maps");

/* A datagram without payload but of the least length of a frame, which is that of 64 octets with
 * its check sequence. */
enum { FRAME = 60 };
/* To 02:00:00:00:00:01. */
#define BENCH_MAC 0x010000000002ULL

/* Spreads neighbours, so that flows are not visited in the order of their addresses in memory. */
INLINE u32 spread(u32 turn, u32 flows)
{
    return turn * 0x9E3779B1 & (flows - 1);
}

INLINE void write_frame(void *data, const struct bench *bench, u32 flow)
{
    struct ethernet *ethernet = data;
    struct ipv4 *ip = data + ETHERNET;
    struct transport *udp = (void *)(ip + 1);
    *(u64 *)data = BENCH_MAC;
    ethernet->type = ETHERTYPE_IPV4;
    ip->version_ihl = 0x45;
    ip->length = be16(FRAME - ETHERNET);
    ip->fragment = 0;
    ip->ttl = 64;
    ip->protocol = UDP_PROTOCOL;
    /* 10.0.0.0/8 and 256 ports. */
    ip->source = be32(0x0A000000 | flow >> 8);
    ip->destination = bench->destination;
    udp->source = be16(1024 + (u8)flow);
    udp->destination = bench->port;
    udp->udp.length = be16(FRAME - ETHERNET - IPV4);
    udp->udp.checksum = 0;
}

SEC("xdp") int bench(struct xdp_md *ctx)
{
    u32 zero = 0;
    struct bench *bench = map_lookup(&BENCH, &zero);
    long longer = (void *)(long)ctx->data_end - (void *)(long)ctx->data - FRAME;
    if (bench == 0 || (longer > 0 && adjust_head(ctx, longer) != 0))
        return XDP_ABORTED;
    void *data = (void *)(long)ctx->data;
    if (data + FRAME > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    write_frame(data, bench, spread(bench->turn++, bench->flows));
    return bench->handled ? ingress(ctx) : XDP_TX;
}

SEC("license") char LICENSE[] = "Dual MIT/GPL";
