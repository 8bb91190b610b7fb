/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <errno.h>

#include "../../daemon/place.h"
#include "../../daemon/uffdio.h"

#define MAX_ERRNO 133

/* What each row means for the guest; every errno without one is a failure. */
static const struct {
    enum place_engine engine;
    int error;
    enum place_outcome outcome;
} rows[] = {
    {PLACE_COPY, 0, OUTCOME_PLACED},
    {PLACE_COPY, EEXIST, OUTCOME_PRESENT},
    {PLACE_COPY, EAGAIN, OUTCOME_AGAIN},
    {PLACE_COPY, ENOMEM, OUTCOME_AGAIN},
    {PLACE_COPY, ENOENT, OUTCOME_GONE},
    {PLACE_COPY, ESRCH, OUTCOME_GONE},
    {PLACE_COPY, ENOSPC, OUTCOME_GONE},
    {PLACE_CONTINUE, 0, OUTCOME_PLACED},
    {PLACE_CONTINUE, EEXIST, OUTCOME_PRESENT},
    {PLACE_CONTINUE, EAGAIN, OUTCOME_AGAIN},
    {PLACE_CONTINUE, ENOMEM, OUTCOME_AGAIN},
    {PLACE_CONTINUE, ENOENT, OUTCOME_GONE},
    {PLACE_CONTINUE, ESRCH, OUTCOME_GONE},
    {PLACE_MOVE, 0, OUTCOME_PLACED},
    {PLACE_MOVE, EEXIST, OUTCOME_COPY},
    {PLACE_MOVE, EAGAIN, OUTCOME_COPY},
    {PLACE_MOVE, EBUSY, OUTCOME_COPY},
    {PLACE_MOVE, ENOENT, OUTCOME_COPY},
    {PLACE_MOVE, ENOMEM, OUTCOME_COPY},
    {PLACE_MOVE, EINVAL, OUTCOME_COPY},
    {PLACE_MOVE, EIO, OUTCOME_COPY},
    {PLACE_MOVE, ESRCH, OUTCOME_GONE},
    {PLACE_REMAP, 0, OUTCOME_PLACED},
    {PLACE_REMAP, EEXIST, OUTCOME_PRESENT},
    {PLACE_REMAP, EAGAIN, OUTCOME_AGAIN},
    {PLACE_REMAP, EBUSY, OUTCOME_COPY},
    {PLACE_REMAP, ENOMEM, OUTCOME_COPY},
    {PLACE_REMAP, EINVAL, OUTCOME_COPY},
    {PLACE_REMAP, ENOENT, OUTCOME_COPY},
    {PLACE_REMAP, ESRCH, OUTCOME_GONE},
};

static const enum place_engine tested[] = {PLACE_COPY, PLACE_CONTINUE,
                                           PLACE_MOVE, PLACE_REMAP};

static void every_row_of_the_outcome_table(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        if (place_outcome_of(rows[i].engine, rows[i].error) != rows[i].outcome)
            fail_msg("%s: %s", place_ops_of(rows[i].engine)->name,
                     strerror(rows[i].error));
    }
}

static void any_other_errno_is_a_failure(void **state)
{
    (void)state;
    for (unsigned e = 0; e < ARRAY_SIZE(tested); e++) {
        for (int error = 0; error <= MAX_ERRNO; error++) {
            bool listed = false;

            for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
                listed |= rows[i].engine == tested[e] && rows[i].error == error;
            if (!listed)
                assert_int_equal(place_outcome_of(tested[e], error),
                                 OUTCOME_FAILED);
        }
    }
}

#define SHMEM   UFFD_FEATURE_MINOR_SHMEM
#define HUGETLB UFFD_FEATURE_MINOR_HUGETLBFS
#define REMAP   UFFD_FEATURE_REMAP
#define BEST    PLACE_ENGINES

static void the_engine_fits_the_memory(void **state)
{
    static const struct {
        bool shared;
        int fd;
        uint64_t page_size, length, features;
        bool placers;
        enum place_engine forced, engine;
    } cases[] = {
        {false, -1, 4096, HUGE_BYTES, SHMEM, false, BEST, PLACE_COPY},
        {false, -1, 4096, HUGE_BYTES, SHMEM, true, BEST, PLACE_MOVE},
        {false, -1, 4096, HUGE_BYTES, SHMEM, true, PLACE_COPY, PLACE_COPY},
        {false, -1, 4096, HUGE_BYTES, SHMEM, true, PLACE_MOVE, PLACE_MOVE},
        {false, -1, 4096, HUGE_BYTES, SHMEM, false, PLACE_MOVE, PLACE_COPY},
        {false, -1, 4096, HUGE_BYTES / 2, 0, true, BEST, PLACE_COPY},
        {false, -1, HUGE_BYTES, HUGE_BYTES, 0, true, BEST, PLACE_COPY},
        /* The daemon's own move first, then QEMU's. */
        {false, -1, 4096, HUGE_BYTES, REMAP, false, BEST, PLACE_REMAP},
        {false, -1, 4096, HUGE_BYTES, REMAP, true, BEST, PLACE_REMAP},
        {false, -1, 4096, HUGE_BYTES, REMAP, true, PLACE_REMAP, PLACE_REMAP},
        {false, -1, 4096, HUGE_BYTES, REMAP, true, PLACE_MOVE, PLACE_MOVE},
        {false, -1, 4096, HUGE_BYTES, REMAP, true, PLACE_COPY, PLACE_COPY},
        {false, -1, 4096, HUGE_BYTES, SHMEM, true, PLACE_REMAP, PLACE_COPY},
        {false, -1, 4096, HUGE_BYTES / 2, REMAP, true, BEST, PLACE_COPY},
        {false, -1, HUGE_BYTES, HUGE_BYTES, REMAP, true, BEST, PLACE_COPY},
        {true, 0, 4096, HUGE_BYTES, SHMEM | REMAP, true, BEST, PLACE_CONTINUE},
        {true, 0, 4096, HUGE_BYTES, REMAP, true, BEST, PLACE_COPY},
        /* Shared, but no descriptor to map it by. */
        {true, -1, 4096, HUGE_BYTES, SHMEM, true, BEST, PLACE_COPY},
        {true, 0, 4096, HUGE_BYTES, SHMEM, true, BEST, PLACE_CONTINUE},
        {true, 0, 4096, HUGE_BYTES, SHMEM, true, PLACE_COPY, PLACE_COPY},
        {true, 0, 4096, HUGE_BYTES, 0, true, BEST, PLACE_COPY},
        {true, 0, 4096, HUGE_BYTES, HUGETLB, true, PLACE_CONTINUE, PLACE_COPY},
        {true, 0, HUGE_BYTES, HUGE_BYTES, HUGETLB, true, BEST, PLACE_CONTINUE},
        {true, 0, HUGE_BYTES, HUGE_BYTES, SHMEM, true, BEST, PLACE_COPY},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct block block = {.page_size = cases[i].page_size,
                              .length = cases[i].length,
                              .hva = 1ull << 30,
                              .shared = cases[i].shared,
                              .fd = cases[i].fd};
        enum place_engine engine = place_engine_for(
            &block, cases[i].features, cases[i].placers, cases[i].forced);

        if (engine != cases[i].engine)
            fail_msg("case %u: %s", i, place_ops_of(engine)->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_of_the_outcome_table),
        cmocka_unit_test(any_other_errno_is_a_failure),
        cmocka_unit_test(the_engine_fits_the_memory),
    };

    return cmocka_run_group_tests_name("place", tests, NULL, NULL);
}
