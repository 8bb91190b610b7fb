/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Zero pages of shared memory: fallocate() puts them into the page cache, and
 * CONTINUE maps them. */
#include "platform.h"

static void one_kind(const char *kind, unsigned flags, size_t page,
                     uint64_t feature)
{
    int fd = memfd_create("guest", flags);
    uint64_t features;
    int uffd = uffd_new(0, &features);
    struct uffdio_continue cont;
    struct toucher toucher;
    struct uffd_msg msg;
    char text[128];
    uint8_t *guest;

    snprintf(text, sizeof(text), "%s: fallocate and CONTINUE", kind);
    if (!(features & feature)) {
        skip(text, "this kernel has no minor faults of it");
        return;
    }
    if (fd < 0 || ftruncate(fd, (off_t)(2 * page)))
        broken(kind);
    guest = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (guest == MAP_FAILED) {
        skip(text, "no huge pages are reserved");
        return;
    }
    uffd_register(uffd, guest, 2 * page,
                  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
    cont = (struct uffdio_continue){{(uintptr_t)guest, page}, 0, 0};
    snprintf(text, sizeof(text), "%s: without it there is nothing to map",
             kind);
    result(ioctl_elsewhere(uffd, UFFDIO_CONTINUE, &cont, sizeof(cont)) ==
               EFAULT,
           text);
    touch(&toucher, guest);
    snprintf(text, sizeof(text), "%s: after fallocate CONTINUE shows zeros",
             kind);
    cont.mapped = 0;
    result(await_fault(uffd, &msg) && !fallocate(fd, 0, 0, (off_t)page) &&
               !ioctl_elsewhere(uffd, UFFDIO_CONTINUE, &cont, sizeof(cont)) &&
               cont.mapped == (int64_t)page && touched(&toucher) == 0 &&
               all_bytes(guest, page, 0),
           text);
    guest[1] = 1;
    snprintf(text, sizeof(text), "%s: fallocate changes no page that is there",
             kind);
    result(!fallocate(fd, 0, 0, (off_t)page) && guest[1] == 1, text);
    munmap(guest, 2 * page);
    close(uffd);
    close(fd);
}

int main(void)
{
    one_kind("shmem", 0, PAGE, UFFD_FEATURE_MINOR_SHMEM);
    one_kind("hugetlb", MFD_HUGETLB, HUGE, UFFD_FEATURE_MINOR_HUGETLBFS);
    return finish();
}
