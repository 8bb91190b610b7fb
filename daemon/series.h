/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a migration went over time: samples at about even distances, of which
 * there are never more than SERIES_SAMPLES. When they are full, each two become
 * one and the distance doubles. Main thread.
 */
#ifndef REMAPD_SERIES_H
#define REMAPD_SERIES_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "stats.h"

#define SERIES_SAMPLES     256
#define SERIES_DISTANCE_NS 10000000ull /* at first */

/* What happened between the sample before and this one. */
struct series_sample {
    uint64_t end_ns;     /* since the first sample's begin */
    uint64_t left_pages; /* at its end */
    uint64_t faults;     /* that were answered */
    uint64_t waited_ns;  /* by all of them together */
    uint64_t longest_ns; /* of them */
};

struct series {
    struct series_sample samples[SERIES_SAMPLES];
    unsigned count;
    uint64_t begin_ns, distance_ns; /* distance_ns: 0 before series_begin() */
    uint64_t faults, waited_ns;     /* of the histogram, at the last sample */
};

/** series_begin() - the first sample begins now; the next is due in
 * series->distance_ns, and so on. */
void series_begin(struct series *series);

/** series_note() - add a sample that ends now. Takes the longest latency of the
 * time since the one before from @latency. Does nothing before series_begin().
 */
void series_note(struct series *series, struct histogram *latency,
                 uint64_t left_pages);

/** series_json() - a new array with an array of each sample's members, in
 * their order; times are microseconds. */
struct json_object *series_json(const struct series *series);

#endif
