/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <pthread.h>

#include "../../daemon/pagemap.h"

#define PAGES 4096u

static struct pagemap map;
static uint64_t missing[PAGES / 64 + 1], received[PAGES / 64 + 1];
static struct stats stats;
static uint64_t waited; /* what pagemap_placed() measured last */

static int set_up(void **state)
{
    (void)state;
    memset(&stats, 0, sizeof(stats));
    memset(missing, 0, sizeof(missing));
    memset(received, 0, sizeof(received));
    pagemap_init(&map, PAGES, missing, received, &stats);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pagemap_fini(&map);
    return 0;
}

static void a_page_is_placed_once(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS];

    (void)state;
    pagemap_expect(&map, 100, 50);
    assert_int_equal(pagemap_left(&map), 50);
    assert_true(pagemap_missing(&map, 100));
    assert_false(pagemap_missing(&map, 99));
    mask_fill(mask, 100);
    pagemap_want(&map, 80, 100, mask, false);
    assert_int_equal(mask_count(mask), 50);
    assert_int_equal(pagemap_placed(&map, 80, 100, mask, &waited), 50);
    assert_int_equal(pagemap_left(&map), 0);
    assert_int_equal(pagemap_placed(&map, 80, 100, mask, &waited), 0);
    mask_fill(mask, 100);
    pagemap_want(&map, 80, 100, mask, false);
    assert_int_equal(mask_count(mask), 0);
}

/* What is received in place has one receiver; the page stays missing till it
 * is placed. */
static void a_claimed_page_is_wanted_by_one(void **state)
{
    uint64_t mine[PAGESET_MASK_WORDS], theirs[PAGESET_MASK_WORDS];

    (void)state;
    pagemap_expect(&map, 0, 64);
    mask_fill(mine, 32);
    pagemap_want(&map, 0, 32, mine, true);
    assert_int_equal(mask_count(mine), 32);
    mask_fill(theirs, 64);
    pagemap_want(&map, 0, 64, theirs, true);
    assert_int_equal(mask_count(theirs), 32);
    assert_int_equal(theirs[0], 0xffffffff00000000u);
    assert_int_equal(pagemap_left(&map), 64);
    assert_true(pagemap_missing(&map, 5));
}

static void a_fault_is_asked_for_once_and_measured(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS] = {1};

    (void)state;
    pagemap_expect(&map, 7, 1);
    assert_int_equal(pagemap_request(&map, 7, 7, 1, false, now_ns()), 1);
    assert_int_equal(pagemap_request(&map, 7, 7, 1, false, now_ns()), 0);
    assert_int_equal(stats.latency.count, 0);
    assert_int_equal(pagemap_placed(&map, 7, 1, mask, &waited), 1);
    assert_true(waited < UINT64_MAX);
    assert_int_equal(stats.latency.count, 2);
    assert_int_equal(map.fault_count, 0);
    /* Placed between the look at the map and the request: no more to ask. */
    assert_int_equal(pagemap_request(&map, 7, 7, 1, false, now_ns()), 0);
    assert_int_equal(map.fault_count, 0);
}

/* A whole granule is asked for if all of it is missing and unasked for. */
static void a_granule_is_asked_for_whole_or_not(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS] = {1};

    (void)state;
    pagemap_expect(&map, 0, 2048);
    assert_int_equal(pagemap_request(&map, 5, 0, 512, false, now_ns()), 512);
    assert_int_equal(pagemap_request(&map, 6, 0, 512, false, now_ns()), 0);
    /* It may lie in a queue: another page comes ahead, each once. */
    assert_int_equal(pagemap_request(&map, 5, 0, 512, true, now_ns()), 0);
    assert_int_equal(pagemap_request(&map, 6, 0, 512, true, now_ns()), 0);
    assert_int_equal(pagemap_request(&map, 7, 0, 512, true, now_ns()), 1);
    assert_int_equal(pagemap_request(&map, 7, 7, 1, true, now_ns()), 0);
    assert_int_equal(pagemap_request(&map, 600, 600, 1, false, now_ns()), 1);
    assert_int_equal(pagemap_request(&map, 601, 512, 512, false, now_ns()), 1);
    pagemap_placed(&map, 1024, 1, mask, &waited);
    assert_int_equal(pagemap_request(&map, 1030, 1024, 512, false, now_ns()), 1);
    assert_int_equal(pagemap_request(&map, 1536, 1536, 512, false, now_ns()), 512);
}

static void more_faults_than_are_timed(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS];
    static uint64_t words[2][2 * PAGEMAP_TIMED_FAULTS / 64 + 1];
    struct pagemap large;

    (void)state;
    pagemap_init(&large, 2 * PAGEMAP_TIMED_FAULTS, words[0], words[1], &stats);
    pagemap_expect(&large, 0, 2 * PAGEMAP_TIMED_FAULTS);
    for (uint64_t page = 0; page < 2 * PAGEMAP_TIMED_FAULTS; page++)
        assert_int_equal(pagemap_request(&large, page, page, 1, false, 1), 1);
    for (uint64_t page = 0; page < 2 * PAGEMAP_TIMED_FAULTS; page += 512) {
        mask_fill(mask, 512);
        assert_int_equal(pagemap_placed(&large, page, 512, mask, &waited), 512);
    }
    assert_int_equal(stats.latency.count, PAGEMAP_TIMED_FAULTS);
    assert_int_equal(pagemap_left(&large), 0);
    pagemap_fini(&large);
}

static void *request_all(void *opaque)
{
    _Atomic unsigned *asked = opaque;

    for (uint64_t page = 0; page < PAGES; page++)
        *asked += pagemap_request(&map, page, page, 1, false, now_ns());
    return NULL;
}

static void *place_all(void *opaque)
{
    uint64_t mask[PAGESET_MASK_WORDS], ignored;

    (void)opaque;
    for (uint64_t page = 0; page < PAGES; page += 16) {
        mask_fill(mask, 16);
        pagemap_want(&map, page, 16, mask, true);
        pagemap_placed(&map, page, 16, mask, &ignored);
    }
    return NULL;
}

/* Requests race with placing: nothing is lost, nothing stays in the table. */
static void requests_race_with_placing(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        _Atomic unsigned asked = 0;
        pthread_t threads[4];

        pagemap_fini(&map);
        set_up(NULL);
        pagemap_expect(&map, 0, PAGES);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&threads[i], NULL,
                                            i % 2 ? place_all : request_all,
                                            &asked),
                             0);
        for (unsigned i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        assert_true(asked <= PAGES);
        assert_int_equal(pagemap_left(&map), 0);
        assert_int_equal(map.fault_count, 0);
        assert_true(stats.latency.count >= asked);
    }
}

/* A lost connection: what was claimed or asked for and did not come is wanted
 * again; what came whole, in place, is not, for the guest may have it. */
static void what_did_not_come_is_wanted_again(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS];

    (void)state;
    pagemap_expect(&map, 0, 128);
    assert_int_equal(pagemap_request(&map, 5, 5, 1, false, now_ns()), 1);
    mask_fill(mask, 64);
    pagemap_want(&map, 0, 64, mask, true);
    mask_fill(mask, 10);
    pagemap_received(&map, 0, 10, mask);
    mask_fill(mask, 4);
    assert_int_equal(pagemap_placed(&map, 0, 4, mask, &waited), 4);
    pagemap_again(&map);
    assert_int_equal(pageset_count(pagemap_wanted(&map)), 118);
    assert_false(pageset_has(pagemap_wanted(&map), 9));
    assert_true(pageset_has(pagemap_wanted(&map), 10));
    assert_int_equal(pagemap_left(&map), 124);
    assert_int_equal(pagemap_request(&map, 5, 5, 1, false, now_ns()), 1);
    /* Those are to be placed out of what is here. */
    assert_int_equal(pagemap_received_next(&map, 0), 4);
    assert_int_equal(pagemap_received_next(&map, 10), PAGES);
    mask_fill(mask, 64);
    pagemap_want(&map, 0, 64, mask, true);
    assert_int_equal(mask_count(mask), 54);
}

/* Another remapd finds the same words. */
static void the_map_outlives_its_daemon(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS];

    (void)state;
    pagemap_expect(&map, 0, 200);
    mask_fill(mask, 50);
    pagemap_placed(&map, 0, 50, mask, &waited);
    pagemap_fini(&map);
    pagemap_init(&map, PAGES, missing, received, &stats);
    assert_int_equal(pagemap_left(&map), 150);
    assert_false(pagemap_missing(&map, 49));
    assert_true(pagemap_missing(&map, 50));
    assert_int_equal(pageset_count(pagemap_wanted(&map)), 150);
}

static void the_longest_wait_is_known(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS], now = now_ns();

    (void)state;
    pagemap_expect(&map, 0, 2);
    assert_true(pagemap_waiting_ns(&map) == UINT64_MAX);
    pagemap_request(&map, 0, 0, 1, false, now + 1);
    pagemap_request(&map, 1, 1, 1, false, now);
    assert_int_equal(pagemap_waiting_ns(&map), now);
    mask_fill(mask, 1);
    pagemap_placed(&map, 1, 1, mask, &waited);
    assert_int_equal(pagemap_waiting_ns(&map), now + 1);
}

static void who_waited_before_does_not_count(void **state)
{
    uint64_t now;

    (void)state;
    pagemap_expect(&map, 0, 2);
    pagemap_request(&map, 0, 0, 1, false, now_ns());
    pagemap_again(&map);
    assert_true(pagemap_waiting_ns(&map) == UINT64_MAX);
    now = now_ns();
    pagemap_request(&map, 0, 0, 1, false, now);
    assert_int_equal(pagemap_waiting_ns(&map), now);
}

/* The promise: at most one byte a granule of 4 KiB. */
static void is_small(void **state)
{
    (void)state;
    assert_true(pagemap_bytes(&map) <= PAGES);
}

#define pagemap_test(name)                                                    \
    cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        pagemap_test(a_page_is_placed_once),
        pagemap_test(what_did_not_come_is_wanted_again),
        pagemap_test(the_map_outlives_its_daemon),
        pagemap_test(the_longest_wait_is_known),
        pagemap_test(who_waited_before_does_not_count),
        pagemap_test(a_claimed_page_is_wanted_by_one),
        pagemap_test(a_fault_is_asked_for_once_and_measured),
        pagemap_test(a_granule_is_asked_for_whole_or_not),
        pagemap_test(more_faults_than_are_timed),
        pagemap_test(requests_race_with_placing),
        pagemap_test(is_small),
    };

    return cmocka_run_group_tests_name("pagemap", tests, NULL, NULL);
}
