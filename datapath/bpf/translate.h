/* A packet gets other ends, with its checksums kept right, and leaves. The reference is src/rewrite.rs; sums
 * are of words as they lie in memory, which is all the same (RFC 1071 section 2). */
#ifndef PIAS_TRANSLATE_H
#define PIAS_TRANSLATE_H

#include "nat.h"

/* Octets of a TCP header at most, and in its options. */
enum { TCP_MOST = 60, OPTION_END = 0, OPTION_NOP = 1, OPTION_MSS = 2 };

/* A checksum after a change of what it covers, which adds `delta` to its sum: never -0, as long as something
 * of what is added is not 0 (RFC 1624). */
INLINE u16 updated(u16 checksum, u64 delta)
{
    return ~fold_sum((u16)~checksum + delta);
}

INLINE u64 word_delta(u16 old, u16 new)
{
    return (u64)(u16)~old + new;
}

INLINE u64 double_word_delta(u32 old, u32 new)
{
    return (u64)(u32)~old + new;
}

INLINE u64 address_delta(const struct address *old, const struct address *new)
{
    return (u16)~fold_sum(address_sum(old)) + address_sum(new);
}

/* The options of a TCP header are walked. */
struct options {
    struct xdp_md *ctx;
    /* Where the header is in the frame, and how many octets it has. */
    u32 tcp;
    u32 length;
    /* The next option, and where the value of the MSS is, both in the header; 0 where there is none yet. */
    u32 at;
    u32 mss_at;
};

/* A step of a loop that the verifier follows once. 1 ends it. */
static long next_option(u32 step, struct options *options)
{
    u32 at = options->at, tcp = options->tcp;
    /* The last octet alone is none that matters. */
    if (step >= TCP_MOST || tcp > ETHERNET + IPV6 || at > TCP_MOST - 2 || at + 2 > options->length)
        return 1;
    const u8 *option = (void *)(long)options->ctx->data + tcp + at;
    if ((void *)(option + 2) > (void *)(long)options->ctx->data_end || option[0] == OPTION_END)
        return 1;
    if (option[0] == OPTION_MSS && option[1] == 4 && at + 4 <= options->length) {
        options->mss_at = at + 2;
        return 1;
    }
    /* A length below two would never get on. */
    u32 length = option[1] < 2 ? 2 : option[1];
    options->at = at + (option[0] == OPTION_NOP ? 1 : length);
    return 0;
}

/* Where the value of the MSS option is in the TCP header of so many octets at `tcp`; 0 where there is none. */
INLINE u32 mss_at(struct xdp_md *ctx, u32 tcp, u32 length)
{
    struct options options = {.ctx = ctx, .tcp = tcp, .length = length, .at = TCP};
    loop(TCP_MOST - TCP, next_option, &options, 0);
    return options.mss_at;
}

/* Lowers the MSS of a SYN, whose TCP header is at an octet of the frame, to `most` where it is higher; what
 * that adds to the sum. */
INLINE u64 clamp_mss(struct xdp_md *ctx, u32 at, u16 most)
{
    struct tcp *tcp = (void *)(long)ctx->data + at;
    if ((void *)(tcp + 1) > (void *)(long)ctx->data_end)
        return 0;
    u32 value_at = mss_at(ctx, at, (tcp->offset >> 4) * 4);
    if (value_at < TCP + 2 || value_at > TCP_MOST - 2)
        return 0;
    u16 *value = (void *)(long)ctx->data + at + value_at;
    if ((void *)(value + 1) > (void *)(long)ctx->data_end || be16(*value) <= most)
        return 0;
    u64 delta = word_delta(*value, be16(most));
    /* At an odd offset its octets are of the other halves of words. */
    if (value_at % 2 != 0)
        delta = word_delta(be16(*value), most);
    *value = be16(most);
    return delta;
}

/* Gives the transport header at an octet of the frame its ports, `delta` being what else its sum changes by. */
INLINE int translate_transport(struct xdp_md *ctx, u32 at, const struct passage *passage, u64 delta)
{
    int is_tcp = passage->packet.flow.protocol == TCP_PROTOCOL;
    if (is_tcp && UNLIKELY(passage->packet.flags & TCP_SYN && passage->most != 0xFFFF))
        delta += clamp_mss(ctx, at, passage->most);
    struct transport *ports = (void *)(long)ctx->data + at;
    if ((void *)ports + UDP > (void *)(long)ctx->data_end)
        return 0;
    delta += word_delta(ports->source, passage->from_port);
    delta += word_delta(ports->destination, passage->to_port);
    ports->source = passage->from_port;
    ports->destination = passage->to_port;
    if (is_tcp) {
        struct tcp *tcp = (void *)ports;
        if ((void *)(tcp + 1) > (void *)(long)ctx->data_end)
            return 0;
        tcp->checksum = updated(tcp->checksum, delta);
    } else if (ports->udp.checksum != 0) {
        /* RFC 768: no checksum stays no checksum, and a checksum of 0 is written as its other form. */
        u16 checksum = updated(ports->udp.checksum, delta);
        ports->udp.checksum = checksum == 0 ? 0xFFFF : checksum;
    }
    return 1;
}

/* An identification that no other packet has: flows of many clients leave with one source (RFC 6864 section
 * 5.3). */
INLINE u16 fresh_id(void)
{
    u32 zero = 0;
    struct nat_state *state = map_lookup(&NAT_STATE, &zero);
    return state == 0 ? 0 : be16((u16)(__sync_fetch_and_add(&state->next_id, 1) + 1));
}

INLINE int translate_ipv4(struct xdp_md *ctx, const struct passage *passage, u8 hops)
{
    struct ipv4 *ip = (void *)(long)ctx->data + ETHERNET;
    if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
        return 0;
    u32 from = passage->from.low >> 32, to = passage->to.low >> 32;
    u64 pseudo = double_word_delta(ip->source, from) + double_word_delta(ip->destination, to);
    u16 lives = ip->ttl | ip->protocol << 8;
    u64 delta = pseudo + word_delta(lives, lives - hops);
    if (!(ip->fragment & be16(0x4000))) {
        u16 id = fresh_id();
        delta += word_delta(ip->id, id);
        ip->id = id;
    }
    ip->ttl -= hops;
    ip->source = from;
    ip->destination = to;
    ip->checksum = updated(ip->checksum, delta);
    return translate_transport(ctx, ETHERNET + IPV4, passage, pseudo);
}

INLINE int translate_ipv6(struct xdp_md *ctx, const struct passage *passage, u8 hops)
{
    struct ipv6 *ip = (void *)(long)ctx->data + ETHERNET;
    if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
        return 0;
    u64 pseudo = address_delta(&ip->source, &passage->from) + address_delta(&ip->destination, &passage->to);
    ip->hop_limit -= hops;
    ip->source = passage->from;
    ip->destination = passage->to;
    return translate_transport(ctx, ETHERNET + IPV6, passage, pseudo);
}

/* Cuts what is in front of the IP packet but for the place of an Ethernet header, and what is behind it. */
INLINE int strip(struct xdp_md *ctx, const struct passage *passage)
{
    u32 before = passage->at - ETHERNET;
    if (before != 0 && adjust_head(ctx, before) != 0)
        return 0;
    return cut_tail(ctx, ETHERNET + passage->packet.length);
}

/* Whether all ends of a passage are of its packet's family. */
INLINE int is_one_family(const struct passage *passage)
{
    int v6 = passage->packet.v6 != 0;
    return is_mapped(&passage->from) == !v6 && is_mapped(&passage->to) == !v6;
}

/* Sends a packet from its new ends, with so many hops less to go. Fails never where its flow was found: but
 * the verifier does not know what was read before. */
__attribute__((noinline)) int send_translated(struct xdp_md *ctx, const struct passage *passage, u8 hops)
{
    if (passage == 0 || !strip(ctx, passage))
        return XDP_ABORTED;
    u32 *macs = (void *)(long)ctx->data;
    int v6 = passage->packet.v6 != 0;
    if ((void *)macs + ETHERNET > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    macs[0] = passage->hop.macs[0];
    macs[1] = passage->hop.macs[1];
    macs[2] = passage->hop.macs[2];
    ((struct ethernet *)macs)->type = v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
    if (!(v6 ? translate_ipv6(ctx, passage, hops) : translate_ipv4(ctx, passage, hops)))
        return XDP_ABORTED;
    return leave(ctx, &passage->hop, passage->way);
}

#endif
