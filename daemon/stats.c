/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "stats.h"

#include "util.h"

static unsigned bucket_of(uint64_t ns)
{
    unsigned top, sub;

    if (ns < 1u << HISTOGRAM_SUB_BITS)
        return (unsigned)ns;
    top = 63 - (unsigned)__builtin_clzll(ns);
    sub = (unsigned)(ns >> (top - HISTOGRAM_SUB_BITS)) &
          ((1u << HISTOGRAM_SUB_BITS) - 1);
    return MIN(((top - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS) + sub,
               HISTOGRAM_BUCKETS - 1u);
}

/* The upper end of a bucket. */
static uint64_t bucket_value(unsigned bucket)
{
    unsigned top = bucket >> HISTOGRAM_SUB_BITS;
    uint64_t sub = bucket & ((1u << HISTOGRAM_SUB_BITS) - 1);

    if (!top)
        return bucket;
    return ((1ull << HISTOGRAM_SUB_BITS) + sub + 1) << (top - 1);
}

static void raise_to(_Atomic uint64_t *max, uint64_t ns)
{
    uint64_t old = atomic_load(max);

    while (ns > old && !atomic_compare_exchange_weak(max, &old, ns))
        ;
}

void stats_pages(struct stats *stats, bool urgent, unsigned data, unsigned zero)
{
    atomic_fetch_add(&stats->data_pages, data);
    atomic_fetch_add(&stats->zero_pages, zero);
    atomic_fetch_add(urgent ? &stats->urgent_pages : &stats->bulk_pages,
                     data + zero);
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    atomic_fetch_add(&histogram->buckets[bucket_of(ns)], 1);
    atomic_fetch_add(&histogram->count, 1);
    atomic_fetch_add(&histogram->sum_ns, ns);
    raise_to(&histogram->max_ns, ns);
    raise_to(&histogram->recent_max_ns, ns);
}

uint64_t histogram_quantile(const struct histogram *histogram, double share)
{
    uint64_t count = atomic_load(&histogram->count), seen = 0;
    uint64_t max = atomic_load(&histogram->max_ns);

    if (!count)
        return 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += atomic_load(&histogram->buckets[i]);
        if ((double)seen >= share * (double)count)
            return MIN(bucket_value(i), max);
    }
    return max;
}

uint64_t histogram_below(const struct histogram *histogram, uint64_t ns)
{
    unsigned end = bucket_of(ns);
    uint64_t seen = 0;

    for (unsigned i = 0; i < end; i++)
        seen += atomic_load(&histogram->buckets[i]);
    return seen;
}
