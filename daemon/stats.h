/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Figures of one migration.
 *
 * Counters are written by the page threads and read by the main thread, each
 * on its own; a reader may see one counter newer than another.
 */
#ifndef REMAPD_STATS_H
#define REMAPD_STATS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A histogram of nanoseconds: 16 buckets for each power of two, so that a
 * quantile is off by 1/16 at the most. */
#define HISTOGRAM_SUB_BITS 4
#define HISTOGRAM_BUCKETS  ((40 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    _Atomic uint32_t buckets[HISTOGRAM_BUCKETS];
    _Atomic uint64_t count, max_ns, sum_ns;
    _Atomic uint64_t recent_max_ns; /* since somebody set it to 0 */
};

/* Who faults; see faulter.h. The name is written by the main thread, before
 * the first figure. */
#define STATS_MAX_FAULTERS 64

struct stats_faulter {
    char name[64];                        /* empty: nobody ever */
    _Atomic uint64_t faults, shown_pages; /* shown: mapped for a back end */
};

struct stats {
    _Atomic uint64_t zero_pages, data_pages;   /* placed, or sent */
    _Atomic uint64_t urgent_pages, bulk_pages; /* by the channel they came on */
    _Atomic uint64_t duplicate_pages;          /* came twice, dropped */
    _Atomic uint64_t present_pages;            /* the kernel had them already */
    _Atomic uint64_t fallback_pages; /* copied, the engine could not */
    _Atomic uint64_t huge_pages;     /* of 2 MiB, placed in one piece */
    _Atomic uint64_t pieces;         /* that came in pieces; see collapse.h */
    _Atomic uint64_t copied_shared_pages; /* shared, yet out of staging */
    _Atomic uint64_t spliced_pages;       /* sent by QEMU, without a copy */
    _Atomic uint64_t faults;
    struct stats_faulter faulters[STATS_MAX_FAULTERS];
    struct histogram latency; /* of faults: read from the uffd to placed */
    /* Huge pages that were fetched whole for a fault, and the shortest time
     * that takes: what the link can do when nothing else is in the way. A
     * longer one moves it by a sixteenth. */
    _Atomic uint64_t wholes, whole_ns;
};

/** stats_pages() - count pages that were placed, or sent, on an @urgent channel
 * or a bulk one. Any thread. */
void stats_pages(struct stats *stats, bool urgent, unsigned data,
                 unsigned zero);

/** histogram_add() - count one value. Any thread. */
void histogram_add(struct histogram *histogram, uint64_t ns);

/** histogram_quantile() - the value below which @share (0..1) of those counted
 * lie, in nanoseconds; 0 if there are none. Any thread. */
uint64_t histogram_quantile(const struct histogram *histogram, double share);

/** histogram_below() - how many of those counted are not above @ns, as far as
 * the buckets tell; never less for a larger @ns. Any thread. */
uint64_t histogram_below(const struct histogram *histogram, uint64_t ns);

#endif
