/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared memory: written through a second mapping, then UFFDIO_CONTINUE. */
#include "platform.h"

#define PAGES 8

static int continue_elsewhere(int uffd, void *at, int64_t *done)
{
    struct uffdio_continue cont = {{(uintptr_t)at, PAGE}, 0, 0};
    int error = ioctl_elsewhere(uffd, UFFDIO_CONTINUE, &cont, sizeof(cont));

    *done = cont.mapped;
    return error;
}

int main(void)
{
    uint64_t features, flags;
    int fd = memfd_create("guest", 0), uffd = uffd_new(0, &features);
    struct toucher toucher;
    struct uffd_msg msg;
    uint8_t *guest, *daemon;
    int64_t done;

    if (!(features & UFFD_FEATURE_MINOR_SHMEM)) {
        skip("CONTINUE of shared memory", "this kernel has no minor faults");
        return finish();
    }
    if (fd < 0 || ftruncate(fd, PAGES * PAGE))
        broken("memfd");
    guest = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                 0);
    daemon = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                  0);
    uffd_register(uffd, guest, PAGES * PAGE,
                  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
    result(true, "MISSING and MINOR can be registered together");

    touch(&toucher, guest);
    result(await_fault(uffd, &msg) &&
               !(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR),
           "a page that is nowhere faults as missing");
    memset(daemon, 0x11, PAGE);
    result(!continue_elsewhere(uffd, guest, &done) && done == PAGE &&
               touched(&toucher) == 0x11,
           "written through the second mapping, CONTINUE shows and wakes it");
    result(continue_elsewhere(uffd, guest, &done) == EEXIST,
           "CONTINUE of a mapped page gives EEXIST");
    result(continue_elsewhere(uffd, guest + 6 * PAGE, &done) == EFAULT,
           "CONTINUE of a page that is nowhere gives EFAULT");

    /* The danger: the network has written half of it. */
    memset(daemon + PAGE, 0x22, PAGE / 2);
    touch(&toucher, guest + PAGE);
    flags = await_fault(uffd, &msg) ? msg.arg.pagefault.flags : 0;
    result(flags & UFFD_PAGEFAULT_FLAG_MINOR && !toucher.done,
           "a half written page faults as minor and is not shown");
    memset(daemon + PAGE + PAGE / 2, 0x22, PAGE / 2);
    result(!continue_elsewhere(uffd, guest + PAGE, &done) &&
               touched(&toucher) == 0x22 && all_bytes(guest + PAGE, PAGE, 0x22),
           "until it is whole");
    return finish();
}
