/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sets of pages: one bit a page, changed atomically.
 *
 * A session keeps its truth in a few of them (what is missing, what is being
 * received, what was asked for, what is left to send). There each bit goes from
 * set to clear exactly once, and pageset_take() tells the thread for which it
 * did: that thread alone acts on the page. A set from which nothing is taken
 * only grows. Between two connections, while no thread moves pages, a set may
 * be filled anew. Any function may be called from any thread.
 */
#ifndef REMAPD_PAGESET_H
#define REMAPD_PAGESET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define PAGESET_MASK_WORDS 8 /* what one call takes at most: 512 pages */
#define MASK_MAX_RUNS      (PAGESET_MASK_WORDS * 32)

struct pageset {
    _Atomic uint64_t *words;
    uint64_t pages; /* 0..pages-1 can be members */
    _Atomic uint64_t count;
    bool kept; /* the words are somebody else's */
};

/** pageset_init() - an empty set for @pages page numbers. */
void pageset_init(struct pageset *set, uint64_t pages);

/** pageset_words() - how many words pageset_keep() needs for @pages. */
uint64_t pageset_words(uint64_t pages);

/** pageset_keep() - a set for @pages page numbers, with the members that
 * @words has, which outlive it. */
void pageset_keep(struct pageset *set, uint64_t pages, uint64_t *words);

/** pageset_fini() - free what pageset_init() allocated. */
void pageset_fini(struct pageset *set);

/** pageset_bytes() - the memory that the set takes. */
uint64_t pageset_bytes(const struct pageset *set);

/** pageset_add() - make @pages pages from @first members. */
void pageset_add(struct pageset *set, uint64_t first, uint64_t pages);

/** pageset_fill() - make the members of @from that are not in @except the only
 * ones. @from: of as many page numbers, or NULL for none; @except: may be NULL.
 * No other thread may change one of the three. */
void pageset_fill(struct pageset *set, const struct pageset *from,
                  const struct pageset *except);

/** pageset_has() - is @page a member? */
bool pageset_has(const struct pageset *set, uint64_t page);

/** pageset_count() - how many members there are. */
uint64_t pageset_count(const struct pageset *set);

/**
 * pageset_get() - which of @pages (at most 512) from @first are members.
 * @mask: PAGESET_MASK_WORDS words, bit i of it is page first + i
 * Return: how many.
 */
unsigned pageset_get(const struct pageset *set, uint64_t first, unsigned pages,
                     uint64_t *mask);

/**
 * pageset_take() - remove those of @mask's pages that are members.
 * @mask: in: the pages to take; out: those that this call took
 * Return: how many it took.
 */
unsigned pageset_take(struct pageset *set, uint64_t first, unsigned pages,
                      uint64_t *mask);

/** pageset_next() - the first member at or after @from, or set->pages. */
uint64_t pageset_next(const struct pageset *set, uint64_t from);

/** mask_run() - the next run of set bits at or after @from in @mask.
 * @pages: bits in the mask; @end: one past the run
 * Return: where the run starts, or @pages if there is none. */
unsigned mask_run(const uint64_t *mask, unsigned pages, unsigned from,
                  unsigned *end);

/** mask_iovecs() - the pages of @mask, each run one piece.
 * @pages: bits in the mask; @base: where page 0 is
 * @iov: result: room for MASK_MAX_RUNS
 * Return: how many runs there are. */
unsigned mask_iovecs(const uint64_t *mask, unsigned pages, const void *base,
                     struct iovec *iov);

/** mask_fill() - set the first @pages bits of @mask, clear the others. */
void mask_fill(uint64_t *mask, unsigned pages);

/** mask_count() - how many bits are set in @mask. */
unsigned mask_count(const uint64_t *mask);

static inline bool mask_has(const uint64_t *mask, unsigned bit)
{
    return mask[bit / 64] >> bit % 64 & 1;
}

static inline void mask_add(uint64_t *mask, unsigned bit)
{
    mask[bit / 64] |= 1ull << bit % 64;
}

#endif
