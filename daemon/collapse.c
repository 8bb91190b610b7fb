/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "collapse.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "log.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* The kernel drains every CPU's page lists before each call: not for each
 * granule alone. */
#define RUN_GRANULES      16
#define DRAINING_GRANULES 4 /* the end of the drain waits for a run */
#define LOOK_NS           20000000
#define GRANULE_PAGES     (HUGE_BYTES / PAGE_BYTES)

void collapser_init(struct collapser *collapser,
                    const struct block_table *table, const struct pagemap *map,
                    struct thread_status *status)
{
    *collapser = (struct collapser){
        .table = table, .map = map, .status = status, .pidfd = -1};
    pageset_init(&collapser->pieces, table->pages / GRANULE_PAGES);
}

void collapser_fini(struct collapser *collapser)
{
    thread_join(&collapser->thread);
    pageset_fini(&collapser->pieces);
    if (collapser->pidfd >= 0)
        close(collapser->pidfd);
}

bool collapser_note(struct collapser *collapser, uint64_t page)
{
    if (pageset_has(&collapser->pieces, page / GRANULE_PAGES))
        return false;
    pageset_add(&collapser->pieces, page / GRANULE_PAGES, 1);
    return true;
}

/* A piece whose last page is there, too. */
static bool is_ready(const struct collapser *collapser, uint64_t granule)
{
    uint64_t mask[PAGESET_MASK_WORDS];

    return pageset_has(&collapser->pieces, granule) &&
           !pageset_get(&collapser->map->missing, granule * GRANULE_PAGES,
                        GRANULE_PAGES, mask);
}

/* How many granules from @first on, in one block, are ready. */
static uint64_t ready_run(const struct collapser *collapser, uint64_t first)
{
    const struct block *block =
        block_table_page(collapser->table, first * GRANULE_PAGES);
    uint64_t next = first, /* a part of a granule is none */
        end = (block->first_page + block->length / PAGE_BYTES) / GRANULE_PAGES;

    end = MIN(end,
              first + (collapser->draining ? DRAINING_GRANULES : RUN_GRANULES));
    while (next < end && is_ready(collapser, next))
        next++;
    return next - first;
}

static bool collapse(const struct collapser *collapser, uint64_t first,
                     uint64_t granules)
{
    const struct block *block =
        block_table_page(collapser->table, first * GRANULE_PAGES);
    uint64_t page = first * GRANULE_PAGES - block->first_page;
    struct iovec range = {
        (void *)(uintptr_t)(block->hva + page * PAGE_BYTES),
        granules * HUGE_BYTES,
    };

    return syscall(SYS_process_madvise, collapser->pidfd, &range, 1,
                   MADV_COLLAPSE, 0) == (long)range.iov_len;
}

static void collapse_run(struct collapser *collapser, uint64_t first,
                         uint64_t granules)
{
    uint64_t mask[PAGESET_MASK_WORDS];

    mask_fill(mask, (unsigned)granules);
    pageset_take(&collapser->pieces, first, (unsigned)granules, mask);
    collapser->tried += granules;
    if (collapse(collapser, first, granules))
        collapser->huge += granules;
    else
        for (uint64_t i = 0; granules > 1 && i < granules; i++)
            collapser->huge += collapse(collapser, first + i, 1);
}

/* The guest's own page faults wait for a collapse, and it takes a CPU: leave
 * them as long while pages are missing, some time later. */
static void rest(const struct collapser *collapser, uint64_t worked_ns)
{
    uint64_t ns = collapser->draining ? worked_ns : worked_ns / 4;

    nanosleep(&(struct timespec){.tv_nsec = (long)MIN(ns, 999999999)}, NULL);
}

static bool is_over(const struct collapser *collapser)
{
    return collapser->draining && thread_status_stopping(collapser->status);
}

static void collapse_all_ready(struct collapser *collapser)
{
    const struct pageset *pieces = &collapser->pieces;
    uint64_t granules;

    for (uint64_t first = pageset_next(pieces, 0);
         first < pieces->pages && !is_over(collapser);
         first = pageset_next(pieces, first + MAX(granules, 1))) {
        uint64_t start = now_ns();

        granules = ready_run(collapser, first);
        if (!granules)
            continue;
        collapse_run(collapser, first, granules);
        rest(collapser, now_ns() - start);
    }
}

static void collapse_main(void *opaque)
{
    struct collapser *collapser = opaque;

    while (collapser->draining && !is_over(collapser)) {
        collapse_all_ready(collapser);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
    if (collapser->draining)
        return;
    collapse_all_ready(collapser);
    if (collapser->tried)
        log_info("%llu of %llu granules that came in pieces are huge pages "
                 "again",
                 (unsigned long long)collapser->huge,
                 (unsigned long long)collapser->tried);
}

void collapser_start(struct collapser *collapser, pid_t pid, bool draining)
{
    thread_join(&collapser->thread);
    collapser->draining = draining;
    if (collapser->pidfd < 0)
        collapser->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (collapser->pidfd < 0 ||
        thread_start(&collapser->thread, collapser->status, collapse_main,
                     collapser))
        log_warning("granules that came in pieces stay small pages");
}
