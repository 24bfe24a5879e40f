/* What packets make of the entry of their flow. */
#ifndef PIAS_HEAR_H
#define PIAS_HEAR_H

#include "nat.h"

INLINE u64 with_stage(u64 meta, u8 stage)
{
    return (meta & ~STAGES) | (u64)stage << STAGE_AT;
}

/* A reset leads to the transitory timer, and a segment behind it back again: RFC 7857 section 2. */
INLINE u64 advance(u64 meta)
{
    u64 finished = CLIENT_FIN | TARGET_FIN;
    u8 stage = STAGE(meta);
    if (meta & (CLIENT_RST | TARGET_RST) || (meta & finished) == finished)
        stage = CLOSING;
    else if (stage == CLOSING)
        stage = meta & ANSWERED ? OPEN : OPENING;
    return with_stage(meta, stage) | (stage == OPEN ? SETTLED : 0);
}

/* A client's segment or datagram with these TCP flags came. */
INLINE u64 client_sent(u64 meta, u8 flags)
{
    if (meta & UDP_FLOW)
        return meta;
    u64 heard = (meta & ~CLIENT_RST) | (flags & TCP_FIN ? CLIENT_FIN : 0) | (flags & TCP_RST ? CLIENT_RST : 0);
    /* Only the third segment opens a flow: a forged SYN is answered with a SYN-ACK, too. */
    if (STAGE(meta) == OPENING && meta & ANSWERED && !(flags & TCP_SYN))
        heard = with_stage(heard, OPEN);
    return advance(heard);
}

/* A target's segment or datagram with these TCP flags came. */
INLINE u64 target_sent(u64 meta, u8 flags)
{
    if (meta & UDP_FLOW)
        return meta | ANSWERED | SETTLED;
    u64 heard = (meta & ~TARGET_RST) | (flags & TCP_FIN ? TARGET_FIN : 0) | (flags & TCP_RST ? TARGET_RST : 0);
    return advance(heard | ANSWERED);
}

/* Whether a client's datagram shows that its flow outlasts a question and its answer. */
INLINE int outlasts(const struct nat_flow *flow, u64 meta, u32 last, u32 now)
{
    return STAGE(meta) == DATAGRAMS && meta & SETTLED && (int)(last - flow->created) < SECOND
        && (int)(now - flow->created) >= SECOND;
}

/* Whether the target of the flow is to be told of for its answer: each once a tick. */
INLINE int tells_answer(const struct passage *passage)
{
    struct target *target = live_target(passage->target);
    if (target == 0 || target->told_answer == passage->now)
        return 0;
    target->told_answer = passage->now;
    return 1;
}

/* Notes a packet in the entry of its flow, which makes its meta word `next`. Who loses a race against
 * another writer lets it be. */
INLINE void hear(const struct passage *passage, u64 next, int is_client)
{
    u32 zero = 0, slot = passage->slot, now = passage->now;
    u64 meta = passage->meta;
    struct nat_flow *flow = map_lookup(&NAT_FLOWS, &slot);
    struct nat_state *state = map_lookup(&NAT_STATE, &zero);
    if (flow == 0 || state == 0)
        return;
    u32 last = *(volatile u32 *)&flow->last;
    /* A reset that only answers the other side keeps nothing alive: RFC 7857 section 7.1. */
    if ((int)(now - last) > 0 && (STAGE(meta) != CLOSING || !(passage->packet.flags & TCP_RST)))
        *(volatile u32 *)&flow->last = now;
    int tells = is_client && state->wanted && outlasts(flow, meta, last, now);
    u64 news = 0;
    if (UNLIKELY(next != meta) && __sync_val_compare_and_swap(&flow->meta, meta, next) == meta) {
        if (next & ~meta & SETTLED)
            __sync_fetch_and_add(&state->embryonic, -1);
        if (next & ~meta & ANSWERED && tells_answer(passage)) {
            news = NEWS_ANSWERED;
            tells = 1;
        }
        if (state->wanted && (next ^ meta) & TOLD)
            tells = 1;
    }
    if (UNLIKELY(tells))
        tell_of(passage, news);
}

__attribute__((noinline)) int hear_client(const struct passage *passage)
{
    if (passage == 0)
        return 0;
    hear(passage, client_sent(passage->meta, passage->packet.flags), 1);
    return 1;
}

__attribute__((noinline)) int hear_target(const struct passage *passage)
{
    if (passage == 0)
        return 0;
    hear(passage, target_sent(passage->meta, passage->packet.flags), 0);
    return 1;
}

#endif
