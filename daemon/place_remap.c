/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine remap: pages leave the daemon's staging and become the guest's, a
 * slot whole, without a copy. Needs the kernel of kernel-patches/.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "place.h"
#include "uffdio.h"

static int remap_data(const struct place_target *target,
                      const struct block *block, uint64_t offset,
                      uint64_t length, const void *from, uint64_t *done)
{
    struct uffdio_remap remap = {
        .dst = block->hva + offset,
        .src = (uintptr_t)from,
        .len = length,
    };
    int error = ioctl(target->uffd, UFFDIO_REMAP, &remap) ? errno : 0;

    *done = remap.remap > 0 ? (uint64_t)remap.remap : 0;
    return error;
}

const struct place_ops place_remap_ops = {
    .name = "remap",
    .staged = true,
    .huge = true,
    .data = remap_data,
};
