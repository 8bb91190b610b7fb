/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <pthread.h>

#include "../../daemon/pageset.h"

#define PAGES   5000u
#define THREADS 4

/* Everything a pageset does, against one bool a page. */
static void behaves_like_a_plain_array(void **state)
{
    uint64_t seed = test_seed();
    static bool model[PAGES + 512];
    struct pageset set;

    (void)state;
    memset(model, 0, sizeof(model));
    pageset_init(&set, PAGES);
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t first = test_random(&seed) % PAGES;
        unsigned pages = (unsigned)(1 + test_random(&seed) % 512), count = 0;
        uint64_t mask[PAGESET_MASK_WORDS], wanted[PAGESET_MASK_WORDS];
        uint64_t next = first;

        pages = (unsigned)MIN(pages, PAGES - first);
        switch (test_random(&seed) % 4) {
        case 0:
            pageset_add(&set, first, pages);
            for (unsigned i = 0; i < pages; i++)
                model[first + i] = true;
            break;
        case 1:
            mask_fill(wanted, pages);
            for (unsigned i = 0; i < pages; i++) {
                if (test_random(&seed) & 1)
                    wanted[i / 64] &= ~(1ull << i % 64);
            }
            memcpy(mask, wanted, sizeof(mask));
            count = pageset_take(&set, first, pages, mask);
            assert_int_equal(count, mask_count(mask));
            for (unsigned i = 0; i < pages; i++) {
                assert_int_equal(mask_has(mask, i),
                                 model[first + i] && mask_has(wanted, i));
                if (mask_has(mask, i))
                    model[first + i] = false;
            }
            break;
        case 2:
            count = pageset_get(&set, first, pages, mask);
            assert_int_equal(count, mask_count(mask));
            for (unsigned i = 0; i < pages; i++)
                assert_int_equal(mask_has(mask, i), model[first + i]);
            break;
        default:
            while (next < PAGES && !model[next])
                next++;
            assert_int_equal(pageset_next(&set, first), next);
            assert_int_equal(pageset_has(&set, first), model[first]);
        }
    }
    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(pageset_has(&set, page), model[page]);
    assert_int_equal(pageset_has(&set, PAGES), false);
    assert_int_equal(pageset_next(&set, PAGES), PAGES);
    pageset_fini(&set);
}

static void counts_its_members(void **state)
{
    uint64_t mask[PAGESET_MASK_WORDS];
    struct pageset set;

    (void)state;
    pageset_init(&set, PAGES);
    pageset_add(&set, 10, 1000);
    pageset_add(&set, 500, 1000); /* 510 of them are members already */
    assert_int_equal(pageset_count(&set), 1490);
    mask_fill(mask, 512);
    assert_int_equal(pageset_take(&set, 0, 512, mask), 502);
    assert_int_equal(pageset_count(&set), 988);
    assert_true(pageset_bytes(&set) <= PAGES / 8 + 64);
    pageset_fini(&set);
    assert_int_equal(pageset_bytes(&set), 0);
}

static struct pageset shared;
static _Atomic unsigned owners[PAGES];

static void *take_at_random(void *opaque)
{
    uint64_t seed = (uintptr_t)opaque;

    while (pageset_count(&shared)) {
        uint64_t first = test_random(&seed) % PAGES, mask[PAGESET_MASK_WORDS];
        unsigned pages =
            (unsigned)MIN(1 + test_random(&seed) % 512, PAGES - first);

        mask_fill(mask, pages);
        pageset_take(&shared, first, pages, mask);
        for (unsigned i = 0; i < pages; i++) {
            if (mask_has(mask, i))
                atomic_fetch_add(&owners[first + i], 1);
        }
    }
    return NULL;
}

static void gives_each_page_to_one_thread(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (unsigned round = 0; round < 50; round++) {
        pthread_t threads[THREADS];

        pageset_init(&shared, PAGES);
        pageset_add(&shared, 0, PAGES);
        for (unsigned i = 0; i < PAGES; i++)
            owners[i] = 0;
        for (unsigned i = 0; i < THREADS; i++)
            assert_int_equal(
                pthread_create(&threads[i], NULL, take_at_random,
                               (void *)(uintptr_t)test_random(&seed)),
                0);
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        for (unsigned i = 0; i < PAGES; i++)
            assert_int_equal(owners[i], 1);
        pageset_fini(&shared);
    }
}

static void finds_runs_in_masks(void **state)
{
    uint8_t *const base = (uint8_t *)PAGE_BYTES; /* never touched */
    uint64_t seed = test_seed();

    (void)state;
    for (unsigned round = 0; round < 5000; round++) {
        unsigned pages = (unsigned)(1 + test_random(&seed) % 512), end = 0;
        uint64_t mask[PAGESET_MASK_WORDS] = {0};
        struct iovec iov[MASK_MAX_RUNS];
        unsigned at = 0, runs = 0, count;

        for (unsigned i = 0; i < pages; i++) {
            if (test_random(&seed) % 8 < 5)
                mask_add(mask, i);
        }
        count = mask_iovecs(mask, pages, base, iov);
        for (unsigned run = mask_run(mask, pages, 0, &end); run < pages;
             run = mask_run(mask, pages, end, &end)) {
            for (; at < run; at++)
                assert_false(mask_has(mask, at));
            assert_true(end > run && end <= pages);
            assert_ptr_equal(iov[runs].iov_base, base + run * PAGE_BYTES);
            assert_int_equal(iov[runs++].iov_len, (end - run) * PAGE_BYTES);
            for (; at < end; at++)
                assert_true(mask_has(mask, at));
        }
        for (; at < pages; at++)
            assert_false(mask_has(mask, at));
        assert_int_equal(runs, count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behaves_like_a_plain_array),
        cmocka_unit_test(counts_its_members),
        cmocka_unit_test(gives_each_page_to_one_thread),
        cmocka_unit_test(finds_runs_in_masks),
    };

    return cmocka_run_group_tests_name("pageset", tests, NULL, NULL);
}
