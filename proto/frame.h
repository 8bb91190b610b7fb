/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page frames: what travels on urgent and bulk channels.
 *
 * A channel carries frames back to back, each a struct frame_header followed
 * by exactly `payload` bytes. Integers are big-endian, structs packed. The
 * header names the guest memory that the frame is about, so that the receiver
 * knows where the payload goes before it reads it. proto/protocol.md says who
 * sends which kind when.
 */
#ifndef REMAPD_FRAME_H
#define REMAPD_FRAME_H

#include <stdint.h>

#define FRAME_MAGIC 0x524d5046u /* "RMPF" */
#define FRAME_PAGE 4096u
#define FRAME_MAX_BYTES (2u << 20) /* of guest memory in DATA, SPARSE, REQUEST */
#define FRAME_MAX_PAGES (FRAME_MAX_BYTES / FRAME_PAGE)

enum frame_kind {
    FRAME_REQUEST = 1, /* destination to source: send these pages now */
    FRAME_DATA = 2,    /* payload: all pages of the range, in order */
    FRAME_ZERO = 3,    /* no payload: all pages of the range are zero, and the
                          source has no memory for them */
    FRAME_SPARSE = 4,  /* payload: struct frame_masks, then the data pages; for
                          those that are zero the source has memory, too */
    FRAME_END = 5,     /* no payload: this bulk channel has sent its all */
    FRAME_KINDS,
};

struct frame_header {
    uint32_t magic;
    uint8_t kind;     /* enum frame_kind */
    uint8_t again;    /* REQUEST: 1: if none of its pages is left, send the one
                         that is waited for again; else 0 */
    uint16_t block;   /* index in the block table; 0 for END */
    uint64_t offset;  /* bytes in the block, a multiple of FRAME_PAGE */
    uint64_t length;  /* bytes of guest memory, a multiple of FRAME_PAGE */
    uint32_t payload; /* bytes that follow this header */
    uint32_t wanted;  /* REQUEST: which of its pages is waited for; else 0 */
} __attribute__((packed));

/*
 * SPARSE: bit i (of byte i / 8, value 1 << i % 8) speaks of the page at
 * offset + i * FRAME_PAGE. A page has at most one of the two bits set; one
 * with none is not spoken of. The payload holds the data pages in order.
 */
struct frame_masks {
    uint8_t data[FRAME_MAX_PAGES / 8];
    uint8_t zero[FRAME_MAX_PAGES / 8];
} __attribute__((packed));

_Static_assert(sizeof(struct frame_header) == 32, "frame_header");
_Static_assert(sizeof(struct frame_masks) == 128, "frame_masks");

#endif
