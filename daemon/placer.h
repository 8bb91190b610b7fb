/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remapd's hand in QEMU: staging there, and the thread that moves it into the
 * guest. proto/placer.h has the protocol. One receiving thread uses a placer;
 * the main thread only makes and frees it.
 */
#ifndef REMAPD_PLACER_ROOM_H
#define REMAPD_PLACER_ROOM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "../proto/placer.h"

struct placer;

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
 * primed again only as far as that. Main thread, before the first use. */
void placer_expect(struct placer *placer, uint64_t uses);

/** placer_free() - close; QEMU gives up the staging. NULL is fine. */
void placer_free(struct placer *placer);

/**
 * placer_place() - fill the next slot and move it to @hva, as one piece.
 * @iov: what the slot is to hold, iov_base within @from; used up in place
 * @from: the buffer that stands for the slot: each part of @iov goes to the
 *        same place in the slot; what is not named is zero
 * @length: bytes to move
 * @done: result: bytes that moved
 *
 * Blocks until QEMU has answered. Return: 0 or a positive errno: of the
 * kernel's move, or EIO if the placer is of no use any more.
 */
int placer_place(struct placer *placer, uint64_t hva, const uint8_t *from,
                 const struct iovec *iov, unsigned count, uint64_t length,
                 uint64_t *done);

#endif
