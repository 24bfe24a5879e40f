/* What the programs use of the kernel: types, verdicts, helpers. Declared here, so that building
 * needs a compiler and no headers. Numbers are those of the kernel's interface, which never change. */
#ifndef PIAS_KERNEL_H
#define PIAS_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define LIKELY(condition) __builtin_expect(!!(condition), 1)

/* How maps are described to the loader: numbers and types as members of a structure. */
#define UINT(name, value) int(*name)[value]
#define TYPE(name, value) typeof(value) *name

/* Programs run on machines of either byte order; all fields of the wire are big-endian. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(value) __builtin_bswap16(value)
#define be32(value) __builtin_bswap32(value)
#define be64(value) __builtin_bswap64(value)
#else
#error "the tables' words are laid out for little-endian machines"
#endif

enum { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };

struct xdp_md {
    u32 data;
    u32 data_end;
    u32 data_meta;
    u32 ingress_ifindex;
    u32 rx_queue_index;
    u32 egress_ifindex;
};

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_RINGBUF = 27 };
enum { MAP_NO_PREALLOC = 1 << 0, MAP_MMAPABLE = 1 << 10 };

enum { AF_INET = 2, AF_INET6 = 10 };

/* struct bpf_fib_lookup; what stands in unions is named for what it is used for here. */
struct fib_lookup {
    u8 family;
    u8 l4_protocol;
    u16 sport;
    u16 dport;
    u16 tot_len; /* in: of the packet; out: the MTU of its path */
    u32 ifindex; /* in: where from; out: where to */
    u32 tos;
    u32 source[4];
    u32 destination[4];
    u16 vlan_proto;
    u16 vlan_tci;
    u8 source_mac[6];
    u8 destination_mac[6];
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static long (*fib_lookup)(struct xdp_md *ctx, struct fib_lookup *params, int size, u32 flags) = (void *)69;
static long (*ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static u64 (*jiffies)(void) = (void *)118;
static u64 (*coarse_clock)(void) = (void *)160;
static long (*loop)(u32 count, void *step, void *context, u64 flags) = (void *)181;

#endif
