/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include "../../daemon/series.h"

#define LOOKS 5000

static struct series series;
static struct histogram latency;

static int set_up(void **state)
{
    (void)state;
    memset(&series, 0, sizeof(series));
    memset(&latency, 0, sizeof(latency));
    return 0;
}

static void nothing_before_the_beginning(void **state)
{
    (void)state;
    series_note(&series, &latency, 1);
    assert_int_equal(series.count, 0);
}

static void a_sample_is_what_came_since_the_one_before(void **state)
{
    (void)state;
    histogram_add(&latency, 7000);
    series_begin(&series);
    series_note(&series, &latency, 100);
    histogram_add(&latency, 2000);
    histogram_add(&latency, 3000);
    series_note(&series, &latency, 50);
    series_note(&series, &latency, 0);
    assert_int_equal(series.count, 3);
    assert_int_equal(series.samples[1].left_pages, 50);
    assert_int_equal(series.samples[1].faults, 2);
    assert_int_equal(series.samples[1].waited_ns, 5000);
    assert_int_equal(series.samples[1].longest_ns, 3000);
    assert_int_equal(series.samples[2].faults, 0);
    assert_int_equal(series.samples[2].longest_ns, 0);
}

static void it_is_bounded_and_forgets_nothing(void **state)
{
    uint64_t faults = 0, waited = 0, longest = 0, end = 0;

    (void)state;
    series_begin(&series);
    for (unsigned i = 0; i < LOOKS; i++) {
        histogram_add(&latency, 1 + i % 1000);
        series_note(&series, &latency, LOOKS - i);
        assert_true(series.count <= SERIES_SAMPLES);
    }
    for (unsigned i = 0; i < series.count; i++) {
        const struct series_sample *sample = &series.samples[i];

        faults += sample->faults;
        waited += sample->waited_ns;
        longest = MAX(longest, sample->longest_ns);
        assert_true(sample->end_ns >= end);
        end = sample->end_ns;
    }
    assert_int_equal(faults, LOOKS);
    assert_int_equal(waited, latency.sum_ns);
    assert_int_equal(longest, 1000);
    assert_int_equal(series.samples[series.count - 1].left_pages, 1);
    assert_true(series.distance_ns >= LOOKS / SERIES_SAMPLES / 2 *
                                          SERIES_DISTANCE_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_before_the_beginning, set_up),
        cmocka_unit_test_setup(a_sample_is_what_came_since_the_one_before,
                               set_up),
        cmocka_unit_test_setup(it_is_bounded_and_forgets_nothing, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
