/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Staging for engine remap: huge pages of the daemon's own, which a receiving
 * thread fills from the network and moves to the guest.
 *
 * Each thread has a ring of slots, a mapping of its own. One thread primes all
 * rings: it has the kernel allocate and zero each slot before its use, so that
 * nobody who waits for a page waits for that. What has moved away is primed
 * again behind those that are ready.
 */
#ifndef REMAPD_STAGING_H
#define REMAPD_STAGING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "thread.h"

#define STAGING_SLOT_BYTES HUGE_BYTES

struct stager;

/* One thread's ring. Slot number n is at n % slots. */
struct staging {
    struct stager *stager;
    uint8_t *map; /* aligned to a slot */
    void *mapping;
    uint32_t slots;
    uint64_t used, primed; /* slot numbers: the next to be used, to be primed */
    uint64_t limit;        /* prime no slot from this number on */
};

/* All rings of a session. */
struct stager {
    struct staging rings[THREAD_MAX_CHANNELS];
    unsigned count;
    pthread_mutex_t lock; /* of the rings' numbers and what follows */
    pthread_cond_t work;
    bool stopping, broken; /* broken: the kernel gives no memory */
    struct thread thread;
};

/** stager_init() - no rings. Main thread, like all up to stager_fini(). */
void stager_init(struct stager *stager);

/** stager_add() - one ring of @slots slots, 1 or more, before stager_start().
 * Return: the ring, or NULL: there is no address space. */
struct staging *stager_add(struct stager *stager, uint32_t slots);

/** stager_start() - prime every slot of every ring, the first ring first, in a
 * thread whose end is counted in @status. Return: 0 or -errno. */
int stager_start(struct stager *stager, struct thread_status *status);

/** stager_primed() - is every slot primed, or no memory to be had? */
bool stager_primed(struct stager *stager);

/** staging_expect() - about @uses more slots of @staging will be used: no more
 * are primed. Until this is called each is primed once. */
void staging_expect(struct staging *staging, uint64_t uses);

/** stager_stop() - have the thread end, without waiting for it. */
void stager_stop(struct stager *stager);

/** stager_fini() - free all rings; after the threads' end. */
void stager_fini(struct stager *stager);

/** staging_take() - the next slot: zeros, in one huge page if the kernel had
 * one. The ring's own thread; it must not take another one before
 * staging_release(). Blocks on the kernel's allocator if none is primed.
 * Return: STAGING_SLOT_BYTES, or NULL if there is no memory. */
uint8_t *staging_take(struct staging *staging);

/** staging_release() - the slot that was taken has moved or is of no use; what
 * is left of it is dropped. The ring's own thread. */
void staging_release(struct staging *staging);

#endif
