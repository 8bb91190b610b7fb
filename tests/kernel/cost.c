// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What it costs to bring 2 MiB into another process, and a missing fault to
 * its message: in instructions, if the machine counts a tick of its clock for
 * each (tests/kernel/vm -i). Prints "cost WHAT TICKS", the mean of all rounds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

/* As kernel-patches/README.md has them: released headers do not. */
#ifndef UFFDIO_REMAP
#define UFFD_FEATURE_REMAP (1 << 30)
struct uffdio_remap {
    __u64 dst, src, len, mode;
    __s64 remap;
};
#define UFFDIO_REMAP _IOWR(0xAA, 0x30, struct uffdio_remap)
#endif

#define PAGE 4096ul
#define HUGE (2ul << 20)
#define ROUNDS 32

/* Shared with the guest, which runs in an address space of its own. */
struct shared {
    int uffd;
    char *area;
    uint64_t started; /* by the guest, just before it touches the page */
};

static struct shared *shared;

static void die(const char *what)
{
    fprintf(stderr, "cost: %s: %s\n", what, strerror(errno));
    exit(1);
}

static char *map_area(size_t bytes)
{
    char *raw = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *area = (char *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));

    if (raw == MAP_FAILED || madvise(area, bytes, MADV_HUGEPAGE))
        die("mmap");
    return area;
}

static void guest(int go, int ready)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    size_t bytes = 4 * ROUNDS * HUGE;
    char byte = 0;

    shared->area = map_area(bytes);
    shared->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    reg.range = (struct uffdio_range){(uintptr_t)shared->area, bytes};
    if (shared->uffd < 0 || ioctl(shared->uffd, UFFDIO_API, &api) ||
        ioctl(shared->uffd, UFFDIO_REGISTER, &reg) ||
        write(ready, &byte, 1) != 1)
        die("guest");
    /* Each command touches one more range for writing. */
    for (size_t i = 3 * ROUNDS; read(go, &byte, 1) == 1; i++) {
        shared->started = __rdtsc();
        shared->area[i * HUGE] = 1;
    }
    _exit(0);
}

/* Each step must move all of its 2 MiB. */
static int move_remap(int uffd, char *dst, char *src)
{
    struct uffdio_remap arg = {(uintptr_t)dst, (uintptr_t)src, HUGE, 0, 0};

    return ioctl(uffd, UFFDIO_REMAP, &arg);
}

static int move_copy(int uffd, char *dst, char *src, size_t step)
{
    for (size_t at = 0; at < HUGE; at += step) {
        struct uffdio_copy arg = {(uintptr_t)dst + at, (uintptr_t)src + at,
                                  step, 0, 0};

        if (ioctl(uffd, UFFDIO_COPY, &arg))
            return -1;
    }
    return 0;
}

static int move_copy_2m(int uffd, char *dst, char *src)
{
    return move_copy(uffd, dst, src, HUGE);
}

static int move_copy_4k(int uffd, char *dst, char *src)
{
    return move_copy(uffd, dst, src, PAGE);
}

static void measure(const char *what, int uffd, char *dst,
                    int (*move)(int, char *, char *))
{
    char *src = map_area(ROUNDS * HUGE);
    uint64_t primed = 0, filled = 0, moved = 0, start;

    for (size_t i = 0; i < ROUNDS; i++, dst += HUGE) {
        char *slot = src + i * HUGE;

        start = __rdtsc();
        slot[0] = 1;
        primed += __rdtsc() - start;
        start = __rdtsc();
        memset(slot, 7, HUGE);
        filled += __rdtsc() - start;
        start = __rdtsc();
        if (move(uffd, dst, slot))
            die(what);
        moved += __rdtsc() - start;
    }
    printf("cost %s %lu\n", what, (unsigned long)(moved / ROUNDS));
    if (move == move_remap) {
        printf("cost prime-2M %lu\n", (unsigned long)(primed / ROUNDS));
        printf("cost fill-2M %lu\n", (unsigned long)(filled / ROUNDS));
    }
}

int main(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    uint64_t ticks = 0;
    int go[2], ready[2];
    struct uffd_msg msg;
    int pidfd, uffd;
    pid_t pid;
    char byte;

    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || pipe(go) || pipe(ready))
        die("setup");
    pid = fork();
    if (!pid)
        guest(go[0], ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        die("guest");
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    uffd = (int)syscall(SYS_pidfd_getfd, pidfd, shared->uffd, 0);
    if (uffd < 0)
        die("pidfd_getfd");

    if (ioctl((int)syscall(SYS_userfaultfd, O_CLOEXEC), UFFDIO_API, &api))
        die("UFFDIO_API");
    if (api.features & UFFD_FEATURE_REMAP)
        measure("remap-2M", uffd, shared->area, move_remap);
    measure("copy-2M", uffd, shared->area + ROUNDS * HUGE, move_copy_2m);
    measure("copy-512x4K", uffd, shared->area + 2 * ROUNDS * HUGE, move_copy_4k);

    for (int i = 0; i < ROUNDS; i++) {
        struct pollfd pfd = {.fd = uffd, .events = POLLIN};
        struct uffdio_zeropage zero = {.range.len = PAGE};

        if (write(go[1], "", 1) != 1 || poll(&pfd, 1, -1) != 1 ||
            read(uffd, &msg, sizeof(msg)) != sizeof(msg))
            die("fault");
        ticks += __rdtsc() - shared->started;
        zero.range.start = msg.arg.pagefault.address & ~(PAGE - 1);
        if (ioctl(uffd, UFFDIO_ZEROPAGE, &zero))
            die("UFFDIO_ZEROPAGE");
    }
    printf("cost fault-to-message %lu\n", (unsigned long)(ticks / ROUNDS));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
