/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "staging.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE /* since Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

static uint8_t *staging_slot(const struct staging *staging, uint64_t number)
{
    return staging->map + number % staging->slots * STAGING_SLOT_BYTES;
}

/* Never changes what a slot holds, so that it does not matter if its thread
 * is using it by now. */
static bool staging_populate(const struct staging *staging, uint64_t number)
{
    return !madvise(staging_slot(staging, number), STAGING_SLOT_BYTES,
                    MADV_POPULATE_WRITE);
}

void stager_init(struct stager *stager)
{
    *stager = (struct stager){0};
    pthread_mutex_init(&stager->lock, NULL);
    pthread_cond_init(&stager->work, NULL);
}

struct staging *stager_add(struct stager *stager, uint32_t slots)
{
    struct staging *staging = &stager->rings[stager->count];
    size_t bytes = (size_t)slots * STAGING_SLOT_BYTES;
    /* What alignment leaves over keeps the rings from becoming one mapping,
     * whose threads would wait for each other in the kernel. */
    void *mapping = mmap(NULL, bytes + STAGING_SLOT_BYTES, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mapping == MAP_FAILED)
        return NULL;
    *staging = (struct staging){
        .stager = stager,
        .mapping = mapping,
        .map = (uint8_t *)align_up((uintptr_t)mapping, STAGING_SLOT_BYTES),
        .slots = slots,
        .limit = slots,
    };
    if (mprotect(staging->map, bytes, PROT_READ | PROT_WRITE)) {
        munmap(mapping, bytes + STAGING_SLOT_BYTES);
        return NULL;
    }
    /* A page that a child shares does not move. */
    madvise(staging->map, bytes, MADV_DONTFORK);
    madvise(staging->map, bytes, MADV_DONTDUMP);
    madvise(staging->map, bytes, MADV_HUGEPAGE);
    stager->count++;
    return staging;
}

/* The ring whose next slot is to be primed, the urgent ones first, or NULL. */
static struct staging *stager_next(struct stager *stager)
{
    for (unsigned i = 0; i < stager->count && !stager->broken; i++) {
        struct staging *staging = &stager->rings[i];

        if (staging->primed <
            MIN(staging->limit, staging->used + staging->slots))
            return staging;
    }
    return NULL;
}

static void stager_main(void *opaque)
{
    struct stager *stager = opaque;

    pthread_mutex_lock(&stager->lock);
    while (!stager->stopping) {
        struct staging *staging = stager_next(stager);
        uint64_t number;
        bool primed;

        if (!staging) {
            pthread_cond_wait(&stager->work, &stager->lock);
            continue;
        }
        number = staging->primed;
        pthread_mutex_unlock(&stager->lock);
        primed = staging_populate(staging, number);
        pthread_mutex_lock(&stager->lock);
        /* Its thread may have overtaken us. */
        if (primed && staging->primed == number)
            staging->primed++;
        stager->broken |= !primed;
    }
    pthread_mutex_unlock(&stager->lock);
}

int stager_start(struct stager *stager, struct thread_status *status)
{
    return thread_start(&stager->thread, status, stager_main, stager);
}

bool stager_primed(struct stager *stager)
{
    bool primed;

    pthread_mutex_lock(&stager->lock);
    primed = !stager_next(stager);
    pthread_mutex_unlock(&stager->lock);
    return primed;
}

void staging_expect(struct staging *staging, uint64_t uses)
{
    struct stager *stager = staging->stager;

    pthread_mutex_lock(&stager->lock);
    staging->limit = staging->used + uses;
    pthread_cond_signal(&stager->work);
    pthread_mutex_unlock(&stager->lock);
}

void stager_stop(struct stager *stager)
{
    pthread_mutex_lock(&stager->lock);
    stager->stopping = true;
    pthread_cond_signal(&stager->work);
    pthread_mutex_unlock(&stager->lock);
}

void stager_fini(struct stager *stager)
{
    thread_join(&stager->thread);
    for (unsigned i = 0; i < stager->count; i++)
        munmap(stager->rings[i].mapping,
               (stager->rings[i].slots + 1) * STAGING_SLOT_BYTES);
    pthread_cond_destroy(&stager->work);
    pthread_mutex_destroy(&stager->lock);
}

uint8_t *staging_take(struct staging *staging)
{
    struct stager *stager = staging->stager;
    bool primed;

    pthread_mutex_lock(&stager->lock);
    primed = staging->used < staging->primed;
    pthread_mutex_unlock(&stager->lock);
    if (!primed && !staging_populate(staging, staging->used))
        return NULL;
    return staging_slot(staging, staging->used);
}

void staging_release(struct staging *staging)
{
    struct stager *stager = staging->stager;

    madvise(staging_slot(staging, staging->used), STAGING_SLOT_BYTES,
            MADV_DONTNEED);
    pthread_mutex_lock(&stager->lock);
    staging->used++;
    staging->primed = MAX(staging->primed, staging->used);
    pthread_cond_signal(&stager->work);
    pthread_mutex_unlock(&stager->lock);
}
