/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Huge pages switched on after UFFDIO_REGISTER: nobody fills holes with zeros.
 * MADV_COLLAPSE takes the same way as khugepaged, at once. */
#include "platform.h"

int main(void)
{
    int uffd = uffd_new(0, NULL);
    uint8_t *guest = memory_new(HUGE), *plain = memory_new(HUGE);
    struct toucher toucher;
    struct uffd_msg msg;
    uint8_t from[PAGE];

    memset(from, 6, sizeof(from));
    for (size_t at = 0; at < HUGE; at += 2 * PAGE)
        guest[at] = plain[at] = 1;
    madvise(plain, HUGE, MADV_HUGEPAGE);
    if (madvise(plain, HUGE, COLLAPSE)) {
        skip("collapse of holes", "MADV_COLLAPSE does not work (6.1 and later)");
        return finish();
    }
    result(huge_kib(plain, HUGE) == HUGE / 1024 && page_present(plain + PAGE),
           "memory that is not registered collapses, holes become zeros");
    uffd_register(uffd, guest, HUGE, UFFDIO_REGISTER_MODE_MISSING);
    madvise(guest, HUGE, MADV_HUGEPAGE);
    result(madvise(guest, HUGE, COLLAPSE) && !huge_kib(guest, HUGE) &&
               !page_present(guest + PAGE),
           "registered memory with holes does not collapse");
    touch(&toucher, guest + PAGE);
    result(await_fault(uffd, &msg) &&
               !copy_elsewhere(uffd, guest + PAGE, from, PAGE, 0, NULL) &&
               touched(&toucher) == 6,
           "and its holes still fault");
    return finish();
}
