/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The placer: a thread in the destination's QEMU that moves staged memory into
 * the guest for remapd, because the kernel lets only the guest's own process
 * do that (UFFDIO_MOVE).
 *
 * Each placer owns a staging area in QEMU's memory and one end of a UNIX
 * SOCK_SEQPACKET socket; remapd has the other end. What a slot of staging is to
 * hold is written there by remapd with process_vm_writev(2), or taken by the
 * placer from a stream socket that remapd lends it. The placer does what it is
 * told, in order, and sends one struct placer_answer for each command. It
 * refuses, with EINVAL, what lies outside of the placers' staging or outside of
 * the guest's blocks. A packet holds one command or one answer. Integers are
 * big-endian.
 */
#ifndef REMAPD_PLACER_H
#define REMAPD_PLACER_H

#include <stdint.h>

#define PLACER_SLOT_BYTES (2u << 20)
#define PLACER_PAGE_BYTES 4096u

enum placer_op {
    /* Throw away what the slots hold that begin at `staging` and have `length`
     * bytes, and give each a huge page of zeros. The placer's own slots. */
    PLACER_PRIME = 1,
    /* UFFDIO_MOVE the slot at `staging`, any placer's, to `hva`, and wake. The
     * pages that `pages` names the guest has already: they are taken out of it
     * into the slot first, so that it moves as one piece, and are the guest's
     * again if it does not. */
    PLACER_MOVE = 2,
    /* Take the bytes of the pages that `pages` names, of the slot at `staging`,
     * any placer's, in their order, from the stream socket that comes with the
     * packet. */
    PLACER_RECEIVE = 3,
};

struct placer_command {
    uint32_t op;       /* enum placer_op */
    uint32_t reserved; /* 0 */
    uint64_t staging;  /* address of a slot */
    uint64_t hva;      /* MOVE: a multiple of 4 KiB, in a registered block */
    uint64_t length;   /* bytes: a slot; PRIME: whole slots */
    uint8_t pages[64]; /* MOVE, RECEIVE: a bit for each page of the slot,
                          beginning with the lowest of the first byte */
} __attribute__((packed));

struct placer_answer {
    uint32_t op;       /* of the command */
    uint32_t error;    /* 0 or a positive errno */
    uint64_t done;     /* bytes that were moved or primed */
    uint64_t received; /* RECEIVE: bytes that were taken from the socket */
} __attribute__((packed));

_Static_assert(sizeof(struct placer_command) == 96, "placer_command");
_Static_assert(sizeof(struct placer_answer) == 24, "placer_answer");

#endif
