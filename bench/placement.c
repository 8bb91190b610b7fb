/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What it costs to bring 2 MiB into the memory of a guest's process, without a
 * network: each way that remapd has, its steps apart.
 *
 *   placement METHOD THREADS SPINNERS ROUNDS
 *
 * A child stands in for the QEMU; MOVE alone works within it, for the kernel
 * wants that. SPINNERS of its threads run all the while, as vCPUs would. Each
 * of THREADS places granules of its own. A round whose memory the host's host
 * has to provide first is measured, too, but not counted.
 *
 * Prints one line of JSON, nanoseconds a granule, medians:
 *   prime   staging: a huge page allocated and zeroed, or 0
 *   fill    2 MiB of bytes arrive in staging, or in place
 *   place   the ioctls
 *   touch   the guest reads all of it, a word a page
 *   fault   from a touch to its end, where a thread waits for the fault and
 *           places this granule then
 * Exits 3, with the reason, where this kernel has no such method.
 */
#include <errno.h>
#include <fcntl.h>
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
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../daemon/uffdio.h"

#define PAGE        4096ul
#define HUGE        (2ul << 20)
#define GRANULES    32 /* of each thread */
#define MAX_THREADS 8
#define WAIT_US     20
#define MAX_SAMPLES (MAX_THREADS * GRANULES * 64)

enum step { PRIME, FILL, PLACE, TOUCH, FAULT, STEPS };
static const char *const step_names[] = {"prime", "fill", "place", "touch",
                                         "fault"};

struct worker {
    unsigned index;
    uint8_t *staging; /* of the size of its granules */
    pthread_t thread;
};

struct method {
    const char *name;
    uint64_t feature; /* of userfaultfd, that it needs */
    bool shared, hugetlb, same_process, staged;
    int (*place)(uint64_t to, const uint8_t *from);
};

static const struct method *method;
static unsigned threads, spinners, rounds;
static int uffd = -1, memory_fd = -1;
static uint8_t *guest;   /* at one address in both processes */
static uint8_t *in_place; /* shared memory as the daemon has it */
static uint8_t payload[HUGE] __attribute__((aligned(4096)));

/* Shared by both processes: what the guest is to do, and how long it took. */
static struct {
    _Atomic unsigned order, done; /* counted: the nth order is done */
    enum { DROP, READ_ALL, FAULT_EACH } what;
    _Atomic uint64_t fault_ns[MAX_THREADS * GRANULES];
    _Atomic uint64_t touch_ns[MAX_THREADS * GRANULES];
    _Atomic bool failed;
    int uffd;
} *common;

static uint64_t samples[STEPS][MAX_SAMPLES];
static _Atomic unsigned counts[STEPS];

static void fail(const char *what)
{
    fprintf(stderr, "placement: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void lacks(const char *what)
{
    fprintf(stderr, "this kernel has no %s\n", what);
    exit(3);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t bytes_of_guest(void)
{
    return threads * GRANULES * HUGE;
}

static void sample(enum step step, uint64_t ns)
{
    samples[step][counts[step]++ % MAX_SAMPLES] = ns;
}

/* ---- the methods: 0 or a positive errno ---- */

static int copy_by(uint64_t to, const uint8_t *from, uint64_t step)
{
    for (uint64_t at = 0; at < HUGE; at += step) {
        struct uffdio_copy copy = {
            .dst = to + at, .src = (uintptr_t)from + at, .len = step};

        if (ioctl(uffd, UFFDIO_COPY, &copy))
            return errno;
    }
    return 0;
}

static int copy_pages(uint64_t to, const uint8_t *from)
{
    return copy_by(to, from, PAGE);
}

static int copy_granule(uint64_t to, const uint8_t *from)
{
    return copy_by(to, from, HUGE);
}

static int continue_granule(uint64_t to, const uint8_t *from)
{
    struct uffdio_continue args = {.range = {to, HUGE}};

    (void)from; /* received in place */
    return ioctl(uffd, UFFDIO_CONTINUE, &args) ? errno : 0;
}

static int move_granule(uint64_t to, const uint8_t *from)
{
    struct uffdio_move move = {
        .dst = to, .src = (uintptr_t)from, .len = HUGE};

    return ioctl(uffd, UFFDIO_MOVE, &move) ? errno : 0;
}

static int remap_granule(uint64_t to, const uint8_t *from)
{
    struct uffdio_remap remap = {
        .dst = to, .src = (uintptr_t)from, .len = HUGE};

    return ioctl(uffd, UFFDIO_REMAP, &remap) ? errno : 0;
}

static const struct method methods[] = {
    {.name = "copy-4k", .place = copy_pages},
    {.name = "copy-2m", .place = copy_granule},
    {.name = "continue-4k", .feature = UFFD_FEATURE_MINOR_SHMEM,
     .shared = true, .place = continue_granule},
    {.name = "continue-2m", .feature = UFFD_FEATURE_MINOR_HUGETLBFS,
     .shared = true, .hugetlb = true, .place = continue_granule},
    {.name = "move-2m", .feature = UFFD_FEATURE_MOVE, .same_process = true,
     .staged = true, .place = move_granule},
    {.name = "remap-2m", .feature = UFFD_FEATURE_REMAP, .staged = true,
     .place = remap_granule},
};

/* ---- the guest's process ---- */

static void *spin(void *opaque)
{
    volatile uint64_t count = 0;

    (void)opaque;
    for (;;)
        count++;
    return NULL;
}

static void start_spinners(void)
{
    for (unsigned i = 0; i < spinners; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, spin, NULL))
            fail("spinner");
    }
}

static uint64_t touch(const uint8_t *granule)
{
    uint64_t start = now_ns();

    for (uint64_t at = 0; at < HUGE; at += PAGE) {
        if (*(const volatile uint64_t *)(granule + at) !=
            *(const uint64_t *)(payload + at))
            common->failed = true;
    }
    return now_ns() - start;
}

static void guest_do(void)
{
    unsigned granules = threads * GRANULES;

    switch (common->what) {
    case DROP:
        if (method->shared &&
            fallocate(memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      (off_t)bytes_of_guest()))
            fail("hole");
        if (madvise(guest, bytes_of_guest(), MADV_DONTNEED))
            fail("drop");
        break;
    case READ_ALL:
        for (unsigned i = 0; i < granules; i++)
            common->touch_ns[i] = touch(guest + i * HUGE);
        break;
    case FAULT_EACH:
        for (unsigned i = 0; i < granules; i++) {
            uint64_t start = now_ns();

            (void)*(volatile uint64_t *)(guest + i * HUGE);
            common->fault_ns[i] = now_ns() - start;
        }
        break;
    }
}

static void *guest_main(void *opaque)
{
    (void)opaque;
    for (unsigned done = 0;; common->done = ++done) {
        while (common->order == done)
            usleep(WAIT_US);
        guest_do();
    }
    return NULL;
}

static void order(int what)
{
    common->what = what;
    common->order++;
}

static void await(void)
{
    while (common->done != common->order)
        usleep(WAIT_US);
}

static void open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register registered = {
        .range = {(uintptr_t)guest, bytes_of_guest()},
        .mode = method->shared ? UFFDIO_REGISTER_MODE_MINOR
                               : UFFDIO_REGISTER_MODE_MISSING,
    };
    int asked = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (asked < 0 || ioctl(asked, UFFDIO_API, &api))
        lacks("userfaultfd");
    close(asked);
    if ((api.features & method->feature) != method->feature)
        lacks(method->name);
    api = (struct uffdio_api){
        .api = UFFD_API, .features = method->shared ? method->feature : 0};
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) ||
        ioctl(uffd, UFFDIO_REGISTER, &registered))
        fail("registering the guest's memory");
    common->uffd = uffd;
}

static void start_guest(void)
{
    pthread_t thread;

    open_uffd();
    start_spinners();
    if (pthread_create(&thread, NULL, guest_main, NULL))
        fail("guest");
}

/* ---- who places ---- */

static uint8_t *aligned_map(uint64_t bytes)
{
    uint8_t *at = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        fail("memory");
    at = (uint8_t *)(((uintptr_t)at + HUGE - 1) / HUGE * HUGE);
    madvise(at, bytes, MADV_HUGEPAGE);
    return at;
}

static void make_memory(void)
{
    uint64_t bytes = bytes_of_guest();

    guest = aligned_map(bytes);
    if (!method->shared)
        return;
    memory_fd = memfd_create("guest", method->hugetlb ? MFD_HUGETLB : 0);
    if (memory_fd < 0 || ftruncate(memory_fd, (off_t)bytes))
        fail("memfd");
    in_place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd,
                    0);
    if (in_place == MAP_FAILED ||
        mmap(guest, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             memory_fd, 0) == MAP_FAILED) {
        if (method->hugetlb)
            lacks("free huge pages (vm.nr_hugepages)");
        fail("shared memory");
    }
}

static void place_granule(struct worker *worker, unsigned granule)
{
    uint64_t at = (worker->index * GRANULES + granule) * HUGE;
    uint8_t *from = method->shared   ? in_place + at
                    : method->staged ? worker->staging + granule * HUGE
                                     : worker->staging;
    uint64_t start = now_ns(), filled, placed;
    int error;

    memcpy(from, payload, HUGE);
    filled = now_ns();
    error = method->place((uintptr_t)guest + at, from);
    placed = now_ns();
    if (error) {
        errno = error;
        fail(method->name);
    }
    sample(FILL, filled - start);
    sample(PLACE, placed - filled);
}

static void prime(struct worker *worker)
{
    for (unsigned i = 0; method->staged && i < GRANULES; i++) {
        uint64_t start = now_ns();

        memset(worker->staging + i * HUGE, 0, 1);
        sample(PRIME, now_ns() - start);
    }
}

static void *place_all(void *opaque)
{
    struct worker *worker = opaque;

    for (unsigned i = 0; i < GRANULES; i++)
        place_granule(worker, i);
    return NULL;
}

static void each_worker(struct worker *workers, void *(*main)(void *))
{
    for (unsigned i = 0; i < threads; i++) {
        if (pthread_create(&workers[i].thread, NULL, main, &workers[i]))
            fail("thread");
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
}

static void *prime_all(void *opaque)
{
    prime(opaque);
    return NULL;
}

/* The guest touches each granule; this thread places it then. */
static void serve_faults(struct worker *workers)
{
    order(FAULT_EACH);
    for (unsigned left = threads * GRANULES; left;) {
        struct pollfd pollfd = {uffd, POLLIN, 0};
        struct uffd_msg message;
        uint64_t at;

        if (poll(&pollfd, 1, 10000) != 1)
            fail("no fault");
        if (read(uffd, &message, sizeof(message)) != sizeof(message))
            continue;
        at = (message.arg.pagefault.address - (uintptr_t)guest) / HUGE;
        place_granule(&workers[at / GRANULES], at % GRANULES);
        left--;
    }
    await();
}

/* Shared memory has minor faults only on what is in the page cache. */
static void fill_cache(void)
{
    for (uint64_t at = 0; method->shared && at < bytes_of_guest(); at += PAGE)
        in_place[at] = 0;
}

static void measure(struct worker *workers)
{
    for (unsigned round = 0; round < rounds; round++) {
        order(DROP);
        await();
        each_worker(workers, prime_all);
        each_worker(workers, place_all);
        order(READ_ALL);
        await();
        for (unsigned i = 0; i < threads * GRANULES; i++)
            sample(TOUCH, common->touch_ns[i]);
        if (!round) /* the memory is there from now on */
            for (enum step step = 0; step < STEPS; step++)
                counts[step] = 0;
    }
    for (unsigned round = 1; round < rounds; round++) {
        unsigned keep[STEPS];

        order(DROP);
        await();
        fill_cache();
        for (enum step step = 0; step < STEPS; step++)
            keep[step] = counts[step];
        each_worker(workers, prime_all);
        serve_faults(workers);
        for (enum step step = 0; step < STEPS; step++)
            counts[step] = keep[step];
        for (unsigned i = 0; i < threads * GRANULES; i++)
            sample(FAULT, common->fault_ns[i]);
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void print(void)
{
    printf("{\"method\": \"%s\", \"threads\": %u, \"spinners\": %u",
           method->name, threads, spinners);
    for (enum step step = 0; step < STEPS; step++) {
        unsigned count = counts[step];

        qsort(samples[step], count, sizeof(samples[step][0]), compare);
        printf(", \"%s\": %llu", step_names[step],
               count ? (unsigned long long)samples[step][count / 2] : 0ull);
    }
    printf("}\n");
}

int main(int argc, char **argv)
{
    static struct worker workers[MAX_THREADS];
    pid_t child = 0;

    for (size_t i = 0; argc == 5 && i < sizeof(methods) / sizeof(*methods); i++)
        if (!strcmp(methods[i].name, argv[1]))
            method = &methods[i];
    if (!method) {
        fputs("Usage: placement METHOD THREADS SPINNERS ROUNDS\nmethods:",
              stderr);
        for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
            fprintf(stderr, " %s", methods[i].name);
        fputs("\n", stderr);
        return 2;
    }
    threads = (unsigned)atoi(argv[2]);
    spinners = (unsigned)atoi(argv[3]);
    rounds = (unsigned)atoi(argv[4]);
    if (!threads || threads > MAX_THREADS || rounds < 2 || rounds > 32) {
        fputs("placement: 1 to 8 threads, 2 to 32 rounds\n", stderr);
        return 2;
    }
    memset(payload, 0x5a, sizeof(payload));
    common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (common == MAP_FAILED)
        fail("memory");
    common->uffd = -1;
    make_memory();
    if (!method->same_process) {
        child = fork();
        if (child < 0)
            fail("fork");
    }
    if (!child)
        start_guest();
    if (!child && !method->same_process) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
    }
    if (child) {
        int pidfd = (int)syscall(SYS_pidfd_open, child, 0), status;

        while (common->uffd < 0) {
            if (waitpid(child, &status, WNOHANG) == child)
                return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            usleep(WAIT_US);
        }
        uffd = (int)syscall(SYS_pidfd_getfd, pidfd, common->uffd, 0);
        if (uffd < 0)
            fail("pidfd_getfd");
    }
    for (unsigned i = 0; i < threads; i++) {
        workers[i].index = i;
        workers[i].staging = aligned_map(GRANULES * HUGE);
        memset(workers[i].staging, 1, HUGE);
    }
    measure(workers);
    if (common->failed) {
        fputs("placement: the guest read wrong bytes\n", stderr);
        return 1;
    }
    print();
    return 0;
}
