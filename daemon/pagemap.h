/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's truth about each page of a session.
 *
 * A page is missing until it is placed; then it is the guest's and is never
 * written again. On the way it may be requested (a fault waits for it) and,
 * with an engine that receives in place, claimed by the one thread that
 * receives it. Any function may be called from any thread.
 */
#ifndef REMAPD_PAGEMAP_H
#define REMAPD_PAGEMAP_H

#include <pthread.h>

#include "pageset.h"
#include "stats.h"

/* Faults whose latency is being measured; more than that many at once are
 * served all the same, but not timed. */
#define PAGEMAP_TIMED_FAULTS 4096

struct pagemap {
    struct pageset missing;     /* not placed yet */
    struct pageset unclaimed;   /* missing, and no thread receives it */
    struct pageset unrequested; /* missing, and not asked for */
    struct stats *stats;
    pthread_mutex_t lock; /* of the table below */
    struct {
        uint64_t page, since_ns;
    } faults[PAGEMAP_TIMED_FAULTS];
    unsigned fault_count;
};

/** pagemap_init() - a map of @pages page numbers, none missing. */
void pagemap_init(struct pagemap *map, uint64_t pages, struct stats *stats);

/** pagemap_fini() - free what pagemap_init() allocated. */
void pagemap_fini(struct pagemap *map);

/** pagemap_bytes() - the memory that the map's sets take. */
uint64_t pagemap_bytes(const struct pagemap *map);

/** pagemap_expect() - @pages pages from @first are missing; before any page
 * moves. */
void pagemap_expect(struct pagemap *map, uint64_t first, uint64_t pages);

/** pagemap_left() - how many pages are missing. */
uint64_t pagemap_left(const struct pagemap *map);

/** pagemap_missing() - is @page missing? */
bool pagemap_missing(const struct pagemap *map, uint64_t page);

/**
 * pagemap_want() - which pages of an arriving range this thread must place.
 * @pages: at most 512
 * @mask: in: the pages that arrive; out: those to place
 * @claim: they are received in place, so nobody else may
 */
void pagemap_want(struct pagemap *map, uint64_t first, unsigned pages,
                  uint64_t *mask, bool claim);

/** pagemap_placed() - the pages of @mask are placed; measures the faults that
 * waited for them.
 * @waited_ns: result: the shortest time that one did; UINT64_MAX if none did
 * Return: how many were still missing. */
unsigned pagemap_placed(struct pagemap *map, uint64_t first, unsigned pages,
                        uint64_t *mask, uint64_t *waited_ns);

/**
 * pagemap_request() - a fault at @since_ns waits for @page.
 * @first, @pages: what would be asked for with it, at most 512
 * Return: how many of them the caller must ask for: all; @page alone, because
 * not all are missing and unasked for; or none, since @page has been asked for.
 */
unsigned pagemap_request(struct pagemap *map, uint64_t page, uint64_t first,
                         unsigned pages, uint64_t since_ns);

#endif
