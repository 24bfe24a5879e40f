/* What the kernel does with a packet before it makes anything of it. All that is not sure here is
 * passed on, and ends in the user-space pipeline, which is the reference. */
#include "ingress.h"

SEC("xdp") int pias(struct xdp_md *ctx)
{
    return ingress(ctx);
}

SEC("license") char LICENSE[] = "Dual MIT/GPL";
