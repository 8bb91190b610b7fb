/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include "../../daemon/stats.h"

#define VALUES 5000

static struct histogram histogram;

static int set_up(void **state)
{
    (void)state;
    memset(&histogram, 0, sizeof(histogram));
    return 0;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void empty_is_zero(void **state)
{
    (void)state;
    assert_int_equal(histogram_quantile(&histogram, 0.5), 0);
}

static void one_value_is_every_quantile(void **state)
{
    static const uint64_t values[] = {0, 1, 15, 16, 17, 1000, 123456789};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        set_up(NULL);
        histogram_add(&histogram, values[i]);
        assert_int_equal(histogram_quantile(&histogram, 0.5), values[i]);
        assert_int_equal(histogram_quantile(&histogram, 1), values[i]);
        assert_int_equal(histogram.max_ns, values[i]);
    }
}

/* No quantile is below the true one, nor above it by more than 1/16. */
static void quantiles_are_near_the_true_ones(void **state)
{
    static const double shares[] = {0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
    static uint64_t values[VALUES];
    uint64_t seed = test_seed();

    (void)state;
    for (unsigned i = 0; i < VALUES; i++) {
        values[i] = test_random(&seed) >> (24 + test_random(&seed) % 40);
        histogram_add(&histogram, values[i]);
    }
    qsort(values, VALUES, sizeof(*values), compare);
    for (unsigned i = 0; i < ARRAY_SIZE(shares); i++) {
        double rank = shares[i] * VALUES;
        unsigned at = (unsigned)rank;
        uint64_t truth = values[(double)at == rank ? at - 1 : at];
        uint64_t said = histogram_quantile(&histogram, shares[i]);

        assert_true(said >= truth);
        assert_true(said <= truth + truth / 16 + 1);
    }
    assert_int_equal(histogram_quantile(&histogram, 1), values[VALUES - 1]);
}

/* Beyond the last bucket: counted, and the maximum stays exact. */
static void the_longest_wait_is_exact(void **state)
{
    uint64_t hour = 3600ull * 1000000000;

    (void)state;
    histogram_add(&histogram, 1000);
    histogram_add(&histogram, hour);
    histogram_add(&histogram, UINT64_MAX);
    assert_int_equal(histogram.count, 3);
    assert_int_equal(histogram.max_ns, UINT64_MAX);
    assert_true(histogram_quantile(&histogram, 0.1) < 1100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(empty_is_zero, set_up),
        cmocka_unit_test_setup(one_value_is_every_quantile, set_up),
        cmocka_unit_test_setup(quantiles_are_near_the_true_ones, set_up),
        cmocka_unit_test_setup(the_longest_wait_is_exact, set_up),
    };

    return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
