/* Which candidate a new flow goes to: the draw of protocol/src/placement.rs, to the same result. */
#ifndef PIAS_PLACE_H
#define PIAS_PLACE_H

#include "hash.h"
#include "layout.h"

/* -log2(h / 2^64) with 32 fractional bits, by repeated squaring, without a branch on the bit that is
 * found: the verifier would follow both. Its own function, so that it is verified once. */
__attribute__((noinline)) u64 negative_log2(u64 hash)
{
    u64 mantissa = hash | (hash == 0), whole = 1, fraction = 0;
#pragma clang loop unroll(full)
    for (int step = 32; step > 0; step >>= 1) {
        u64 low = (mantissa >> (64 - step)) == 0;
        whole += low * step;
        mantissa <<= low * step;
    }
#pragma clang loop unroll(disable)
    for (int bit = 31; bit >= 0; bit--) {
        struct product square = multiply(mantissa, mantissa);
        u64 shifted = square.high << 1 | square.low >> 63;
        u64 carry = square.high >> 63;
        fraction |= carry << bit;
        /* With the carry: the 65 bits carry:shifted, halved. */
        mantissa = carry ? square.high : shifted;
    }
    return (whole << 32) - fraction;
}

/* The candidate that is ahead. */
struct draw {
    u64 hash;
    u64 id;
    u32 weight;
    u32 peer;
    u32 generation;
};

/* By which part two hashes differ at least for their logarithms to differ in their order as well. */
enum { CLEARLY = 20 };

/* Whether the candidate `id` with this hash is ahead of the draw so far. */
INLINE int wins(const struct draw *best, u64 hash, u32 weight, u64 id)
{
    if (weight == best->weight) {
        if (hash > best->hash && hash - best->hash > best->hash >> CLEARLY)
            return 1;
        if (best->hash > hash && best->hash - hash > hash >> CLEARLY)
            return 0;
    }
    /* Below 2^38 * 2^14. */
    u64 mine = negative_log2(hash) * best->weight, theirs = negative_log2(best->hash) * weight;
    return mine < theirs || (mine == theirs && id < best->id);
}

/* A draw under way. */
struct drawing {
    const struct group *group;
    u64 flow;
    struct draw best;
};

INLINE void consider(struct drawing *drawing, const struct candidate *candidate)
{
    struct draw *best = &drawing->best;
    u64 hash = mix(drawing->flow, candidate->id);
    if (candidate->weight != 0
        && (best->weight == 0 || wins(best, hash, candidate->weight, candidate->id))) {
        best->hash = hash;
        best->id = candidate->id;
        best->weight = candidate->weight;
        best->peer = candidate->peer;
        best->generation = candidate->generation;
    }
}

/* A step of a loop that the verifier follows once and not for each candidate. 1 ends it. */
static long draw_candidate(u32 at, struct drawing *drawing)
{
    if (at >= MAX_CANDIDATES)
        return 1;
    consider(drawing, &drawing->group->candidates[at]);
    return 0;
}

/* The candidate of a flow; its peer is HERE with a weight of 0 where there is none. */
INLINE struct draw draw(const struct group *group, u64 flow)
{
    struct drawing drawing = {.group = group, .flow = flow, .best = {.peer = HERE}};
    loop(group->count, draw_candidate, &drawing, 0);
    return drawing.best;
}

#endif
