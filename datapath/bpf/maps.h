/* The tables. Those that piasd reads or writes as memory are mmap-able arrays. */
#ifndef PIAS_MAPS_H
#define PIAS_MAPS_H

#include "layout.h"

/* volatile: its value is not known when this is compiled. */
SEC(".rodata") const volatile struct config CONFIG = {};

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct state);
} STATE SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, DEVICES);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct device);
} DEVICE SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1); /* set by the loader, as of PINS */
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct peer);
} PEERS SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct bucket);
} PINS SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1 << (ELSEWHERE_BITS - 6));
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct elsewhere);
} ELSEWHERE SEC(".maps");

struct {
    UINT(type, MAP_HASH);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_NO_PREALLOC);
    TYPE(key, struct group_key);
    TYPE(value, struct group);
} GROUPS SEC(".maps");

struct {
    UINT(type, MAP_PERCPU_ARRAY);
    UINT(max_entries, COUNTERS);
    TYPE(key, u32);
    TYPE(value, u64);
} COUNTS SEC(".maps");

/* Keys of groups whose candidates were used, each at most once a second. */
struct {
    UINT(type, MAP_RINGBUF);
    UINT(max_entries, 1 << 16);
} USED SEC(".maps");

INLINE void count(u32 counter)
{
    u64 *value = map_lookup(&COUNTS, &counter);
    if (LIKELY(value != 0))
        *value += 1;
}

#endif
