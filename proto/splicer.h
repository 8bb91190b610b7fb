/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The splicer: a thread in the source's QEMU that sends the stopped guest's
 * pages for remapd without a copy, because the kernel lets only the guest's own
 * process refer to them (vmsplice(2)).
 *
 * remapd has one end of a UNIX SOCK_SEQPACKET socket, the splicer the other. It
 * does what it is told, in order, and sends one struct splicer_answer for each
 * command. It refuses, with EINVAL, pages outside of the guest's private
 * blocks. A packet holds one command or one answer. Integers are big-endian.
 */
#ifndef REMAPD_SPLICER_H
#define REMAPD_SPLICER_H

#include <stdint.h>

#define SPLICER_PAGES 512u
#define SPLICER_PAGE_BYTES 4096u

enum splicer_op {
    /* Say which of the pages are zero. */
    SPLICER_FIND_ZEROS = 1,
    /* Send the pages, in their order, on the stream socket that comes with the
     * packet. They must not change until the peer has read them: on one host
     * they lie in its queue by reference, too. */
    SPLICER_SEND = 2,
};

struct splicer_command {
    uint32_t op;       /* enum splicer_op */
    uint32_t reserved; /* 0 */
    uint64_t hva;      /* of the first page that `pages` can name; aligned */
    uint8_t pages[SPLICER_PAGES / 8]; /* which, beginning with the lowest bit of
                                         the first byte; one at least */
} __attribute__((packed));

struct splicer_answer {
    uint32_t op;    /* of the command */
    uint32_t error; /* 0 or a positive errno */
    uint64_t sent;  /* SEND: bytes that the socket has taken */
    uint8_t zero[SPLICER_PAGES / 8]; /* FIND_ZEROS: as `pages` */
} __attribute__((packed));

_Static_assert(sizeof(struct splicer_command) == 80, "splicer_command");
_Static_assert(sizeof(struct splicer_answer) == 80, "splicer_answer");

#endif
