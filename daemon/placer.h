/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remapd's hands in QEMU: staging there, and threads that move it into the
 * guest. proto/placer.h has the protocol. Each receiving thread has a placer of
 * its own, and takes another's staging when its own has no primed slot left.
 */
#ifndef REMAPD_PLACER_ROOM_H
#define REMAPD_PLACER_ROOM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "../proto/placer.h"

#define PLACER_MAX_COUNT 16

struct placer;

/* All placers of a session; made and freed by the main thread. */
struct placer_pool {
    struct placer *placers[PLACER_MAX_COUNT];
    unsigned count;
    bool takes;        /* pages out of the guest, each of them */
    _Atomic bool deaf; /* QEMU cannot use sockets that it is lent */
};

/**
 * placer_new() - use the placer at the other end of @fd.
 * @fd: connected; becomes the placer's, as does its right to be closed
 * @pid: the QEMU that has the staging
 * @staging: address of the first slot there
 * @slots: how many there are, 1 or more
 *
 * Return: the placer, nothing primed.
 */
struct placer *placer_new(int fd, pid_t pid, uint64_t staging, uint32_t slots);

/** placer_begin() - have @slots slots primed, or all if it has fewer: the first
 * of them at once, without waiting for it. Main thread, before the first use.
 */
void placer_begin(struct placer *placer, uint64_t slots);

/** placer_ready() - are they primed, or is the placer of no use? Goes on with
 * it, but does not wait. Main thread, before the first use. */
bool placer_ready(struct placer *placer);

/** placer_expect() - so many slots will be used in all, about: used ones are
 * primed again when few are left for that, or none, and not at all if this is
 * not called; for priming takes time that a fault would wait. Main thread,
 * before the first use. */
void placer_expect(struct placer *placer, uint64_t uses);

/** placer_free() - close; QEMU gives up the staging. NULL is fine. */
void placer_free(struct placer *placer);

/* A slot of staging that is in use, and whose it is. */
struct placer_slot {
    uint64_t staging; /* its address */
    struct placer *owner;
};

/* What a slot is to hold: the pages that `data` names, and zeros. Their bytes
 * are in `buffer`, each at its place in the slot, or still to come, in their
 * order, from the stream socket `fd`, if that is not -1. */
struct placer_fill {
    const uint64_t *data; /* mask of the slot's pages */
    uint8_t *buffer;
    int fd;
};

/**
 * placer_fill() - take a primed slot and fill it.
 * @own: index of the calling thread's placer in @pool
 * @slot: result: the slot, until placer_done()
 *
 * Any thread; blocks until QEMU has answered, and for as long as the socket is
 * quiet. Return: 0; -EAGAIN if there is no slot, and nothing has been taken
 * from the socket; -EPIPE if bytes of it are lost; -ESRCH if QEMU has left with
 * them.
 */
int placer_fill(struct placer_pool *pool, unsigned own,
                const struct placer_fill *fill, struct placer_slot *slot);

/**
 * placer_move() - move a filled slot to @hva, as one piece.
 * @there: mask of the pages that the guest has: they become the slot's; nobody
 *         may place a page of the range at the same time
 *
 * Any thread; blocks until QEMU has answered. Return: 0 or a positive errno: of
 * the kernel's moves; EIO if the placer is of no use any more; ESRCH if QEMU
 * has left.
 */
int placer_move(struct placer_pool *pool, unsigned own,
                const struct placer_slot *slot, uint64_t hva,
                const uint64_t *there);

/** placer_read() - the slot's pages that @fill names into its buffer. Any
 * thread. Return: 0 or -EPIPE. */
int placer_read(const struct placer_slot *slot, const struct placer_fill *fill);

/** placer_done() - give @slot up, whether it has moved or not; the owner primes
 * it for the next one. The thread that filled it. */
void placer_done(struct placer_pool *pool, unsigned own,
                 const struct placer_slot *slot);

#endif
