/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private hugetlb memory: whole huge pages by COPY, no ZEROPAGE. */
#include "platform.h"

int main(void)
{
    uint8_t *guest = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    uint8_t *from = memory_new(HUGE);
    struct uffdio_zeropage zero;
    struct toucher toucher;
    struct uffd_msg msg;
    uint64_t features;
    int64_t done;
    int uffd = uffd_new(0, &features);

    if (guest == MAP_FAILED) {
        skip("COPY into hugetlb memory", "no huge pages are reserved");
        return finish();
    }
    memset(from, 2, HUGE);
    uffd_register(uffd, guest, 2 * HUGE, UFFDIO_REGISTER_MODE_MISSING);
    touch(&toucher, guest + 5 * PAGE);
    result(await_fault(uffd, &msg) &&
               msg.arg.pagefault.address / HUGE * HUGE == (uintptr_t)guest,
           "a fault names its huge page");
    result(copy_elsewhere(uffd, guest, from, PAGE, 0, &done) == EINVAL,
           "COPY of 4 KiB gives EINVAL");
    zero = (struct uffdio_zeropage){{(uintptr_t)guest, HUGE}, 0, 0};
    result(ioctl_elsewhere(uffd, UFFDIO_ZEROPAGE, &zero, sizeof(zero)) ==
               EINVAL,
           "ZEROPAGE gives EINVAL");
    result(!copy_elsewhere(uffd, guest, from, HUGE, 0, &done) &&
               done == (int64_t)HUGE && touched(&toucher) == 2 &&
               all_bytes(guest, HUGE, 2),
           "COPY of 2 MiB places it");
    return finish();
}
