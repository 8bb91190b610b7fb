/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A page that the guest's QEMU discards is missing again. */
#include "platform.h"

int main(void)
{
    int uffd = uffd_new(0, NULL);
    uint8_t *memory = memory_new(2 * PAGE), from[PAGE];
    struct toucher toucher;
    struct uffd_msg msg;

    memset(from, 8, sizeof(from));
    memset(memory, 7, 2 * PAGE);
    uffd_register(uffd, memory, 2 * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    result(memory[0] == 7, "what was there before stays without a fault");
    result(!madvise(memory, PAGE, MADV_DONTNEED) && !page_present(memory) &&
               page_present(memory + PAGE),
           "MADV_DONTNEED takes the page and no other");
    touch(&toucher, memory);
    result(await_fault(uffd, &msg), "it faults again");
    result(!copy_elsewhere(uffd, memory, from, PAGE, 0, NULL) &&
               touched(&toucher) == 8 && memory[PAGE] == 7,
           "and can be placed again");
    return finish();
}
