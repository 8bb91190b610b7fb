/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge pages for granules that arrived in pieces, behind the guest.
 *
 * Shared memory always does: the network writes it into huge pages, if the
 * kernel has some for it, but a userfaultfd maps them page by page. Once all is
 * there they are mapped whole, for QEMU and for the back ends.
 */
#ifndef REMAPD_COLLAPSE_H
#define REMAPD_COLLAPSE_H

#include "block.h"
#include "faulter.h"
#include "pagemap.h"
#include "thread.h"

struct collapser {
    const struct block_table *table;
    const struct pagemap *map;
    struct pageset pieces; /* granules of HUGE_BYTES that came in pieces */
    struct pageset again;  /* those that the kernel would not collapse yet */
    struct pageset shared; /* those of shared memory */
    struct thread_status *status;
    struct thread thread;
    int pidfd;                                    /* the QEMU */
    bool draining;                                /* pages are still missing */
    uint64_t tried, huge;                         /* granules; of the thread */
    struct faulter *faulters[STATS_MAX_FAULTERS]; /* held; who has mapped the
                                                     shared ones */
};

/** collapser_init() - for the granules of @table, whose pages @map knows; none
 * is in pieces. Main thread. */
void collapser_init(struct collapser *collapser,
                    const struct block_table *table, const struct pagemap *map,
                    struct thread_status *status);

/** collapser_fini() - after the thread's end. Main thread. */
void collapser_fini(struct collapser *collapser);

/** collapser_note() - pages of the granule around page number @page were placed
 * on their own. Any thread. Return: whether it was not known yet. */
bool collapser_note(struct collapser *collapser, uint64_t page);

/** collapser_forget() - the granule around @page is a huge page now. Any
 * thread. Return: whether it had been noted. */
bool collapser_forget(struct collapser *collapser, uint64_t page);

/** collapser_note_shared() - the same for a page of shared memory. */
void collapser_note_shared(struct collapser *collapser, uint64_t page);

/** collapser_share() - have the shared granules mapped whole for @faulters, of
 * which those are held that there are now. Main thread, before the last
 * collapser_start(). */
void collapser_share(struct collapser *collapser, struct faulters *faulters);

/**
 * collapser_start() - in a thread, have the kernel make a huge page of each
 * granule that was noted and has all its pages, with a rest after each few.
 * @pid: the QEMU
 * @draining: go on until thread_status_stop(); otherwise, later, once all pages
 * are placed: until none is left
 *
 * What cannot be collapsed is tried some more times in the end, and then stays
 * as it is. The thread's end is counted in the status. Main thread.
 * Ref: madvise(2), MADV_COLLAPSE, since Linux 6.1.
 */
void collapser_start(struct collapser *collapser, pid_t pid, bool draining);

#endif
