/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include "../../daemon/staging.h"

#define SLOTS 3

static struct thread_status status;
static struct stager stager;

static int begin(void **state)
{
    (void)state;
    thread_status_init(&status, eventfd(0, EFD_CLOEXEC));
    stager_init(&stager);
    return 0;
}

static int end(void **state)
{
    (void)state;
    stager_stop(&stager);
    stager_fini(&stager);
    assert_true(thread_status_ended(&status));
    thread_status_fini(&status);
    close(status.notify_fd);
    return 0;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void await_primed(void)
{
    while (!stager_primed(&stager))
        nap();
}

static unsigned resident_slots(const struct staging *staging)
{
    unsigned char pages[STAGING_SLOT_BYTES / PAGE_BYTES];
    unsigned count = 0;

    for (unsigned i = 0; i < staging->slots; i++) {
        assert_int_equal(mincore(staging->map + i * STAGING_SLOT_BYTES,
                                 STAGING_SLOT_BYTES, pages),
                         0);
        count += !memchr(pages, 0, sizeof(pages));
    }
    return count;
}

static void assert_zero(const uint8_t *slot)
{
    assert_true(!slot[0] &&
                !memcmp(slot, slot + 1, STAGING_SLOT_BYTES - 1));
}

static void every_slot_is_primed_before_use(void **state)
{
    struct staging *first = stager_add(&stager, SLOTS);
    struct staging *second = stager_add(&stager, 2 * SLOTS);

    (void)state;
    assert_int_equal((uintptr_t)first->map % STAGING_SLOT_BYTES, 0);
    assert_int_equal(resident_slots(first) + resident_slots(second), 0);
    assert_int_equal(stager_start(&stager, &status), 0);
    await_primed();
    assert_int_equal(resident_slots(first), SLOTS);
    assert_int_equal(resident_slots(second), 2 * SLOTS);
}

static void a_slot_is_zero_however_often_it_was_used(void **state)
{
    struct staging *staging = stager_add(&stager, SLOTS);

    (void)state;
    assert_int_equal(stager_start(&stager, &status), 0);
    staging_expect(staging, 20 * SLOTS);
    /* Faster than the thread primes, and slower. */
    for (unsigned i = 0; i < 20 * SLOTS; i++) {
        uint8_t *slot = staging_take(staging);

        assert_ptr_equal(slot,
                         staging->map + i % SLOTS * STAGING_SLOT_BYTES);
        assert_zero(slot);
        memset(slot + i % 100, 0xa5, STAGING_SLOT_BYTES - 100);
        staging_release(staging);
        if (i % 2)
            await_primed();
    }
}

static void no_more_is_primed_than_will_be_used(void **state)
{
    struct staging *staging = stager_add(&stager, SLOTS);

    (void)state;
    assert_int_equal(stager_start(&stager, &status), 0);
    await_primed();
    staging_expect(staging, SLOTS + 1);
    for (unsigned i = 0; i < SLOTS; i++) {
        assert_non_null(staging_take(staging));
        staging_release(staging);
    }
    await_primed();
    assert_int_equal(resident_slots(staging), 1);
    /* More than expected: they are there all the same. */
    for (unsigned i = 0; i < SLOTS; i++) {
        assert_zero(staging_take(staging));
        staging_release(staging);
    }
    assert_int_equal(resident_slots(staging), 0);
    /* And so much more, after a pause. */
    staging_expect(staging, 1);
    await_primed();
    assert_int_equal(resident_slots(staging), 1);
}

static void rings_are_mappings_of_their_own(void **state)
{
    unsigned long start, stop;
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned found = 0;
    char line[256];

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        assert_non_null(stager_add(&stager, SLOTS));
    while (fgets(line, sizeof(line), maps)) {
        assert_int_equal(sscanf(line, "%lx-%lx", &start, &stop), 2);
        for (unsigned i = 0; i < 4; i++)
            found += start == (uintptr_t)stager.rings[i].map &&
                     stop - start == SLOTS * STAGING_SLOT_BYTES;
    }
    fclose(maps);
    assert_int_equal(found, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_slot_is_primed_before_use, begin,
                                        end),
        cmocka_unit_test_setup_teardown(
            a_slot_is_zero_however_often_it_was_used, begin, end),
        cmocka_unit_test_setup_teardown(no_more_is_primed_than_will_be_used,
                                        begin, end),
        cmocka_unit_test_setup_teardown(rings_are_mappings_of_their_own, begin,
                                        end),
    };

    return cmocka_run_group_tests_name("staging", tests, NULL, NULL);
}
