/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Faults in the system calls of the page path, for a remapd that is built with
 * FAULTS=1: the linker has each call of FAULT_CALLS (faults.mk) go through here.
 *
 * REMAPD_FAULTS=SEED:KIND in the environment, or nothing happens. KIND:
 *   soft   what must be survived: a call is late, short where it may be, or
 *          interrupted, a userfaultfd has EAGAIN after a part
 *   hard   besides, a few times: a call fails, or a connection ends
 * At its end the daemon says how many there were.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SOFT_EVERY 4
#define HARD_EVERY_MIN 32 /* up to 32 times as many, by the seed */
#define LATE_MAX_NS 3000000
#define HARD_MAX 5 /* then no more, so that it comes to an end */
#define HARD_SETUP_EVERY 3 /* of those that are late, few as they are */
#define PAGE 4096
#define HUGE (2 << 20)

enum fault { FAULT_NONE, FAULT_LATE, FAULT_SHORT, FAULT_AGAIN, FAULT_FAIL, FAULTS };

static uint64_t seed;
static bool active, hard;
static uint64_t hard_every;
static _Atomic uint64_t calls, injected[FAULTS];

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static __attribute__((constructor)) void faults_begin(void)
{
    const char *text = getenv("REMAPD_FAULTS");
    char kind[8];
    unsigned long long number;

    if (!text)
        return;
    if (sscanf(text, "%llu:%7s", &number, kind) != 2 ||
        (strcmp(kind, "soft") && strcmp(kind, "hard"))) {
        fprintf(stderr, "REMAPD_FAULTS=%s: SEED:soft or SEED:hard\n", text);
        exit(1);
    }
    seed = mix(number + 1);
    hard = !strcmp(kind, "hard");
    hard_every = HARD_EVERY_MIN << number % 6;
    active = true;
}

static __attribute__((destructor)) void faults_end(void)
{
    if (active)
        fprintf(stderr, "faults: %llu late, %llu short, %llu again, "
                "%llu failed, of %llu calls\n",
                (unsigned long long)injected[FAULT_LATE],
                (unsigned long long)injected[FAULT_SHORT],
                (unsigned long long)injected[FAULT_AGAIN],
                (unsigned long long)injected[FAULT_FAIL],
                (unsigned long long)calls);
}

static void be_late(uint64_t random)
{
    struct timespec nap = {.tv_nsec = (long)(random % LATE_MAX_NS)};

    nanosleep(&nap, NULL);
}

/* What is to become of this call. @random: for more choices. Page threads only,
 * unless @anywhere: the main thread talks to QEMU by the same calls. */
static enum fault choose(bool anywhere, bool may_short, bool may_again,
                         uint64_t *random)
{
    enum fault fault = FAULT_NONE;

    if (!active || (!anywhere && getpid() == gettid()))
        return FAULT_NONE;
    *random = mix(seed + atomic_fetch_add(&calls, 1) * 0x9e3779b97f4a7c15u);
    if (hard && injected[FAULT_FAIL] < HARD_MAX && *random % hard_every == 0)
        fault = FAULT_FAIL;
    else if (*random >> 16 & 1 && *random / 7 % SOFT_EVERY == 0)
        fault = FAULT_LATE;
    else if (may_short && *random / 11 % SOFT_EVERY == 1)
        fault = FAULT_SHORT;
    else if (may_again && *random / 13 % SOFT_EVERY == 2)
        fault = FAULT_AGAIN;
    injected[fault] += fault != FAULT_NONE;
    if (fault == FAULT_LATE)
        be_late(*random >> 20);
    *random >>= 20;
    return fault;
}

static long fail_with(uint64_t random, const int *errors, unsigned count)
{
    errno = errors[random % count];
    return -1;
}

#define FAIL(...)                                                              \
    fail_with(random, (const int[]){__VA_ARGS__},                              \
              sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

/* ---- connections ---- */

static bool is_stream(int fd)
{
    socklen_t bytes = sizeof(int);
    int type = 0;

    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes);
    return type == SOCK_STREAM;
}

/* The first bytes of @iov, in @part, which has as many entries. */
static size_t shorten(const struct iovec *iov, size_t count, struct iovec *part,
                      uint64_t random)
{
    size_t total = 0, left, used = 0;

    for (size_t i = 0; i < count; i++)
        total += iov[i].iov_len;
    left = total > 1 ? 1 + random % (total - 1) : total;
    while (left && used < count) {
        part[used] = iov[used];
        if (part[used].iov_len > left)
            part[used].iov_len = left;
        left -= part[used++].iov_len;
    }
    return used;
}

ssize_t __real_recv(int fd, void *buffer, size_t bytes, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags)
{
    uint64_t random;
    bool stream = is_stream(fd);

    switch (choose(false, stream && bytes > 1, stream, &random)) {
    case FAULT_SHORT:
        return __real_recv(fd, buffer, 1 + random % (bytes - 1), flags);
    case FAULT_AGAIN:
        return FAIL(EINTR);
    case FAULT_FAIL:
        return random & 1 ? 0 : FAIL(ECONNRESET, ETIMEDOUT, ENOMEM);
    default:
        return __real_recv(fd, buffer, bytes, flags);
    }
}

ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    struct iovec part[msg->msg_iovlen];
    struct msghdr less = *msg;
    uint64_t random;

    switch (choose(false, true, true, &random)) {
    case FAULT_SHORT:
        less.msg_iov = part;
        less.msg_iovlen = shorten(msg->msg_iov, msg->msg_iovlen, part, random);
        return __real_recvmsg(fd, &less, flags);
    case FAULT_AGAIN:
        return FAIL(EINTR);
    case FAULT_FAIL:
        return random & 1 ? 0 : FAIL(ECONNRESET, ETIMEDOUT, ENOMEM);
    default:
        return __real_recvmsg(fd, msg, flags);
    }
}

ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    struct iovec part[msg->msg_iovlen];
    struct msghdr less = *msg;
    uint64_t random;

    /* A packet goes whole or not at all. */
    switch (choose(false, is_stream(fd), true, &random)) {
    case FAULT_SHORT:
        less.msg_iov = part;
        less.msg_iovlen = shorten(msg->msg_iov, msg->msg_iovlen, part, random);
        return __real_sendmsg(fd, &less, flags);
    case FAULT_AGAIN:
        return FAIL(EINTR);
    case FAULT_FAIL:
        return FAIL(EPIPE, ECONNRESET, ENOBUFS);
    default:
        return __real_sendmsg(fd, msg, flags);
    }
}

/* ---- the guest's memory ---- */

ssize_t __real_process_vm_readv(pid_t pid, const struct iovec *to,
                                unsigned long to_count,
                                const struct iovec *from,
                                unsigned long from_count, unsigned long flags);
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *to,
                                unsigned long to_count,
                                const struct iovec *from,
                                unsigned long from_count, unsigned long flags);
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *to,
                                unsigned long to_count,
                                const struct iovec *from,
                                unsigned long from_count, unsigned long flags)
{
    struct iovec part[to_count];
    uint64_t random;

    if (choose(false, false, false, &random) != FAULT_FAIL)
        return __real_process_vm_readv(pid, to, to_count, from, from_count,
                                       flags);
    if (random & 1) /* short only where memory ends */
        return __real_process_vm_readv(pid, part,
                                       shorten(to, to_count, part, random),
                                       from, from_count, flags);
    return FAIL(EFAULT, ENOMEM, EPERM, ESRCH);
}

ssize_t __real_process_vm_writev(pid_t pid, const struct iovec *from,
                                 unsigned long from_count,
                                 const struct iovec *to, unsigned long to_count,
                                 unsigned long flags);
ssize_t __wrap_process_vm_writev(pid_t pid, const struct iovec *from,
                                 unsigned long from_count,
                                 const struct iovec *to, unsigned long to_count,
                                 unsigned long flags);
ssize_t __wrap_process_vm_writev(pid_t pid, const struct iovec *from,
                                 unsigned long from_count,
                                 const struct iovec *to, unsigned long to_count,
                                 unsigned long flags)
{
    struct iovec part[from_count];
    uint64_t random;

    if (choose(false, false, false, &random) != FAULT_FAIL)
        return __real_process_vm_writev(pid, from, from_count, to, to_count,
                                        flags);
    if (random & 1)
        return __real_process_vm_writev(pid, part,
                                        shorten(from, from_count, part, random),
                                        to, to_count, flags);
    return FAIL(EFAULT, ENOMEM, EPERM, ESRCH);
}

ssize_t __real_pread(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    uint64_t random;

    if (choose(false, false, false, &random) != FAULT_FAIL)
        return __real_pread(fd, buffer, bytes, offset);
    return random & 1 ? __real_pread(fd, buffer, bytes / 2, offset)
                      : FAIL(EIO, ENOMEM);
}

int __real_fallocate(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t length)
{
    uint64_t random;

    return choose(false, false, false, &random) == FAULT_FAIL
               ? (int)FAIL(ENOSPC, ENOMEM)
               : __real_fallocate(fd, mode, offset, length);
}

/* ---- the userfaultfd ---- */

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

/* What the three that place have in common: a length, and a result. */
static bool places(unsigned long request, void *argument,
                   unsigned long long **length, long long **done)
{
    struct uffdio_copy *copy = argument;
    struct uffdio_zeropage *zero = argument;
    struct uffdio_continue *cont = argument;

    *length = request == UFFDIO_COPY       ? &copy->len
              : request == UFFDIO_ZEROPAGE ? &zero->range.len
                                           : &cont->range.len;
    *done = request == UFFDIO_COPY       ? &copy->copy
            : request == UFFDIO_ZEROPAGE ? &zero->zeropage
                                         : &cont->mapped;
    return request == UFFDIO_COPY || request == UFFDIO_ZEROPAGE ||
           request == UFFDIO_CONTINUE;
}

/* A part of the range, then EAGAIN, as when the address space is changing. */
static int place_a_part(int fd, unsigned long request, void *argument,
                        unsigned long long *length, long long *done,
                        uint64_t random)
{
    unsigned long long all = *length, part = random % (all / PAGE) * PAGE;
    int ret;

    if (!part || part % HUGE) { /* larger pages are placed whole or not */
        if (!part || all % HUGE == 0) {
            *done = -EAGAIN;
            return (int)fail_with(0, (const int[]){EAGAIN}, 1);
        }
    }
    *length = part;
    ret = __real_ioctl(fd, request, argument);
    *length = all;
    return ret ? ret : (int)fail_with(0, (const int[]){EAGAIN}, 1);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    unsigned long long *length;
    long long *done;
    uint64_t random;
    void *argument;
    va_list args;
    bool placing;

    va_start(args, request);
    argument = va_arg(args, void *);
    va_end(args);
    placing = places(request, argument, &length, &done);
    switch (choose(false, false, placing, &random)) {
    case FAULT_AGAIN:
        return place_a_part(fd, request, argument, length, done, random);
    case FAULT_FAIL:
        if (placing)
            *done = -ENOMEM;
        return (int)FAIL(ENOMEM);
    default:
        return __real_ioctl(fd, request, argument);
    }
}

/* A userfaultfd has fewer messages than are asked for, or none after all. The
 * kernel has no other error for one that is in use. */
ssize_t __real_read(int fd, void *buffer, size_t bytes);
ssize_t __wrap_read(int fd, void *buffer, size_t bytes);
ssize_t __wrap_read(int fd, void *buffer, size_t bytes)
{
    bool faults = bytes > sizeof(struct uffd_msg) &&
                  bytes % sizeof(struct uffd_msg) == 0;
    uint64_t random;

    if (!faults)
        return __real_read(fd, buffer, bytes);
    switch (choose(false, true, true, &random)) {
    case FAULT_SHORT:
        return __real_read(fd, buffer, sizeof(struct uffd_msg));
    case FAULT_AGAIN:
        return FAIL(EAGAIN, EINTR);
    default:
        return __real_read(fd, buffer, bytes);
    }
}

int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
    uint64_t random;

    return choose(false, false, true, &random) == FAULT_AGAIN
               ? (int)FAIL(EINTR)
               : __real_poll(fds, count, timeout);
}

/* ---- memory and threads of the daemon's own ---- */

/* The threads' buffers, staging, and mappings of shared memory. */
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd,
                  off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd,
                  off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd,
                  off_t offset)
{
    bool pages = bytes == HUGE || flags & MAP_SHARED || !protection;
    uint64_t random;

    if (pages && hard && injected[FAULT_FAIL] < HARD_MAX &&
        choose(true, false, false, &random) != FAULT_NONE &&
        random % HARD_SETUP_EVERY == 0) {
        injected[FAULT_FAIL]++;
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return __real_mmap(at, bytes, protection, flags, fd, offset);
}

/* Advice: refused, and nothing is wrong. */
int __real_madvise(void *at, size_t bytes, int advice);
int __wrap_madvise(void *at, size_t bytes, int advice);
int __wrap_madvise(void *at, size_t bytes, int advice)
{
    bool keep = advice == MADV_DONTDUMP; /* or a core would have pages */
    uint64_t random;

    return !keep && choose(true, false, true, &random) == FAULT_AGAIN
               ? (int)FAIL(EINVAL, ENOMEM, EAGAIN)
               : __real_madvise(at, bytes, advice);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*main)(void *), void *opaque)
{
    uint64_t random;

    if (hard && injected[FAULT_FAIL] < HARD_MAX &&
        choose(true, false, false, &random) != FAULT_NONE &&
        random % HARD_SETUP_EVERY == 0) {
        injected[FAULT_FAIL]++;
        return EAGAIN;
    }
    return __real_pthread_create(thread, attributes, main, opaque);
}
