/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placing: making received pages visible to the guest and waking who waits.
 *
 * An engine is a way of doing that. What a call to the kernel comes to is an
 * outcome, looked up by engine and errno in one table (place.c); the loop that
 * acts on outcomes is the same for all engines.
 */
#ifndef REMAPD_PLACE_H
#define REMAPD_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "block.h"
#include "placer.h"
#include "stats.h"

enum place_engine {
    PLACE_COPY,
    PLACE_CONTINUE,
    PLACE_MOVE,
    PLACE_REMAP,
    PLACE_ENGINES
};

enum place_outcome {
    OUTCOME_PLACED,  /* the whole range */
    OUTCOME_PRESENT, /* the first page was there already: wake it, go on */
    OUTCOME_AGAIN,   /* go on from the reported byte */
    OUTCOME_COPY,    /* not this way: copy instead */
    OUTCOME_GONE,    /* the guest's memory is no more */
    OUTCOME_FAILED,  /* a bug, or a kernel that does not keep its word */
};

/* Where pages are placed. Set up by the main thread, then read only. */
struct place_target {
    int uffd;
    struct stats *stats;
    bool merges; /* engine move: a huge page can take the place of pages */
};

/*
 * What an engine does. data and zero place [offset, offset + length) of @block,
 * whole pages of it, wake its waiters, and return 0 or a positive errno with
 * the bytes that were done before it in @done; NULL: as engine copy does. Any
 * thread.
 */
struct place_ops {
    const char *name;
    /* The network writes into block->map; `from` is ignored. A page must then
     * be received by one thread alone. */
    bool in_place;
    bool huge;   /* a granule of HUGE_BYTES can become one huge page */
    bool staged; /* it is then received in place into a slot of staging.h */
    int (*data)(const struct place_target *target, const struct block *block,
                uint64_t offset, uint64_t length, const void *from,
                uint64_t *done);
    int (*zero)(const struct place_target *target, const struct block *block,
                uint64_t offset, uint64_t length, uint64_t *done);
};

extern const struct place_ops place_copy_ops, place_continue_ops,
    place_move_ops, place_remap_ops;

/** place_ops_of() - the operations of @engine. Any thread. */
const struct place_ops *place_ops_of(enum place_engine engine);

/**
 * place_engine_for() - the best engine for @block.
 * @uffd_features: what the destination's uffd was granted, or will be
 * @placers: has the QEMU a placer for every receiving thread?
 * @forced: PLACE_ENGINES for the best; or one to be used wherever it can be
 *
 * Main thread.
 */
enum place_engine place_engine_for(const struct block *block,
                                   uint64_t uffd_features, bool placers,
                                   enum place_engine forced);

/* Said by whoever notices it first: a thread that places, one that reads
 * faults, or the hand-off. */
#define PLACE_QEMU_LEFT                                                        \
    "the destination's QEMU has left: if it has ended, so has its guest; the " \
    "source's memory is kept"

/** place_strerror() - @error, which one of these returned, in words. */
const char *place_strerror(int error);

/** place_outcome_of() - what @error (0 or a positive errno) of @engine's call
 * means. Any thread. */
enum place_outcome place_outcome_of(enum place_engine engine, int error);

/**
 * place_data() - place pages whose bytes are at @from, or in block->map.
 * @offset, @length: whole pages of @block, all of them missing or present
 *
 * Any thread; blocks on the kernel's memory management only.
 * Return: 0, -ESRCH if the guest's memory is gone, or -errno.
 */
int place_data(const struct place_target *target, enum place_engine engine,
               const struct block *block, uint64_t offset, uint64_t length,
               const void *from);

/** place_staged() - place_data() of a huge page. @whole: set, if 0 is returned,
 * to whether it is one in the guest, too; otherwise its pages are there singly:
 * some were there before, or had to be copied. */
int place_staged(const struct place_target *target, enum place_engine engine,
                 const struct block *block, uint64_t offset, const void *from,
                 bool *whole);

/** place_zero() - place_data() for pages that are zero. */
int place_zero(const struct place_target *target, enum place_engine engine,
               const struct block *block, uint64_t offset, uint64_t length);

/** place_granule() - the bytes that @engine fetches for one fault in @block,
 * if all of them are missing. Any thread. */
uint64_t place_granule(enum place_engine engine, const struct block *block);

/** place_merges() - can a huge page of @engine come where some of its pages are
 * there already? Any thread. */
bool place_merges(const struct place_target *target, enum place_engine engine);

/**
 * place_slot() - engine move: a filled slot of a placer, as one huge page.
 * @placers, @own, @slot, @there: as for placer_move(); @there is empty unless
 *                                place_merges()
 *
 * Any thread. Return: 0; -ESRCH if the guest's memory is gone; or -EAGAIN if
 * the pages are to be copied out of the slot.
 */
int place_slot(const struct place_target *target, struct placer_pool *placers,
               unsigned own, const struct placer_slot *slot,
               const struct block *block, uint64_t offset,
               const uint64_t *there);

/** place_present() - answer a fault on a page that is not missing: give it
 * what the kernel holds for it, or zeros if it holds nothing any more. */
int place_present(const struct place_target *target, const struct block *block,
                  uint64_t offset, bool minor);

/** place_wake() - wake who waits for [offset, offset + length). */
int place_wake(const struct place_target *target, const struct block *block,
               uint64_t offset, uint64_t length);

#endif
