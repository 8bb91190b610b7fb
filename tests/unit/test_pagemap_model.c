/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The page map and its sets against a model that keeps a byte a page: random
 * operations, SEED=… repeats them. */
#include "unit.h"

#include "../../daemon/pagemap.h"

#define PAGES      2000u /* no multiple of 64 */
#define OPERATIONS 200000
#define ROUNDS     5

static uint64_t random_state;

static uint64_t below(uint64_t limit)
{
    return test_random(&random_state) % limit;
}

/* At most @max pages: often few, often all, and often to the very end. */
static unsigned some_pages(uint64_t *first, unsigned max)
{
    unsigned pages = (unsigned)(1 + below(below(3) ? max : 4));

    pages = below(8) ? pages : max;
    *first = below(8) ? below(PAGES - pages + 1) : PAGES - pages;
    return pages;
}

static void some_mask(uint64_t *mask, unsigned pages)
{
    bool all = !below(3);

    mask_fill(mask, pages);
    for (unsigned i = 0; i < PAGESET_MASK_WORDS && !all; i++)
        mask[i] &= test_random(&random_state);
}

/* ---- the sets ---- */

static void set_against_its_model(void **state)
{
    static bool model[PAGES];
    struct pageset set;
    uint64_t count = 0;

    (void)state;
    memset(model, 0, sizeof(model));
    pageset_init(&set, PAGES);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        uint64_t mask[PAGESET_MASK_WORDS], asked[PAGESET_MASK_WORDS], first;
        unsigned pages = some_pages(&first, 512), expected = 0, got;

        switch (below(4)) {
        case 0: /* seldom: the sets of a session only shrink */
            if (below(20))
                break;
            pageset_add(&set, first, pages);
            for (unsigned k = 0; k < pages; k++) {
                count += !model[first + k];
                model[first + k] = true;
            }
            break;
        case 1:
            some_mask(mask, pages);
            memcpy(asked, mask, sizeof(mask));
            got = pageset_take(&set, first, pages, mask);
            for (unsigned k = 0; k < 512; k++) {
                bool mine = k < pages && mask_has(asked, k) && model[first + k];

                assert_int_equal(mask_has(mask, k), mine);
                if (mine)
                    model[first + k] = false;
                expected += mine;
            }
            assert_int_equal(got, expected);
            count -= got;
            break;
        case 2:
            got = pageset_get(&set, first, pages, mask);
            for (unsigned k = 0; k < 512; k++) {
                assert_int_equal(mask_has(mask, k),
                                 k < pages && model[first + k]);
                expected += mask_has(mask, k);
            }
            assert_int_equal(got, expected);
            break;
        default:
            while (first < PAGES && !model[first])
                first++;
            assert_int_equal(pageset_next(&set, first - (first == PAGES)),
                             first);
            assert_int_equal(pageset_count(&set), count);
        }
    }
    pageset_fini(&set);
}

/* ---- the map ---- */

/* What a page of the model is. Claimed and asked for are independent, and of
 * no meaning once it is placed. */
struct page {
    bool missing, claimed, asked;
    unsigned faults; /* that wait and are timed */
};

static struct page model[PAGES];
static struct pagemap map;
static struct stats stats;
static unsigned waiting;
static bool claim; /* by the engine, of which a page has one */

static void want(uint64_t first, unsigned pages)
{
    uint64_t mask[PAGESET_MASK_WORDS], asked[PAGESET_MASK_WORDS];

    some_mask(mask, pages);
    memcpy(asked, mask, sizeof(mask));
    pagemap_want(&map, first, pages, mask, claim);
    for (unsigned k = 0; k < pages; k++) {
        struct page *page = &model[first + k];
        bool mine = mask_has(asked, k) && page->missing &&
                    !(claim && page->claimed);

        assert_int_equal(mask_has(mask, k), mine);
        page->claimed |= mine && claim;
    }
}

static void placed(uint64_t first, unsigned pages)
{
    uint64_t mask[PAGESET_MASK_WORDS], waited_ns;
    unsigned expected = 0, answered = 0;

    some_mask(mask, pages);
    for (unsigned k = 0; k < pages; k++) {
        struct page *page = &model[first + k];

        /* Who receives in place places what it has claimed. */
        if (claim && !page->claimed)
            mask[k / 64] &= ~(1ull << k % 64);
        if (!mask_has(mask, k) || !page->missing)
            continue;
        expected++;
        answered += page->faults;
        *page = (struct page){.claimed = page->claimed};
    }
    assert_int_equal(pagemap_placed(&map, first, pages, mask, &waited_ns),
                     expected);
    assert_int_equal(waited_ns != UINT64_MAX, answered > 0);
    waiting -= answered;
    assert_int_equal(map.fault_count, waiting);
}

static void request(uint64_t first, unsigned pages)
{
    uint64_t page = first + below(pages);
    struct page *its = &model[page];
    unsigned got, expected = 0;
    bool whole = true;

    for (unsigned k = 0; k < pages; k++)
        whole &= model[first + k].missing && !model[first + k].asked;
    if (its->missing && !its->asked)
        expected = whole ? pages : 1;
    got = pagemap_request(&map, page, first, pages, false, now_ns());
    assert_int_equal(got, expected);
    if (its->missing && waiting < PAGEMAP_TIMED_FAULTS) {
        its->faults++;
        waiting++;
    }
    for (unsigned k = 0; k < pages && got == pages; k++)
        model[first + k].asked = true;
    its->asked |= its->missing;
    assert_int_equal(map.fault_count, waiting);
}

static void map_against_its_model(void **state)
{
    static uint64_t words[2][PAGES / 64 + 2];

    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t left = 0;

        memset(model, 0, sizeof(model));
        waiting = 0;
        claim = round % 2;
        memset(words, 0, sizeof(words));
        pagemap_init(&map, PAGES, words[0], words[1], &stats);
        for (unsigned i = 0; i < 6; i++) {
            uint64_t first, pages = some_pages(&first, 512);

            pagemap_expect(&map, first, pages);
            for (uint64_t k = first; k < first + pages; k++)
                model[k].missing = true;
        }
        for (unsigned i = 0; i < OPERATIONS / ROUNDS; i++) {
            uint64_t first, page = below(PAGES);
            unsigned pages = some_pages(&first, 16);

            /* Placing ends a page's life: seldom. */
            switch (below(40)) {
            case 0:
                placed(first, pages);
                break;
            case 1 ... 19:
                want(first, pages);
                break;
            default:
                request(first, pages);
            }
            assert_int_equal(pagemap_missing(&map, page), model[page].missing);
        }
        for (unsigned k = 0; k < PAGES; k++)
            left += model[k].missing;
        assert_int_equal(pagemap_left(&map), left);
        pagemap_fini(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_against_its_model),
        cmocka_unit_test(map_against_its_model),
    };

    random_state = test_seed();
    return cmocka_run_group_tests_name("pagemap_model", tests, NULL, NULL);
}
