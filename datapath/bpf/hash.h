/* XXH3-64 of the two lengths that proxies hash: flows (37 octets) and pairs (16). The reference is
 * protocol/src/hash.rs. */
#ifndef PIAS_HASH_H
#define PIAS_HASH_H

#include "layout.h"

#define SEED_FLOW 0x5049415300000002ULL
#define SEED_MIX 0x5049415300000004ULL

/* The default secret of XXH3, as little-endian words. */
#define SECRET_0 0xbe4ba423396cfeb8ULL
#define SECRET_8 0x1cad21f72c81017cULL
#define SECRET_16 0xdb979083e96dd4deULL
#define SECRET_24 0x1f67b3b7a4a44072ULL
#define SECRET_32 0x78e5c0cc4ee679cbULL
#define SECRET_40 0x2172ffcc7dd05a82ULL
#define SECRET_48 0x8e2443f7744608b8ULL
#define SECRET_56 0x4c263a81e69035e0ULL

#define PRIME64_1 0x9E3779B185EBCA87ULL
#define PRIME_AVALANCHE 0x165667919E3779F9ULL

/* The 128-bit product of two words: eBPF multiplies to 64 bits only. */
struct product {
    u64 high;
    u64 low;
};

INLINE struct product multiply(u64 a, u64 b)
{
    u64 a_low = (u32)a, a_high = a >> 32, b_low = (u32)b, b_high = b >> 32;
    u64 low = a_low * b_low;
    u64 middle = a_high * b_low + (low >> 32);
    u64 other = a_low * b_high + (u32)middle;
    struct product product = {
        .high = a_high * b_high + (middle >> 32) + (other >> 32),
        .low = (other << 32) | (u32)low,
    };
    return product;
}

INLINE u64 fold(u64 a, u64 b)
{
    struct product product = multiply(a, b);
    return product.high ^ product.low;
}

INLINE u64 avalanche(u64 hash)
{
    hash ^= hash >> 37;
    hash *= PRIME_AVALANCHE;
    return hash ^ (hash >> 32);
}

/* A flow as a packet has it. */
struct flow {
    struct address client;
    struct address group;
    u16 client_port;
    u16 group_port;
    u8 protocol;
};

/* FlowKey::hash: of the octets protocol, client, port, group, port; these are read at 0, 5, 8, 13, 16,
 * 21, 24 and 29. */
INLINE u64 flow_hash(const struct flow *flow)
{
    u64 client_port = flow->client_port, group_port = flow->group_port;
    u64 at_0 = flow->protocol | flow->client.high << 8;
    u64 at_8 = flow->client.high >> 56 | flow->client.low << 8;
    u64 at_16 = flow->client.low >> 56 | client_port << 8 | flow->group.high << 24;
    u64 at_24 = flow->group.high >> 40 | flow->group.low << 24;
    u64 at_32 = flow->group.low >> 40 | group_port << 24;
    u64 at_5 = at_0 >> 40 | at_8 << 24;
    u64 at_13 = at_8 >> 40 | at_16 << 24;
    u64 at_21 = at_16 >> 40 | at_24 << 24;
    u64 at_29 = at_24 >> 40 | at_32 << 24;
    u64 sum = 37 * PRIME64_1;
    sum += fold(at_16 ^ (SECRET_32 + SEED_FLOW), at_24 ^ (SECRET_40 - SEED_FLOW));
    sum += fold(at_5 ^ (SECRET_48 + SEED_FLOW), at_13 ^ (SECRET_56 - SEED_FLOW));
    sum += fold(at_0 ^ (SECRET_0 + SEED_FLOW), at_8 ^ (SECRET_8 - SEED_FLOW));
    sum += fold(at_21 ^ (SECRET_16 + SEED_FLOW), at_29 ^ (SECRET_24 - SEED_FLOW));
    return avalanche(sum);
}

/* hash::mix. */
INLINE u64 mix(u64 a, u64 b)
{
    u64 low = be64(a) ^ ((SECRET_24 ^ SECRET_32) + SEED_MIX);
    u64 high = be64(b) ^ ((SECRET_40 ^ SECRET_48) - SEED_MIX);
    return avalanche(16 + be64(low) + high + fold(low, high));
}

#endif
