/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "place.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

#include "uffdio.h"

/* How often a call that does nothing is tried again: some yields, then about
 * ten seconds of sleeping a millisecond each. */
#define PLACE_YIELDS    64
#define PLACE_MAX_TRIES (PLACE_YIELDS + 10000)

static const struct place_ops *const engines[PLACE_ENGINES] = {
    [PLACE_COPY] = &place_copy_ops,
    [PLACE_CONTINUE] = &place_continue_ops,
    [PLACE_MOVE] = &place_move_ops,
    [PLACE_REMAP] = &place_remap_ops,
};

/*
 * What each errno of each engine's ioctl means. An errno that stands in no row
 * is a failure. Ref: ioctl_userfaultfd(2), mm/userfaultfd.c, and for remap
 * kernel-patches/UFFDIO_REMAP.2const.
 */
static const struct {
    enum place_engine engine;
    int error;
    enum place_outcome outcome;
} outcomes[] = {
    {PLACE_COPY, 0, OUTCOME_PLACED},
    {PLACE_COPY, EEXIST, OUTCOME_PRESENT},
    {PLACE_COPY, EAGAIN, OUTCOME_AGAIN}, /* partly done, or mappings change */
    {PLACE_COPY, ENOMEM, OUTCOME_AGAIN}, /* reclaim will find some, or OOM */
    {PLACE_COPY, ENOENT, OUTCOME_GONE},  /* no registered mapping there */
    {PLACE_COPY, ESRCH, OUTCOME_GONE},   /* the process has exited */
    {PLACE_COPY, ENOSPC, OUTCOME_GONE},  /* the same, said by kernels < 4.18 */
    {PLACE_CONTINUE, 0, OUTCOME_PLACED},
    {PLACE_CONTINUE, EEXIST, OUTCOME_PRESENT},
    {PLACE_CONTINUE, EAGAIN, OUTCOME_AGAIN},
    {PLACE_CONTINUE, ENOMEM, OUTCOME_AGAIN},
    {PLACE_CONTINUE, ENOENT, OUTCOME_GONE},
    {PLACE_CONTINUE, ESRCH, OUTCOME_GONE},
    {PLACE_MOVE, 0, OUTCOME_PLACED},
    {PLACE_MOVE, EEXIST, OUTCOME_COPY}, /* a part is there: page by page */
    {PLACE_MOVE, EAGAIN, OUTCOME_COPY}, /* a part has moved */
    {PLACE_MOVE, EBUSY, OUTCOME_COPY},  /* pinned or shared staging */
    {PLACE_MOVE, ENOENT, OUTCOME_COPY}, /* staging was not primed */
    {PLACE_MOVE, ENOMEM, OUTCOME_COPY},
    {PLACE_MOVE, EINVAL, OUTCOME_COPY}, /* locked memory, and the like */
    {PLACE_MOVE, EIO, OUTCOME_COPY},    /* the placer does not answer */
    {PLACE_MOVE, ESRCH, OUTCOME_GONE},
    {PLACE_REMAP, 0, OUTCOME_PLACED},
    {PLACE_REMAP, EEXIST, OUTCOME_PRESENT},
    {PLACE_REMAP, EAGAIN, OUTCOME_AGAIN}, /* partly done, or mappings change */
    {PLACE_REMAP, EBUSY, OUTCOME_COPY},   /* pinned, or shared by KSM */
    {PLACE_REMAP, ENOMEM, OUTCOME_COPY},  /* the guest's limit: page by page */
    {PLACE_REMAP, EINVAL, OUTCOME_COPY},  /* locked memory, and the like */
    {PLACE_REMAP, ENOENT, OUTCOME_COPY},  /* which tells whose fault it is */
    {PLACE_REMAP, ESRCH, OUTCOME_GONE},
};

const struct place_ops *place_ops_of(enum place_engine engine)
{
    return engines[engine];
}

enum place_engine place_engine_for(const struct block *block,
                                   uint64_t uffd_features, bool placers,
                                   enum place_engine forced)
{
    uint64_t needed = block->page_size > PAGE_BYTES
                          ? UFFD_FEATURE_MINOR_HUGETLBFS
                          : UFFD_FEATURE_MINOR_SHMEM;

    if (block->shared && block->fd >= 0 && (uffd_features & needed) &&
        (forced == PLACE_CONTINUE || forced == PLACE_ENGINES))
        return PLACE_CONTINUE;
    if (block->shared || block->page_size != PAGE_BYTES ||
        block->length < HUGE_BYTES || block->hva % HUGE_BYTES)
        return PLACE_COPY;
    if ((uffd_features & UFFD_FEATURE_REMAP) &&
        (forced == PLACE_REMAP || forced == PLACE_ENGINES))
        return PLACE_REMAP;
    if (placers && (forced == PLACE_MOVE || forced == PLACE_ENGINES))
        return PLACE_MOVE;
    return PLACE_COPY;
}

uint64_t place_granule(enum place_engine engine, const struct block *block)
{
    return engines[engine]->huge ? HUGE_BYTES : block->page_size;
}

enum place_outcome place_outcome_of(enum place_engine engine, int error)
{
    for (unsigned i = 0; i < ARRAY_SIZE(outcomes); i++) {
        if (outcomes[i].engine == engine && outcomes[i].error == error)
            return outcomes[i].outcome;
    }
    return OUTCOME_FAILED;
}

int place_wake(const struct place_target *target, const struct block *block,
               uint64_t offset, uint64_t length)
{
    struct uffdio_range range = {block->hva + offset, length};

    return ioctl(target->uffd, UFFDIO_WAKE, &range) ? -errno : 0;
}

/* Who is in the way is soon gone, or sleeps: yield first, then sleep. */
static void place_wait(unsigned fruitless)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    if (fruitless < PLACE_YIELDS)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

/* @whole: set to whether @engine did it in one piece; or NULL. */
static int place_range(const struct place_target *target,
                       enum place_engine engine, const struct block *block,
                       uint64_t offset, uint64_t length, const char *from,
                       bool zero, bool *whole)
{
    enum place_engine first = engine;
    uint64_t all = length;
    unsigned fruitless = 0;

    if (whole)
        *whole = false;
    if (zero ? !engines[engine]->zero : !engines[engine]->data)
        engine = PLACE_COPY;
    while (length) {
        const struct place_ops *ops = engines[engine];
        uint64_t done = 0;
        int error = zero
                        ? ops->zero(target, block, offset, length, &done)
                        : ops->data(target, block, offset, length, from, &done);

        switch (place_outcome_of(engine, error)) {
        case OUTCOME_PLACED:
            if (whole)
                *whole = length == all && engine == first;
            return 0;
        case OUTCOME_PRESENT:
            /* The error names the first page that is not done. */
            place_wake(target, block, offset + done, block->page_size);
            done += block->page_size;
            atomic_fetch_add(&target->stats->present_pages,
                             block->page_size / PAGE_BYTES);
            break;
        case OUTCOME_AGAIN:
            fruitless = done ? 0 : fruitless + 1;
            if (fruitless > PLACE_MAX_TRIES)
                return -error;
            if (fruitless)
                place_wait(fruitless);
            break;
        case OUTCOME_GONE:
            return -ESRCH;
        case OUTCOME_COPY:
            engine = PLACE_COPY;
            atomic_fetch_add(&target->stats->fallback_pages,
                             length / PAGE_BYTES);
            break;
        case OUTCOME_FAILED:
            return -error;
        }
        offset += done;
        length -= done;
        from = from ? from + done : NULL;
    }
    return 0;
}

const char *place_strerror(int error)
{
    return error == -ESRCH ? PLACE_QEMU_LEFT : strerror(-error);
}

int place_data(const struct place_target *target, enum place_engine engine,
               const struct block *block, uint64_t offset, uint64_t length,
               const void *from)
{
    return place_range(target, engine, block, offset, length, from, false,
                       NULL);
}

int place_staged(const struct place_target *target, enum place_engine engine,
                 const struct block *block, uint64_t offset, const void *from,
                 bool *whole)
{
    return place_range(target, engine, block, offset, HUGE_BYTES, from, false,
                       whole);
}

int place_zero(const struct place_target *target, enum place_engine engine,
               const struct block *block, uint64_t offset, uint64_t length)
{
    return place_range(target, engine, block, offset, length, NULL, true, NULL);
}

bool place_merges(const struct place_target *target, enum place_engine engine)
{
    return engine == PLACE_MOVE && target->merges;
}

int place_slot(const struct place_target *target, struct placer_pool *placers,
               unsigned own, const struct placer_slot *slot,
               const struct block *block, uint64_t offset,
               const uint64_t *there)
{
    int error = placer_move(placers, own, slot, block->hva + offset, there);

    switch (place_outcome_of(PLACE_MOVE, error)) {
    case OUTCOME_PLACED:
        return 0;
    case OUTCOME_GONE:
        return -ESRCH;
    default:
        atomic_fetch_add(&target->stats->fallback_pages,
                         HUGE_BYTES / PAGE_BYTES);
        return -EAGAIN;
    }
}

int place_present(const struct place_target *target, const struct block *block,
                  uint64_t offset, bool minor)
{
    return place_range(target, minor ? PLACE_CONTINUE : PLACE_COPY, block,
                       offset, block->page_size, NULL, !minor, NULL);
}
