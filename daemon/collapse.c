/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "collapse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "log.h"
#include "present.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* The kernel drains every CPU's page lists before each call: not for each
 * granule alone. */
#define RUN_GRANULES      16
#define DRAINING_GRANULES 4 /* the end of the drain waits for a run */
#define LOOK_NS           20000000
#define ALLOW_LOOKS       250 /* till all have heard that post-copy is over */
#define GRANULE_PAGES     (HUGE_BYTES / PAGE_BYTES)

/* What keeps a granule from becoming a huge page may be over soon: somebody
 * holds a page of it, to read or write it; a page is the kernel's page of
 * zeros, and the userfaultfd still there; memory is short. */
#define AGAIN_LOOKS 5 /* each after twice the time of the one before */

void collapser_init(struct collapser *collapser,
                    const struct block_table *table, const struct pagemap *map,
                    struct thread_status *status)
{
    *collapser = (struct collapser){
        .table = table, .map = map, .status = status, .pidfd = -1};
    pageset_init(&collapser->pieces, table->pages / GRANULE_PAGES);
    pageset_init(&collapser->again, table->pages / GRANULE_PAGES);
    pageset_init(&collapser->shared, table->pages / GRANULE_PAGES);
}

void collapser_fini(struct collapser *collapser)
{
    thread_join(&collapser->thread);
    pageset_fini(&collapser->pieces);
    pageset_fini(&collapser->again);
    pageset_fini(&collapser->shared);
    for (unsigned i = 0; i < STATS_MAX_FAULTERS; i++)
        faulter_put(collapser->faulters[i]);
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

bool collapser_forget(struct collapser *collapser, uint64_t page)
{
    uint64_t one[PAGESET_MASK_WORDS] = {1};

    return pageset_take(&collapser->pieces, page / GRANULE_PAGES, 1, one);
}

void collapser_note_shared(struct collapser *collapser, uint64_t page)
{
    pageset_add(&collapser->shared, page / GRANULE_PAGES, 1);
}

void collapser_share(struct collapser *collapser, struct faulters *faulters)
{
    for (unsigned i = FAULTER_QEMU; i < STATS_MAX_FAULTERS; i++)
        collapser->faulters[i] = faulter_get(faulters, i);
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

/* Make huge pages of @granules from number @first on, where @block is mapped in
 * the process. */
static bool collapse(int pidfd, const struct block *block, uint64_t first,
                     uint64_t granules)
{
    uint64_t page = first * GRANULE_PAGES - block->first_page;
    struct iovec range = {
        (void *)(uintptr_t)(block->hva + page * PAGE_BYTES),
        granules * HUGE_BYTES,
    };

    return syscall(SYS_process_madvise, pidfd, &range, 1, MADV_COLLAPSE, 0) ==
           (long)range.iov_len;
}

/* Ref: madvise(2), errors of MADV_COLLAPSE */
static bool may_yet_collapse(int error)
{
    return error == EAGAIN || error == EBUSY || error == ENOMEM;
}

static void collapse_one(struct collapser *collapser, uint64_t granule)
{
    const struct block *block =
        block_table_page(collapser->table, granule * GRANULE_PAGES);

    if (collapse(collapser->pidfd, block, granule, 1))
        collapser->huge++;
    else if (may_yet_collapse(errno))
        pageset_add(&collapser->again, granule, 1);
}

static void collapse_run(struct collapser *collapser, uint64_t first,
                         uint64_t granules)
{
    const struct block *block =
        block_table_page(collapser->table, first * GRANULE_PAGES);
    uint64_t mask[PAGESET_MASK_WORDS];

    mask_fill(mask, (unsigned)granules);
    pageset_take(&collapser->pieces, first, (unsigned)granules, mask);
    collapser->tried += granules;
    if (granules > 1 && collapse(collapser->pidfd, block, first, granules))
        collapser->huge += granules;
    else
        for (uint64_t i = 0; i < granules; i++)
            collapse_one(collapser, first + i);
}

/* While pages are missing who stops the session waits for this thread. */
static void sleep_ns(const struct collapser *collapser, uint64_t ns)
{
    if (collapser->draining)
        thread_status_sleep(collapser->status, ns);
    else
        nanosleep(&(struct timespec){.tv_nsec = (long)MIN(ns, 999999999)},
                  NULL);
}

/* The guest's own page faults wait for a collapse, and it takes a CPU: leave
 * them as long while pages are missing, some time later. */
static void rest(const struct collapser *collapser, uint64_t worked_ns)
{
    sleep_ns(collapser, collapser->draining ? worked_ns : worked_ns / 4);
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

static void collapse_again(struct collapser *collapser)
{
    struct pageset *again = &collapser->again;
    uint64_t wait_ns = LOOK_NS, one[PAGESET_MASK_WORDS] = {1};

    for (unsigned look = 0; look < AGAIN_LOOKS && pageset_count(again);
         look++, wait_ns *= 2) {
        sleep_ns(collapser, wait_ns);
        for (uint64_t granule = pageset_next(again, 0); granule < again->pages;
             granule = pageset_next(again, granule + 1)) {
            uint64_t start = now_ns();

            pageset_take(again, granule, 1, one);
            collapse_one(collapser, granule);
            rest(collapser, now_ns() - start);
        }
    }
}

/* ---- shared memory ---- */

/* Does the kernel keep this memory in huge pages? Then it has mapped them for
 * us, who have asked for it. Where none are wanted none are made. */
static bool is_huge(const struct block *block)
{
    AUTO_FCLOSE FILE *smaps = fopen("/proc/self/smaps", "re");
    uintptr_t map = (uintptr_t)block->map;
    unsigned long start, end, kib;
    char line[512];
    bool inside = false;

    while (smaps && fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start >= map && start < map + block->length;
        else if (inside && sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1 &&
                 kib)
            return true;
    }
    return false;
}

/* Has the process mapped this memory there? We have QEMU's word only. */
static bool has_mapped(pid_t pid, const struct faulter_region *region)
{
    uint64_t base = region->block.hva + region->offset;
    unsigned long start, end, offset, inode;
    unsigned dev_major, dev_minor;
    char line[512];
    struct stat file;
    AUTO_FCLOSE FILE *maps = present_maps(pid);

    if (fstat(region->block.fd, &file))
        return false;
    while (maps && fgets(line, sizeof(line), maps)) {
        if (sscanf(line, "%lx-%lx %*s %lx %x:%x %lu", &start, &end, &offset,
                   &dev_major, &dev_minor, &inode) == 6 &&
            start <= base && base < end)
            return base + region->length <= end &&
                   makedev(dev_major, dev_minor) == file.st_dev &&
                   inode == file.st_ino &&
                   offset + base - start ==
                       region->block.fd_offset + region->offset;
    }
    return false;
}

static void collapse_region(const struct collapser *collapser, int pidfd,
                            const struct faulter_region *region,
                            uint64_t *tried, uint64_t *huge)
{
    const struct block *block = &region->block;
    uint64_t first = block->first_page + region->offset / PAGE_BYTES;
    uint64_t end = (first + region->length / PAGE_BYTES) / GRANULE_PAGES;
    uint64_t granule = (first + GRANULE_PAGES - 1) / GRANULE_PAGES;
    unsigned looks = 0;

    for (granule = pageset_next(&collapser->shared, granule); granule < end;
         granule = pageset_next(&collapser->shared, granule + 1)) {
        uint64_t start = now_ns();
        bool done = collapse(pidfd, block, granule, 1);

        while (!done && errno == EINVAL && looks++ < ALLOW_LOOKS) {
            sleep_ns(collapser, LOOK_NS);
            start = now_ns();
            done = collapse(pidfd, block, granule, 1);
        }
        *huge += done;
        ++*tried;
        rest(collapser, now_ns() - start);
    }
}

static void collapse_faulter(const struct collapser *collapser,
                             const struct faulter *faulter)
{
    AUTO_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, faulter->pid, 0);
    uint64_t tried = 0, huge = 0;

    for (unsigned i = 0; pidfd >= 0 && i < faulter->count; i++) {
        const struct faulter_region *region = &faulter->regions[i];
        const struct block *block = &region->block;

        if (block->map && block->page_size == PAGE_BYTES &&
            block->hva % HUGE_BYTES == 0 && is_huge(block) &&
            has_mapped(faulter->pid, region))
            collapse_region(collapser, pidfd, region, &tried, &huge);
    }
    if (tried)
        log_info("%s has %llu of %llu granules of shared memory as huge pages",
                 faulter->stats->name, (unsigned long long)huge,
                 (unsigned long long)tried);
}

static void collapse_main(void *opaque)
{
    struct collapser *collapser = opaque;

    while (collapser->draining && !is_over(collapser)) {
        collapse_all_ready(collapser);
        sleep_ns(collapser, LOOK_NS);
    }
    if (collapser->draining)
        return;
    collapse_all_ready(collapser);
    collapse_again(collapser);
    if (collapser->tried)
        log_info("%llu of %llu granules that came in pieces are huge pages "
                 "again",
                 (unsigned long long)collapser->huge,
                 (unsigned long long)collapser->tried);
    for (unsigned i = FAULTER_QEMU; i < STATS_MAX_FAULTERS; i++) {
        if (collapser->faulters[i])
            collapse_faulter(collapser, collapser->faulters[i]);
    }
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
