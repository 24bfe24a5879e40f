/* Cells of the flows that packets came of last, close together: as many as a processor's own cache holds. Cells
 * stand far apart, one or two in a line of memory, so that each packet of another flow has to wait for one;
 * of some ten thousand flows all hints are at hand.
 *
 * A hint need not be true: whoever follows it compares the flow itself. So nobody takes hints back. */
#ifndef PIAS_HINTS_H
#define PIAS_HINTS_H

#include "maps.h"

/* Together 1 MiB. */
enum { HINT_SETS = 1 << 15, HINT_WAYS = 4 };

struct hints {
    u64 cell[HINT_WAYS];
};

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, HINT_SETS);
    TYPE(key, u32);
    TYPE(value, struct hints);
} HINTS SEC(".maps");

/* Where the hint of a product is. */
INLINE struct hints *hints_of(u64 product)
{
    u32 set = product >> 32 & (HINT_SETS - 1);
    return map_lookup(&HINTS, &set);
}

/* Whether one of the flows with the tag of `cell` is there. */
INLINE int has_tag(u64 cell, u64 wanted)
{
    return cell != 0 && cell >> 32 == wanted >> 32;
}

/* A cell with this tag, or 0. */
INLINE u64 hint(const struct hints *hints, u64 wanted)
{
#pragma clang loop unroll(full)
    for (u32 way = 0; way < HINT_WAYS; way++) {
        u64 cell = *(volatile u64 *)&hints->cell[way];
        if (has_tag(cell, wanted))
            return cell;
    }
    return 0;
}

/* Keeps a cell, in place of any. */
INLINE void keep_hint(struct hints *hints, u64 cell, u32 now)
{
    u32 way = (cell >> 32 ^ now) % HINT_WAYS;
#pragma clang loop unroll(full)
    for (u32 free = 0; free < HINT_WAYS; free++)
        if (*(volatile u64 *)&hints->cell[free] == 0)
            way = free;
    *(volatile u64 *)&hints->cell[way % HINT_WAYS] = cell;
}

#endif
