/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's truth about each page of a session.
 *
 * A page is missing until it is placed; then it is the guest's and is never
 * written again. On the way it may be requested (a fault waits for it) and,
 * with an engine that receives in place, claimed by the one thread that
 * receives it, and then received: all its bytes are there, and the guest may
 * have it, so that it must not be written again even though it is missing.
 *
 * What is missing and received is kept where it outlives the daemon (keep.h),
 * each bit written after what it says has become true. Any function may be
 * called from any thread.
 */
#ifndef REMAPD_PAGEMAP_H
#define REMAPD_PAGEMAP_H

#include <pthread.h>

#include "pageset.h"
#include "stats.h"

/* Faults whose latency is being measured; more than that many at once are
 * served all the same, but not timed. */
#define PAGEMAP_TIMED_FAULTS 4096

#define PAGEMAP_LOCKS 64

struct pagemap {
    struct pageset missing;     /* not placed yet */
    struct pageset unclaimed;   /* missing, and no thread receives it */
    struct pageset unrequested; /* missing, and not asked for */
    struct pageset received;    /* in place; perhaps placed */
    struct stats *stats;
    pthread_mutex_t lock; /* of the table below */
    struct {
        uint64_t page, since_ns;
    } faults[PAGEMAP_TIMED_FAULTS];
    unsigned fault_count;
    uint64_t again_ns; /* who waited before has been woken, to ask again */
    pthread_mutex_t granules[PAGEMAP_LOCKS]; /* each of many granules */
};

/** pagemap_init() - a map of @pages page numbers.
 * @missing, @received: pageset_words() of each, which outlive the map; all 0
 *                      for a map of which nothing is missing */
void pagemap_init(struct pagemap *map, uint64_t pages, uint64_t *missing,
                  uint64_t *received, struct stats *stats);

/** pagemap_fini() - free what pagemap_init() allocated. */
void pagemap_fini(struct pagemap *map);

/** pagemap_bytes() - the memory that the map's sets take. */
uint64_t pagemap_bytes(const struct pagemap *map);

/** pagemap_expect() - @pages pages from @first are missing; before any page
 * moves. */
void pagemap_expect(struct pagemap *map, uint64_t first, uint64_t pages);

/** pagemap_again() - forget who was receiving and asking for what; while no
 * thread moves pages. */
void pagemap_again(struct pagemap *map);

/** pagemap_wanted() - the pages that must be sent: those missing of which the
 * bytes are not here. Exact after pagemap_again(), before pages move. */
const struct pageset *pagemap_wanted(const struct pagemap *map);

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

/** pagemap_enter() - until pagemap_leave() no other thread that enters changes
 * which pages of the granule of 512 around @page the guest has: where a huge
 * page may take the place of pages, whoever places any must have entered. */
void pagemap_enter(struct pagemap *map, uint64_t page);
void pagemap_leave(struct pagemap *map, uint64_t page);

/** pagemap_received() - all bytes of the pages of @mask, which this thread has
 * claimed, are in place. Before they are placed. */
void pagemap_received(struct pagemap *map, uint64_t first, unsigned pages,
                      const uint64_t *mask);

/** pagemap_received_next() - the first page from @from on that is received and
 * missing; the number of pages if there is none. */
uint64_t pagemap_received_next(const struct pagemap *map, uint64_t from);

/** pagemap_waiting_ns() - since when the fault that has waited longest does, of
 * those since pagemap_again(); UINT64_MAX if none waits. */
uint64_t pagemap_waiting_ns(struct pagemap *map);

/** pagemap_placed() - the pages of @mask are placed; measures the faults that
 * waited for them.
 * @waited_ns: result: the shortest time that one did; UINT64_MAX if none did
 * Return: how many were still missing. */
unsigned pagemap_placed(struct pagemap *map, uint64_t first, unsigned pages,
                        uint64_t *mask, uint64_t *waited_ns);

/**
 * pagemap_request() - a fault at @since_ns waits for @page.
 * @first, @pages: what would be asked for with it, at most 512
 * @again: whether to ask for @page alone if it was asked for with others
 * Return: how many of them the caller must ask for: all; @page alone, because
 * not all are missing and unasked for; or none, since @page has been asked for,
 * or is placed.
 */
unsigned pagemap_request(struct pagemap *map, uint64_t page, uint64_t first,
                         unsigned pages, bool again, uint64_t since_ns);

#endif
