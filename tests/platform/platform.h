/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the programs here share. Each shows one thing that remapd assumes of
 * the kernel. The process itself stands for the guest: it owns the memory and
 * the userfaultfd. What a daemon would do is done by a forked child, which has
 * another address space and the same descriptors.
 */
#ifndef REMAPD_TESTS_PLATFORM_H
#define REMAPD_TESTS_PLATFORM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../daemon/uffdio.h"

#define PAGE        4096ul
#define HUGE        (2ul << 20)
#define DEADLINE_MS 10000
#define COLLAPSE    25 /* MADV_COLLAPSE: newer than the headers may be */

static unsigned tests_failed;

static inline void result(bool ok, const char *what)
{
    printf("%sok - %s\n", ok ? "" : "not ", what);
    tests_failed += !ok;
}

static inline void skip(const char *what, const char *reason)
{
    printf("ok - %s # SKIP %s\n", what, reason);
}

/* The whole program's end. */
static inline int finish(void)
{
    return tests_failed ? 1 : 0;
}

static inline void broken(const char *what)
{
    printf("not ok - %s: %s\n", what, strerror(errno));
    exit(1);
}

/* A userfaultfd, ready for use; @flags beside the usual ones. */
static inline int uffd_new(int flags, uint64_t *features)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
        broken("userfaultfd");
    if (features)
        *features = api.features;
    return fd;
}

static inline void uffd_register(int uffd, void *base, size_t bytes,
                                 uint64_t mode)
{
    struct uffdio_register reg = {{(uintptr_t)base, bytes}, mode, 0};

    if (ioctl(uffd, UFFDIO_REGISTER, &reg))
        broken("UFFDIO_REGISTER");
}

/* Private anonymous memory at a multiple of a huge page. */
static inline uint8_t *memory_new(size_t bytes)
{
    uint8_t *at = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        broken("mmap");
    at = (uint8_t *)(((uintptr_t)at + HUGE - 1) / HUGE * HUGE);
    madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

/* Call ioctl() in another process; @arg comes back. Return: 0 or the errno. */
static inline int ioctl_elsewhere(int fd, unsigned long request, void *arg,
                                  size_t bytes)
{
    struct {
        int error;
        char arg[256];
    } *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int error, status;
    pid_t child;

    if (shared == MAP_FAILED)
        broken("mmap");
    memcpy(shared->arg, arg, bytes);
    child = fork();
    if (!child) {
        shared->error = ioctl(fd, request, shared->arg) ? errno : 0;
        _exit(0);
    }
    if (waitpid(child, &status, 0) != child || status)
        broken("the other process");
    memcpy(arg, shared->arg, bytes);
    error = shared->error;
    munmap(shared, PAGE);
    return error;
}

/* A thread of the guest that reads one byte. */
struct toucher {
    pthread_t thread;
    volatile uint8_t *at;
    uint8_t value;
    atomic_bool done;
};

static inline void *touch_main(void *opaque)
{
    struct toucher *toucher = opaque;

    toucher->value = *toucher->at;
    toucher->done = true;
    return NULL;
}

static inline void touch(struct toucher *toucher, void *at)
{
    toucher->at = at;
    toucher->done = false;
    if (pthread_create(&toucher->thread, NULL, touch_main, toucher))
        broken("pthread_create");
}

static inline uint8_t touched(struct toucher *toucher)
{
    pthread_join(toucher->thread, NULL);
    return toucher->value;
}

/* Wait for a fault. Return: false if none comes before the deadline. */
static inline bool await_fault(int uffd, struct uffd_msg *msg)
{
    struct pollfd fd = {.fd = uffd, .events = POLLIN};

    return poll(&fd, 1, DEADLINE_MS) == 1 &&
           read(uffd, msg, sizeof(*msg)) == sizeof(*msg) &&
           msg->event == UFFD_EVENT_PAGEFAULT;
}

/* As every remapd has it: COPY of @length from @from. */
static inline int copy_elsewhere(int uffd, void *to, const void *from,
                                 size_t length, uint64_t mode, int64_t *done)
{
    struct uffdio_copy copy = {(uintptr_t)to, (uintptr_t)from, length, mode,
                               0};
    int error = ioctl_elsewhere(uffd, UFFDIO_COPY, &copy, sizeof(copy));

    if (done)
        *done = copy.copy;
    return error;
}

/* Is there a page at @at? Looking does not fault. */
static inline bool page_present(const void *at)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) != 8)
        broken("/proc/self/pagemap");
    close(fd);
    return entry >> 63;
}

/* KiB of huge pages mapped in [@base, @base + @bytes). */
static inline unsigned long huge_kib(const void *base, size_t bytes)
{
    unsigned long start, end, value, kib = 0;
    FILE *file = fopen("/proc/self/smaps", "r");
    bool inside = false;
    char line[512];

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start < (uintptr_t)base + bytes && end > (uintptr_t)base;
        else if (inside && sscanf(line, "AnonHugePages: %lu", &value) == 1)
            kib += value;
    }
    if (file)
        fclose(file);
    return kib;
}

static inline bool all_bytes(const uint8_t *at, size_t bytes, uint8_t value)
{
    for (size_t i = 0; i < bytes; i++) {
        if (at[i] != value)
            return false;
    }
    return true;
}

#endif
