/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "log.h"
#include "place.h"
#include "uffdio.h"
#include "util.h"

#define UFFD_LINK "anon_inode:[userfaultfd]"

static const struct {
    uint64_t bit;
    const char *name;
} features[] = {
    {UFFD_FEATURE_MISSING_HUGETLBFS, "missing-hugetlbfs"},
    {UFFD_FEATURE_MISSING_SHMEM, "missing-shmem"},
    {UFFD_FEATURE_MINOR_HUGETLBFS, "minor-hugetlbfs"},
    {UFFD_FEATURE_MINOR_SHMEM, "minor-shmem"},
    {UFFD_FEATURE_MOVE, "move"},
    {UFFD_FEATURE_REMAP, "remap"},
};

/* Once checked. */
static uint64_t kernel_features;
static bool frees_page_tables;

/* What the kernel grants to a new userfaultfd; -errno if there is none. */
static int probe_features(uint64_t *granted)
{
    struct uffdio_api api = {.api = UFFD_API};
    AUTO_CLOSE int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    AUTO_CLOSE int fd = -1;

    fd = device >= 0 ? ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC)
                     : (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
        return -errno;
    *granted = api.features;
    return 0;
}

/* What the process's page tables take, in KiB. */
static unsigned long probe_tables(void)
{
    AUTO_FCLOSE FILE *status = fopen("/proc/self/status", "re");
    unsigned long kib = 0;
    char line[128];

    while (status && fgets(line, sizeof(line), status))
        if (sscanf(line, "VmPTE: %lu", &kib) == 1)
            break;
    return kib;
}

/* Ref: CONFIG_PT_RECLAIM, since Linux 6.14. */
static bool probe_tables_freed(void)
{
    uint8_t *map = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *huge = (uint8_t *)align_up((uintptr_t)map, HUGE_BYTES);
    unsigned long before;
    bool freed;

    if (map == MAP_FAILED)
        return false;
    madvise(huge, HUGE_BYTES, MADV_NOHUGEPAGE);
    *huge = 1;
    before = probe_tables();
    madvise(huge, HUGE_BYTES, MADV_DONTNEED);
    freed = probe_tables() < before;
    munmap(map, 2 * HUGE_BYTES);
    return freed;
}

bool probe_frees_page_tables(void)
{
    return frees_page_tables;
}

uint64_t probe_granted(void)
{
    return kernel_features;
}

int probe_uffd(int fd, bool shared, char *error)
{
    char link[64], path[64];
    ssize_t length;
    bool blocks;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    length = fd < 0 ? -1 : readlink(path, link, sizeof(link) - 1);
    blocks = !shared && !(fcntl(fd, F_GETFL) & O_NONBLOCK);
    if (length < 0 || strncmp(link, UFFD_LINK, (size_t)length) || blocks) {
        snprintf(error, ERROR_TEXT_BYTES, "QEMU handed over %s",
                 length < 0 ? "no userfaultfd"
                 : blocks   ? "a userfaultfd that blocks"
                            : "a descriptor that is no userfaultfd");
        return -EINVAL;
    }
    return 0;
}

void probe_check(void)
{
    int ret = probe_features(&kernel_features);

    frees_page_tables = probe_tables_freed();
    if (ret == -ENOSYS)
        die("this kernel has no userfaultfd: it needs CONFIG_USERFAULTFD");
    if (ret == -EPERM || ret == -EACCES)
        die("no right to use userfaultfd: give this user access to "
            "/dev/userfaultfd (kernel 6.1 and later), or CAP_SYS_PTRACE, or "
            "set the sysctl vm.unprivileged_userfaultfd=1");
    if (ret)
        die("userfaultfd does not work: %s", strerror(-ret));
    if (!(kernel_features & UFFD_FEATURE_MISSING_SHMEM) ||
        !(kernel_features & UFFD_FEATURE_MISSING_HUGETLBFS))
        log_warning("this kernel reports no missing faults of shared memory "
                    "or hugetlb: guests that use them migrate natively");
    if (!(kernel_features & UFFD_FEATURE_MINOR_SHMEM))
        log_warning("this kernel has no minor faults (5.14 and later do): "
                    "guests with shared memory migrate natively");
    if (process_vm_readv(getpid(), NULL, 0, NULL, 0, 0) < 0)
        die("process_vm_readv does not work: %s: is it shut out by a seccomp "
            "filter, or is CONFIG_CROSS_MEMORY_ATTACH missing?",
            strerror(errno));
}

void probe_print(void)
{
    static const struct {
        const char *name;
        struct block block;
    } kinds[] = {
        {"private anonymous, 4 KiB or THP",
         {.page_size = PAGE_BYTES, .length = HUGE_BYTES, .fd = -1}},
        {"shared memfd", {.page_size = PAGE_BYTES, .shared = true}},
        {"hugetlb 2 MiB, private", {.page_size = HUGE_BYTES, .fd = -1}},
        {"hugetlb 2 MiB, shared memfd",
         {.page_size = HUGE_BYTES, .shared = true}},
    };
    uint64_t granted = 0;
    int ret = probe_features(&granted);

    printf("userfaultfd: %s\n", ret ? strerror(-ret) : "yes");
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
        printf("  %-20s %s\n", features[i].name,
               granted & features[i].bit ? "yes" : "no");
    printf("page tables left empty: %s\n",
           probe_tables_freed() ? "freed" : "kept");
    puts("engine by kind of guest memory, with the QEMU of this project:");
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        printf("  %-32s %s\n", kinds[i].name,
               place_ops_of(place_engine_for(&kinds[i].block, granted,
                                             granted & UFFD_FEATURE_MOVE,
                                             PLACE_ENGINES))
                   ->name);
}
