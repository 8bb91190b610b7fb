/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engine copy: the kernel copies out of staging, on every kernel. And engine
 * move, which leaves to copy what is no whole huge page. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "place.h"

/* UFFDIO_ZEROPAGE is not for hugetlb: its zeros are copied from here. */
static const char zeros[HUGE_BYTES] __attribute__((aligned(4096)));

static int copy_data(const struct place_target *target,
                     const struct block *block, uint64_t offset,
                     uint64_t length, const void *from, uint64_t *done)
{
    struct uffdio_copy copy = {
        .dst = block->hva + offset,
        .src = (uintptr_t)from,
        .len = length,
    };
    int error = ioctl(target->uffd, UFFDIO_COPY, &copy) ? errno : 0;

    *done = copy.copy > 0 ? (uint64_t)copy.copy : 0;
    if (block->shared && from != zeros)
        atomic_fetch_add(&target->stats->copied_shared_pages,
                         *done / PAGE_BYTES);
    return error;
}

static int copy_zero(const struct place_target *target,
                     const struct block *block, uint64_t offset,
                     uint64_t length, uint64_t *done)
{
    struct uffdio_zeropage zero = {
        .range = {block->hva + offset, length},
    };
    int error;

    if (block->page_size > PAGE_BYTES) {
        length = MIN(length, sizeof(zeros));
        error = copy_data(target, block, offset, length, zeros, done);
        return error ? error : EAGAIN; /* with *done: the loop goes on */
    }
    error = ioctl(target->uffd, UFFDIO_ZEROPAGE, &zero) ? errno : 0;
    *done = zero.zeropage > 0 ? (uint64_t)zero.zeropage : 0;
    return error;
}

const struct place_ops place_copy_ops = {
    .name = "copy",
    .data = copy_data,
    .zero = copy_zero,
};

/* Whole huge pages by QEMU's placers, see place_slot(); the rest is copied. */
const struct place_ops place_move_ops = {
    .name = "move",
    .huge = true,
};
