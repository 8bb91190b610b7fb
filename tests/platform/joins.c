/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vhost-user back end maps the guest's memory, and registers missing faults
 * alone. Who has its userfaultfd registers minor faults before it does, and
 * they stay: it never sees a page that the network is still writing.
 */
#include "platform.h"

#define PAGES 4

static int register_elsewhere(int uffd, void *at, uint64_t mode)
{
    struct uffdio_register reg = {{(uintptr_t)at, PAGES * PAGE}, mode, 0};

    return ioctl_elsewhere(uffd, UFFDIO_REGISTER, &reg, sizeof(reg));
}

int main(void)
{
    uint64_t features, flags;
    int fd = memfd_create("guest", 0), uffd = uffd_new(0, &features);
    struct uffdio_continue cont = {0};
    struct toucher toucher;
    struct uffd_msg msg;
    uint8_t *back_end, *daemon;

    if (!(features & UFFD_FEATURE_MINOR_SHMEM)) {
        skip("joining", "this kernel has no minor faults");
        return finish();
    }
    if (fd < 0 || ftruncate(fd, PAGES * PAGE))
        broken("memfd");
    back_end = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_SHARED, fd, 0);
    daemon = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                  0);
    result(!register_elsewhere(uffd, back_end,
                               UFFDIO_REGISTER_MODE_MISSING |
                                   UFFDIO_REGISTER_MODE_MINOR),
           "another process can register a back end's memory");

    /* As libvhost-user does. */
    madvise(back_end, PAGES * PAGE, MADV_DONTNEED);
    madvise(back_end, PAGES * PAGE, MADV_NOHUGEPAGE);
    uffd_register(uffd, back_end, PAGES * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    mprotect(back_end, PAGES * PAGE, PROT_READ | PROT_WRITE);

    memset(daemon, 0x33, PAGE / 2);
    touch(&toucher, back_end);
    flags = await_fault(uffd, &msg) ? msg.arg.pagefault.flags : 0;
    result(flags & UFFD_PAGEFAULT_FLAG_MINOR && !toucher.done,
           "its own registration of missing faults keeps the minor ones");
    memset(daemon + PAGE / 2, 0x33, PAGE / 2);
    cont.range = (struct uffdio_range){(uintptr_t)back_end, PAGE};
    result(!ioctl_elsewhere(uffd, UFFDIO_CONTINUE, &cont, sizeof(cont)) &&
               touched(&toucher) == 0x33 && all_bytes(back_end, PAGE, 0x33),
           "CONTINUE shows it the whole page");
    return finish();
}
