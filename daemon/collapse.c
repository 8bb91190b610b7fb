/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "collapse.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "log.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define GRANULE_PAGES (HUGE_BYTES / PAGE_BYTES)

void collapser_init(struct collapser *collapser,
                    const struct block_table *table,
                    struct thread_status *status)
{
    *collapser =
        (struct collapser){.table = table, .status = status, .pidfd = -1};
    pageset_init(&collapser->pieces, table->pages / GRANULE_PAGES);
}

void collapser_fini(struct collapser *collapser)
{
    thread_join(&collapser->thread);
    pageset_fini(&collapser->pieces);
    if (collapser->pidfd >= 0)
        close(collapser->pidfd);
}

void collapser_note(struct collapser *collapser, uint64_t page)
{
    if (!pageset_has(&collapser->pieces, page / GRANULE_PAGES))
        pageset_add(&collapser->pieces, page / GRANULE_PAGES, 1);
}

static bool collapse_granule(const struct collapser *collapser,
                             uint64_t granule)
{
    uint64_t page = granule * GRANULE_PAGES;
    const struct block *block = block_table_page(collapser->table, page);
    uint64_t offset = (page - block->first_page) * PAGE_BYTES;
    struct iovec range = {(void *)(uintptr_t)(block->hva + offset), HUGE_BYTES};

    return offset + HUGE_BYTES <= block->length &&
           syscall(SYS_process_madvise, collapser->pidfd, &range, 1,
                   MADV_COLLAPSE, 0) == (long)HUGE_BYTES;
}

static void collapse_main(void *opaque)
{
    struct collapser *collapser = opaque;
    const struct pageset *pieces = &collapser->pieces;
    uint64_t huge = 0;

    for (uint64_t granule = pageset_next(pieces, 0); granule < pieces->pages;
         granule = pageset_next(pieces, granule + 1)) {
        uint64_t start = now_ns();

        huge += collapse_granule(collapser, granule);
        /* The guest's own page faults wait meanwhile: leave them as long. */
        nanosleep(&(struct timespec){.tv_nsec =
                                         (long)(now_ns() - start) % 1000000000},
                  NULL);
    }
    log_info("%llu of %llu granules that came in pieces are huge pages again",
             (unsigned long long)huge,
             (unsigned long long)pageset_count(pieces));
}

void collapser_start(struct collapser *collapser, pid_t pid)
{
    if (!pageset_count(&collapser->pieces))
        return;
    collapser->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (collapser->pidfd < 0 ||
        thread_start(&collapser->thread, collapser->status, collapse_main,
                     collapser))
        log_warning("granules that came in pieces stay small pages");
}
