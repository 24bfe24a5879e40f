/* Tags of VLANs (802.1Q): taken off what comes in, and put before what leaves.
 *
 *   │ MAC addresses 12 │ 0x8100 2 │ priority and VLAN 2 │ type 2 │ packet │
 *
 * Between the two a frame is as one without. Outer tags of other kinds (802.1ad) are passed up. */
#ifndef PIAS_VLAN_H
#define PIAS_VLAN_H

#include "maps.h"
#include "packet.h"

enum { TAG = 4 };
#define ETHERTYPE_VLAN be16(0x8100)
#define VLAN_OF(control) ((control) & be16(0x0FFF))

struct tagged {
    u32 macs[3];
    u16 tag_type;
    u16 control;
    u16 type;
};

/* Where a frame came in: by a VLAN's device where it was tagged, and with which tag. */
struct entrance {
    u32 ifindex;
    u16 tagged;
    /* As it stood in the tag. */
    u16 control;
};

/* Moves the addresses of a frame to where it begins now. */
INLINE void write_macs(u32 *to, const u32 *macs)
{
    to[0] = macs[0];
    to[1] = macs[1];
    to[2] = macs[2];
}

/* Puts a tag before a frame. Fails where there is no room. */
INLINE int push_tag(struct xdp_md *ctx, u16 control)
{
    const struct tagged *before = (void *)(long)ctx->data;
    if ((void *)before + ETHERNET > (void *)(long)ctx->data_end)
        return 0;
    u32 macs[3];
    write_macs(macs, before->macs);
    if (adjust_head(ctx, -TAG) != 0)
        return 0;
    struct tagged *frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return 0;
    write_macs(frame->macs, macs);
    frame->tag_type = ETHERTYPE_VLAN;
    frame->control = control;
    return 1;
}

/* Takes the tag of a VLAN off that has a device of which piasd told. Fails where the frame is as it should
 * not be any more, which does not happen. */
INLINE int pop_tag(struct xdp_md *ctx, struct entrance *entrance)
{
    const struct tagged *frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end || frame->tag_type != ETHERTYPE_VLAN)
        return 1;
    struct port port = {.ifindex = entrance->ifindex, .tag = VLAN_OF(frame->control)};
    const struct port *device = map_lookup(&VLANS, &port);
    if (device == 0 || port.tag == 0)
        return 1;
    u32 macs[3];
    write_macs(macs, frame->macs);
    entrance->control = frame->control;
    entrance->ifindex = device->ifindex;
    if (adjust_head(ctx, TAG) != 0)
        return 1;
    entrance->tagged = 1;
    struct tagged *without = (void *)(long)ctx->data;
    if ((void *)without + ETHERNET > (void *)(long)ctx->data_end)
        return 0;
    write_macs(without->macs, macs);
    return 1;
}

#endif
