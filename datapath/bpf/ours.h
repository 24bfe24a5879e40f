/* This proxy's own addresses. */
#ifndef PIAS_OURS_H
#define PIAS_OURS_H

#include "maps.h"
#include "packet.h"

INLINE int is_same(const struct address *one, const volatile struct address *other)
{
    return one->low == other->low && one->high == other->high;
}

/* Whether an address is IPv4, in its mapped form. */
INLINE int is_mapped(const struct address *address)
{
    return address->high == 0 && (u32)address->low == MAPPED(0);
}

INLINE int is_anycast(const struct address *address)
{
#pragma clang loop unroll(disable)
    for (u32 at = 0; at < MAX_PREFIXES && at < CONFIG.prefixes; at++)
        if ((address->low & CONFIG.mask[at].low) == CONFIG.network[at].low
            && (address->high & CONFIG.mask[at].high) == CONFIG.network[at].high)
            return 1;
    return 0;
}

/* Whether an address is a NAT address of this proxy. */
INLINE int is_nat(const struct address *address)
{
    return is_same(address, &CONFIG.nat[0]) || is_same(address, &CONFIG.nat[1]);
}

/* Whether nobody else sends from an address: it is anycast, or a NAT address of this proxy. */
INLINE int is_ours(const struct address *address)
{
    return is_nat(address) || is_anycast(address);
}

/* The NAT address of a family, if there is one. */
INLINE int own_nat(int v6, struct address *nat)
{
    for (u32 at = 0; at < 2; at++) {
        nat->high = CONFIG.nat[at].high;
        nat->low = CONFIG.nat[at].low;
        if ((nat->high | nat->low) != 0 && is_mapped(nat) == !v6)
            return 1;
    }
    return 0;
}

#endif
