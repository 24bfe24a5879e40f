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

/* Each VLAN device twice: what frames come by it, and by what it is reached. A device and its frames on
 * the interface below it lead to each other. */
struct {
    UINT(type, MAP_HASH);
    UINT(max_entries, VLANS_MOST);
    UINT(map_flags, MAP_NO_PREALLOC);
    TYPE(key, struct port);
    TYPE(value, struct port);
} VLANS SEC(".maps");

struct {
    UINT(type, MAP_PERCPU_ARRAY);
    UINT(max_entries, COUNTERS);
    TYPE(key, u32);
    TYPE(value, u64);
} COUNTS SEC(".maps");

/* Targets of this proxy. */
struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1); /* set by the loader, as of all maps of translated flows */
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct target);
} TARGETS SEC(".maps");

/* Targets that take new flows, by group and part: as candidates, each by its index among the targets, its lease
 * being its id. All parts of a group but its last are full. A group of more targets than TARGETS_DRAWN is not
 * here. */
struct {
    UINT(type, MAP_HASH);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_NO_PREALLOC);
    TYPE(key, struct group_key);
    TYPE(value, struct group);
} JOINED SEC(".maps");

/* NAT addresses of mates, to which targets' packets may come here: those that are gone, and those that live. */
struct {
    UINT(type, MAP_HASH);
    UINT(max_entries, STOOD_FOR_MOST);
    UINT(map_flags, MAP_NO_PREALLOC);
    TYPE(key, struct address);
    TYPE(value, u64);
} STOOD_FOR SEC(".maps");

/* Handles of live peers by their tunnel endpoints. */
struct {
    UINT(type, MAP_HASH);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_NO_PREALLOC);
    TYPE(key, struct address);
    TYPE(value, u64);
} TUNNELS SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct nat_flow);
} NAT_FLOWS SEC(".maps");

/* Cells of translated flows by the client's side, and by the target's. */
struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct cells);
} NAT_FORWARD SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct cells);
} NAT_REVERSE SEC(".maps");

/* A ring of slots that were given back. */
struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, u64);
} NAT_FREE SEC(".maps");

struct {
    UINT(type, MAP_ARRAY);
    UINT(max_entries, 1);
    UINT(map_flags, MAP_MMAPABLE);
    TYPE(key, u32);
    TYPE(value, struct nat_state);
} NAT_STATE SEC(".maps");

/* Translated flows that user space should look at, each as the version and the slot of its entry: 1 << 32 times
 * the one, and the other; and NEWS_ANSWERED. */
struct {
    UINT(type, MAP_RINGBUF);
    UINT(max_entries, 1 << 20);
} FLOWS SEC(".maps");

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
