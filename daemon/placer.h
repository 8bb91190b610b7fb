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

/** placer_begin() - ask for every slot to be primed, without waiting for it.
 * Main thread, before the first use. */
void placer_begin(struct placer *placer);

/** placer_ready() - is every slot primed, or the placer of no use? Does not
 * wait. Main thread, before the first use. */
bool placer_ready(struct placer *placer);

/** placer_expect() - so many slots will be used in all, about: used ones are
 * primed again only as far as that, and not at all if this is not called; for
 * priming takes time that a fault would wait. Main thread, before the first
 * use. */
void placer_expect(struct placer *placer, uint64_t uses);

/** placer_free() - close; QEMU gives up the staging. NULL is fine. */
void placer_free(struct placer *placer);

/* What a slot is to hold: the pages that `data` names, and zeros. Their bytes
 * are in `buffer`, each at its place in the slot, or still to come, in their
 * order, from the stream socket `fd`, if that is not -1. */
struct placer_fill {
    const uint64_t *data; /* mask of the slot's pages */
    uint8_t *buffer;
    int fd;
    bool taken; /* result: the bytes have been taken from `fd` */
};

/**
 * placer_place() - fill a slot and move it to @hva, as one piece.
 * @own: index of the calling thread's placer in @pool
 * @fill: if its bytes have been taken from the socket and were not moved, they
 *        are in the buffer
 * @done: result: bytes that moved
 *
 * Any thread; blocks until QEMU has answered, and for as long as the socket is
 * quiet. Return: 0 or a positive errno: of the kernel's move; EIO if no placer
 * is of use any more; ESRCH if QEMU has left; EBADF if it cannot use the
 * socket; or EPIPE if some of the bytes are lost.
 */
int placer_place(struct placer_pool *pool, unsigned own, uint64_t hva,
                 struct placer_fill *fill, uint64_t *done);

#endif
