/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The placer: a thread in the destination's QEMU that moves staged memory into
 * the guest for remapd, because the kernel lets only the guest's own process
 * do that (UFFDIO_MOVE).
 *
 * Each placer owns a staging area in QEMU's memory and one end of a UNIX
 * SOCK_SEQPACKET socket; remapd has the other end. remapd writes pages into
 * staging with process_vm_writev(2), the placer does what it is told, in
 * order, and sends one struct placer_answer for each command. It refuses, with
 * EINVAL, what lies outside of its staging or outside of the guest's blocks.
 * A packet holds one command or one answer. Integers are big-endian.
 */
#ifndef REMAPD_PLACER_H
#define REMAPD_PLACER_H

#include <stdint.h>

#define PLACER_SLOT_BYTES (2u << 20)

enum placer_op {
    /* Throw away what the slots hold that begin at `slot` and have `length`
     * bytes, and give each a huge page of zeros. */
    PLACER_PRIME = 1,
    /* UFFDIO_MOVE the slot's first `length` bytes to `hva`, and wake. */
    PLACER_MOVE = 2,
};

struct placer_command {
    uint32_t op;     /* enum placer_op */
    uint32_t slot;   /* staging + slot * PLACER_SLOT_BYTES */
    uint64_t hva;    /* MOVE: a multiple of 4 KiB, in a registered block */
    uint64_t length; /* bytes; MOVE: whole pages of 4 KiB, at most a slot;
                        PRIME: whole slots */
} __attribute__((packed));

struct placer_answer {
    uint32_t op;    /* of the command */
    uint32_t error; /* 0 or a positive errno */
    uint64_t done;  /* bytes that were moved or primed */
} __attribute__((packed));

_Static_assert(sizeof(struct placer_command) == 24, "placer_command");
_Static_assert(sizeof(struct placer_answer) == 16, "placer_answer");

#endif
