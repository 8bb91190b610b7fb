/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UFFDIO_MOVE: refused across processes, whole huge pages within one. */
#include "platform.h"

int main(void)
{
    uint64_t features;
    int uffd = uffd_new(0, &features), error;
    uint8_t *guest = memory_new(2 * HUGE), *staging = memory_new(2 * HUGE);
    struct uffdio_move move;

    if (!(features & UFFD_FEATURE_MOVE)) {
        skip("UFFDIO_MOVE", "this kernel has none (6.8 and later do)");
        return finish();
    }
    uffd_register(uffd, guest, 2 * HUGE, UFFDIO_REGISTER_MODE_MISSING);
    memset(staging + PAGE, 1, PAGE);
    move = (struct uffdio_move){(uintptr_t)guest, (uintptr_t)staging + PAGE,
                                 PAGE, 0, 0};
    ioctl_elsewhere(uffd, UFFDIO_MOVE, &move, sizeof(move));
    result(ioctl(uffd, UFFDIO_MOVE, &move) && errno == EBUSY,
           "MOVE of a page that a fork has shared gives EBUSY");
    madvise(staging, 2 * HUGE, MADV_DONTFORK);
    memset(staging, 0x77, PAGE);
    move = (struct uffdio_move){(uintptr_t)guest, (uintptr_t)staging, PAGE,
                                 0, 0};
    error = ioctl_elsewhere(uffd, UFFDIO_MOVE, &move, sizeof(move));
    result(error == EINVAL && !page_present(guest),
           "MOVE into another process's memory gives EINVAL");
    result(!ioctl(uffd, UFFDIO_MOVE, &move) && move.move == PAGE &&
               guest[0] == 0x77 && !page_present(staging),
           "MOVE within one process takes the page away");
    move.move = 0;
    staging[0] = 1;
    result(ioctl(uffd, UFFDIO_MOVE, &move) && errno == EEXIST &&
               guest[0] == 0x77,
           "MOVE over a present page gives EEXIST");

    /* Huge pages are switched on after the registration, as in QEMU. */
    madvise(guest + HUGE, HUGE, MADV_HUGEPAGE);
    madvise(staging + HUGE, HUGE, MADV_HUGEPAGE);
    memset(staging + HUGE, 0x33, HUGE);
    if (huge_kib(staging + HUGE, HUGE) != HUGE / 1024) {
        skip("MOVE of a huge page", "no huge page could be had");
        return finish();
    }
    move = (struct uffdio_move){(uintptr_t)(guest + HUGE),
                                 (uintptr_t)(staging + HUGE), HUGE, 0, 0};
    result(!ioctl(uffd, UFFDIO_MOVE, &move) && move.move == (int64_t)HUGE,
           "MOVE takes 2 MiB at once");
    result(huge_kib(guest + HUGE, HUGE) == HUGE / 1024,
           "and the huge page stays huge");
    result(all_bytes(guest + HUGE, HUGE, 0x33), "with all its bytes");
    return finish();
}
