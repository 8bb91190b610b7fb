/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine continue: for shared memory. The bytes were received through the
 * daemon's own mapping of the guest's memfd; the kernel only has to map the
 * page-cache page for the guest.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "place.h"

static int continue_data(const struct place_target *target,
                         const struct block *block, uint64_t offset,
                         uint64_t length, const void *from, uint64_t *done)
{
    struct uffdio_continue cont = {
        .range = {block->hva + offset, length},
    };
    int error = ioctl(target->uffd, UFFDIO_CONTINUE, &cont) ? errno : 0;

    (void)from;
    *done = cont.mapped > 0 ? (uint64_t)cont.mapped : 0;
    return error;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* A page of a memfd that nobody has written yet is zero, but it must be in the
 * page cache, or there is nothing to map. fallocate() puts it there; but only
 * our mapping says that huge pages are wanted. */
static int continue_zero(const struct place_target *target,
                         const struct block *block, uint64_t offset,
                         uint64_t length, uint64_t *done)
{
    if (block->page_size == PAGE_BYTES)
        madvise(block->map + offset, length, MADV_POPULATE_WRITE);
    if (fallocate(block->fd, 0, (off_t)(block->fd_offset + offset),
                  (off_t)length))
        return errno;
    return continue_data(target, block, offset, length, NULL, done);
}

const struct place_ops place_continue_ops = {
    .name = "continue",
    .in_place = true,
    .data = continue_data,
    .zero = continue_zero,
};
