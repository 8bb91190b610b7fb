/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "series.h"

#include "util.h"

void series_begin(struct series *series)
{
    series->begin_ns = now_ns();
    series->distance_ns = SERIES_DISTANCE_NS;
}

/* Each two become one. */
static void series_halve(struct series *series)
{
    for (unsigned i = 0; i < SERIES_SAMPLES / 2; i++) {
        const struct series_sample *a = &series->samples[2 * i];
        const struct series_sample *b = a + 1;

        series->samples[i] = (struct series_sample){
            .end_ns = b->end_ns,
            .left_pages = b->left_pages,
            .faults = a->faults + b->faults,
            .waited_ns = a->waited_ns + b->waited_ns,
            .longest_ns = MAX(a->longest_ns, b->longest_ns),
        };
    }
    series->count = SERIES_SAMPLES / 2;
    series->distance_ns *= 2;
}

void series_note(struct series *series, struct histogram *latency,
                 uint64_t left_pages)
{
    struct series_sample sample = {.left_pages = left_pages};

    if (!series->distance_ns)
        return;
    sample.end_ns = now_ns() - series->begin_ns;
    if (series->count == SERIES_SAMPLES)
        series_halve(series);
    sample.faults = atomic_load(&latency->count) - series->faults;
    sample.waited_ns = atomic_load(&latency->sum_ns) - series->waited_ns;
    sample.longest_ns = atomic_exchange(&latency->recent_max_ns, 0);
    series->faults += sample.faults;
    series->waited_ns += sample.waited_ns;
    series->samples[series->count++] = sample;
}

struct json_object *series_json(const struct series *series)
{
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < series->count; i++) {
        const struct series_sample *sample = &series->samples[i];
        const uint64_t values[] = {sample->end_ns / 1000, sample->left_pages,
                                   sample->faults, sample->waited_ns / 1000,
                                   sample->longest_ns / 1000};
        struct json_object *row = json_object_new_array();

        for (unsigned j = 0; j < ARRAY_SIZE(values); j++)
            json_object_array_add(row, json_object_new_uint64(values[j]));
        json_object_array_add(list, row);
    }
    return list;
}
