/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UFFDIO_COPY and ZEROPAGE, called from another process. */
#include "platform.h"

static int zero_elsewhere(int uffd, void *at, int64_t *done)
{
    struct uffdio_zeropage zero = {{(uintptr_t)at, PAGE}, 0, 0};
    int error = ioctl_elsewhere(uffd, UFFDIO_ZEROPAGE, &zero, sizeof(zero));

    *done = zero.zeropage;
    return error;
}

int main(void)
{
    int uffd = uffd_new(0, NULL);
    uint8_t *memory = memory_new(16 * PAGE), *from = memory_new(16 * PAGE);
    struct toucher toucher;
    struct uffd_msg msg;
    int64_t done;

    memset(from, 0x5a, 16 * PAGE);
    uffd_register(uffd, memory, 16 * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    touch(&toucher, memory + 3);
    result(await_fault(uffd, &msg) &&
               msg.arg.pagefault.address / PAGE * PAGE == (uintptr_t)memory,
           "a missing page is reported");
    result(!copy_elsewhere(uffd, memory, from, PAGE, 0, &done) &&
               done == PAGE && touched(&toucher) == 0x5a,
           "COPY from another process places the page and wakes");
    result(copy_elsewhere(uffd, memory, from, PAGE, 0, &done) == EEXIST &&
               done == -EEXIST,
           "COPY over a present page gives EEXIST");
    result(zero_elsewhere(uffd, memory, &done) == EEXIST && done == -EEXIST,
           "ZEROPAGE over a present page gives EEXIST");
    result(all_bytes(memory, PAGE, 0x5a), "and leaves it as it was");
    result(!zero_elsewhere(uffd, memory + 5 * PAGE, &done) && done == PAGE &&
               all_bytes(memory + 5 * PAGE, PAGE, 0),
           "ZEROPAGE places zeros");
    result(copy_elsewhere(uffd, memory + 2 * PAGE, from, 6 * PAGE, 0, &done) ==
                   EAGAIN &&
               done == 3 * PAGE,
           "COPY that meets a present page gives EAGAIN and the progress");
    result(copy_elsewhere(uffd, memory + 5 * PAGE, from, 3 * PAGE, 0, &done) ==
               EEXIST,
           "and EEXIST where it goes on");
    result(copy_elsewhere(uffd, memory + 4096 * PAGE, from, PAGE, 0, &done) ==
               ENOENT,
           "COPY to memory that is not registered gives ENOENT");
    return finish();
}
