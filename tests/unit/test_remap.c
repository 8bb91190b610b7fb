/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engine remap against the kernel of kernel-patches/: make check-kernel. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../../daemon/pageset.h"
#include "../../daemon/place.h"
#include "../../daemon/staging.h"
#include "../../daemon/uffdio.h"

#define GUEST_BYTES (4 * HUGE_BYTES)

/* A guest: a process whose memory is a registered hole. */
static struct {
    pid_t pid;
    struct block block;
    struct place_target target;
    struct stats stats;
    struct stager stager;
    struct staging *staging;
} guest;

static int new_uffd(uint64_t *features)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
    *features = api.features;
    return fd;
}

static bool kernel_remaps(void)
{
    uint64_t features;

    close(new_uffd(&features));
    return features & UFFD_FEATURE_REMAP;
}

static void guest_main(int to, int from)
{
    char *map = mmap(NULL, GUEST_BYTES + HUGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uintptr_t hva = align_up((uintptr_t)map, HUGE_BYTES);
    struct uffdio_register reg = {.range = {hva, GUEST_BYTES},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    uint64_t features, hello[2];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    hello[0] = hva;
    hello[1] = (uint64_t)new_uffd(&features);
    if (ioctl((int)hello[1], UFFDIO_REGISTER, &reg) ||
        madvise((void *)hva, GUEST_BYTES, MADV_HUGEPAGE) ||
        write(to, hello, sizeof(hello)) != sizeof(hello))
        _exit(1);
    /* Told to: unmap all. */
    if (read(from, hello, 1) == 1 && !munmap((void *)hva, GUEST_BYTES))
        write(to, hello, 1);
    pause();
}

static int to_guest, from_guest;

static int begin(void **state)
{
    int here[2], there[2], pidfd;
    uint64_t hello[2];

    (void)state;
    assert_int_equal(pipe(here) | pipe(there), 0);
    memset(&guest, 0, sizeof(guest));
    guest.pid = fork();
    if (!guest.pid)
        guest_main(here[1], there[0]);
    close(here[1]);
    close(there[0]);
    from_guest = here[0];
    to_guest = there[1];
    assert_int_equal(read(from_guest, hello, sizeof(hello)), sizeof(hello));
    guest.block = (struct block){.hva = hello[0],
                                 .length = GUEST_BYTES,
                                 .page_size = PAGE_BYTES,
                                 .fd = -1};
    pidfd = (int)syscall(SYS_pidfd_open, guest.pid, 0);
    guest.target.uffd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)hello[1], 0);
    close(pidfd);
    assert_true(guest.target.uffd >= 0);
    guest.target.stats = &guest.stats;
    stager_init(&guest.stager);
    guest.staging = stager_add(&guest.stager, 2);
    return 0;
}

static int end(void **state)
{
    (void)state;
    kill(guest.pid, SIGKILL);
    waitpid(guest.pid, NULL, 0);
    close(guest.target.uffd);
    close(to_guest);
    close(from_guest);
    stager_fini(&guest.stager);
    return 0;
}

/* A byte that tells each page of the guest from all others. */
static uint8_t mark(uint64_t offset)
{
    return (uint8_t)(offset / PAGE_BYTES * 7 + offset / HUGE_BYTES + 1);
}

static uint8_t *filled_slot(uint64_t offset)
{
    uint8_t *slot = staging_take(guest.staging);

    for (uint64_t at = 0; at < HUGE_BYTES; at += PAGE_BYTES)
        memset(slot + at, mark(offset + at), PAGE_BYTES);
    return slot;
}

static bool whole; /* the last one placed */

static int place_filled(uint64_t offset, uint8_t *slot)
{
    return place_staged(&guest.target, PLACE_REMAP, &guest.block, offset, slot,
                        &whole);
}

static void assert_page(uint64_t offset, uint8_t byte)
{
    uint8_t page[PAGE_BYTES], expected[PAGE_BYTES];
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/mem", guest.pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    memset(expected, byte, sizeof(expected));
    assert_int_equal(
        pread(fd, page, sizeof(page), (off_t)(guest.block.hva + offset)),
        sizeof(page));
    close(fd);
    assert_memory_equal(page, expected, sizeof(page));
}

static void assert_granule(uint64_t offset)
{
    for (uint64_t at = 0; at < HUGE_BYTES; at += PAGE_BYTES)
        assert_page(offset + at, mark(offset + at));
}

static unsigned long huge_kib(void)
{
    unsigned long kib = 0, sum = 0;
    char path[64], line[256];
    FILE *smaps;

    snprintf(path, sizeof(path), "/proc/%d/smaps", guest.pid);
    smaps = fopen(path, "r");
    while (fgets(line, sizeof(line), smaps))
        sum += sscanf(line, "AnonHugePages: %lu", &kib) == 1 ? kib : 0;
    fclose(smaps);
    return sum;
}

static void a_slot_moves_whole(void **state)
{
    (void)state;
    for (uint64_t offset = 0; offset < GUEST_BYTES; offset += HUGE_BYTES) {
        uint8_t *slot = filled_slot(offset);

        assert_int_equal(place_filled(offset, slot), 0);
        assert_true(whole);
        staging_release(guest.staging);
    }
    assert_int_equal(huge_kib(), GUEST_BYTES >> 10);
    for (uint64_t offset = 0; offset < GUEST_BYTES; offset += HUGE_BYTES)
        assert_granule(offset);
    assert_int_equal(guest.stats.fallback_pages, 0);
}

static void pages_that_are_there_stay(void **state)
{
    const uint64_t there = 100 * PAGE_BYTES;
    uint8_t *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    memset(page, 0xee, PAGE_BYTES);
    assert_int_equal(place_data(&guest.target, PLACE_REMAP, &guest.block, there,
                                PAGE_BYTES, page),
                     0);
    munmap(page, PAGE_BYTES);
    assert_int_equal(place_filled(0, filled_slot(0)), 0);
    assert_false(whole);
    staging_release(guest.staging);
    assert_page(there, 0xee);
    assert_page(there - PAGE_BYTES, mark(there - PAGE_BYTES));
    assert_page(there + PAGE_BYTES, mark(there + PAGE_BYTES));
    assert_page(HUGE_BYTES - PAGE_BYTES, mark(HUGE_BYTES - PAGE_BYTES));
    assert_int_equal(guest.stats.present_pages, 1);
    assert_int_equal(guest.stats.fallback_pages, 0);
    /* What has not moved is dropped: the next user finds zeros. */
    staging_take(guest.staging);
    staging_release(guest.staging);
    assert_int_equal(staging_take(guest.staging)[there], 0);
}

/* A page in a pipe has a reference of which the kernel knows nothing more. */
static void a_pinned_slot_is_copied_and_counted(void **state)
{
    uint8_t *slot = filled_slot(0);
    struct iovec iov = {slot + 3 * PAGE_BYTES, PAGE_BYTES};
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(vmsplice(fds[1], &iov, 1, 0), PAGE_BYTES);
    assert_int_equal(place_filled(0, slot), 0);
    close(fds[0]);
    close(fds[1]);
    staging_release(guest.staging);
    assert_granule(0);
    assert_int_equal(guest.stats.fallback_pages, HUGE_BYTES / PAGE_BYTES);
}

static void locked_staging_is_copied_and_counted(void **state)
{
    uint8_t *slot = filled_slot(HUGE_BYTES);

    (void)state;
    assert_int_equal(mlock(slot, HUGE_BYTES), 0);
    assert_int_equal(place_filled(HUGE_BYTES, slot), 0);
    assert_int_equal(munlock(slot, HUGE_BYTES), 0);
    assert_granule(HUGE_BYTES);
    assert_int_equal(guest.stats.fallback_pages, HUGE_BYTES / PAGE_BYTES);
}

static void staging_that_is_not_there_is_zero(void **state)
{
    uint8_t *slot = filled_slot(0);

    (void)state;
    assert_int_equal(madvise(slot, HUGE_BYTES, MADV_DONTNEED), 0);
    assert_int_equal(place_filled(0, slot), 0);
    assert_page(0, 0);
    assert_page(HUGE_BYTES - PAGE_BYTES, 0);
    assert_int_equal(guest.stats.fallback_pages, HUGE_BYTES / PAGE_BYTES);
}

static void runs_of_pages_and_zeros(void **state)
{
    const uint64_t run = 7 * PAGE_BYTES;
    uint8_t *from = mmap(NULL, run, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        uint64_t offset = round * 2 * run;

        memset(from, (int)round + 1, run);
        assert_int_equal(place_data(&guest.target, PLACE_REMAP, &guest.block,
                                    offset, run, from),
                         0);
        assert_int_equal(place_zero(&guest.target, PLACE_REMAP, &guest.block,
                                    offset + run, run),
                         0);
        for (uint64_t at = 0; at < run; at += PAGE_BYTES) {
            assert_page(offset + at, (uint8_t)(round + 1));
            assert_page(offset + run + at, 0);
        }
    }
    munmap(from, run);
    assert_int_equal(guest.stats.fallback_pages, 0);
}

static void a_dead_guest_is_gone(void **state)
{
    (void)state;
    kill(guest.pid, SIGKILL);
    waitpid(guest.pid, NULL, 0);
    assert_int_equal(place_filled(0, filled_slot(0)), -ESRCH);
}

static void an_unmapped_guest_is_gone(void **state)
{
    char byte = 0;

    (void)state;
    assert_int_equal(write(to_guest, &byte, 1), 1);
    assert_int_equal(read(from_guest, &byte, 1), 1);
    assert_int_equal(place_filled(0, filled_slot(0)), -ESRCH);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_slot_moves_whole),
        TEST(pages_that_are_there_stay),
        TEST(a_pinned_slot_is_copied_and_counted),
        TEST(locked_staging_is_copied_and_counted),
        TEST(staging_that_is_not_there_is_zero),
        TEST(runs_of_pages_and_zeros),
        TEST(a_dead_guest_is_gone),
        TEST(an_unmapped_guest_is_gone),
    };

    if (!kernel_remaps()) {
        printf("ok - engine remap # SKIP this kernel has no UFFDIO_REMAP, "
               "see make check-kernel\n");
        return 0;
    }
    return cmocka_run_group_tests_name("remap", tests, NULL, NULL);
}
