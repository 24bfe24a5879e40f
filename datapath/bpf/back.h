/* The way back to a flow's client, found once for as long as routes stay what they are. Clients are many and
 * their next hops few: a flow names its client's by a place in a table, in half a word of its entry. */
#ifndef PIAS_BACK_H
#define PIAS_BACK_H

#include "hash.h"
#include "nat.h"
#include "tunnel.h"

/* Place 0 is never used: that of a flow whose way back is not known. */
enum { BACK_HOPS = 256 };

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, BACK_HOPS);
    TYPE(key, u32);
    TYPE(value, struct known_hop);
} BACK SEC(".maps");

/* What a flow says of its way back. Of another epoch it is not true any more, and of another version another
 * flow wrote it.
 *
 *   31            16 15          8 7          0
 *  │   epoch        │   version    │   place    │
 */
INLINE u32 back_word(const struct passage *passage, u32 place)
{
    return passage->epoch << 16 | (passage->meta >> 48 & 0xFF) << 8 | place;
}

/* The next hop as an earlier packet of the flow found it in this epoch; fails where none did. */
INLINE int recall_back(struct passage *passage)
{
    u32 place = passage->back % BACK_HOPS;
    if (UNLIKELY(place == 0 || passage->back != back_word(passage, place)))
        return 0;
    const struct known_hop *known = map_lookup(&BACK, &place);
    if (known == 0 || !recall_hop(known, passage->epoch, &passage->hop))
        return 0;
    BARRIER();
    return *(volatile u32 *)&known->epoch == passage->epoch;
}

INLINE int is_hop(const struct known_hop *known, const struct hop *hop)
{
    return known->ifindex == hop->ifindex && known->mtu == hop->mtu && known->tag == hop->tag
        && known->macs[0] == hop->macs[0] && known->macs[1] == hop->macs[1] && known->macs[2] == hop->macs[2];
}

/* Keeps the next hop that was found for later packets of the flow. Within an epoch a place has one. */
INLINE void keep_back(const struct passage *passage)
{
    const struct hop *hop = &passage->hop;
    u64 product = fold((hop->macs[0] | (u64)hop->macs[1] << 32) ^ SECRET_0,
                       (hop->macs[2] | (u64)hop->ifindex << 32) ^ SECRET_8 ^ ((u64)hop->tag << 16 | hop->mtu));
    u32 place = 1 + (product >> 32) % (BACK_HOPS - 1), slot = passage->slot;
    struct known_hop *known = map_lookup(&BACK, &place);
    struct nat_flow *flow = map_lookup(&NAT_FLOWS, &slot);
    if (known == 0 || flow == 0)
        return;
    if (*(volatile u32 *)&known->epoch == passage->epoch ? is_hop(known, hop) : keep_hop(known, passage->epoch, hop))
        flow->back = back_word(passage, place);
}

#endif
