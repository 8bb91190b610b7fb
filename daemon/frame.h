/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames in host order, and the one place that judges a peer's frame. */
#ifndef REMAPD_FRAME_ROOM_H
#define REMAPD_FRAME_ROOM_H

#include "../proto/frame.h"
#include "block.h"
#include "channel.h"
#include "pageset.h"

struct frame {
    enum frame_kind kind;
    const struct block *block; /* NULL for END */
    uint64_t offset;           /* bytes in the block */
    uint64_t length;           /* bytes of guest memory */
    uint32_t payload;          /* bytes that follow */
    uint32_t wanted;           /* REQUEST: index of a page in the range */
    bool again;                /* REQUEST: send that once more if need be */
};

/** frame_pack() - @frame as it goes on the wire. Any thread. */
void frame_pack(const struct frame *frame, struct frame_header *header);

/**
 * frame_parse() - check a header from the wire against @table.
 * @header: as received; @frame: the result, block pointing into @table
 * @error: ERROR_TEXT_BYTES, says what is wrong
 *
 * After 0 the range lies within the block, consists of its whole pages, and
 * the payload has a size that the kind allows. Any thread.
 * Return: 0 or -EPROTO.
 */
int frame_parse(const struct frame_header *header,
                const struct block_table *table, struct frame *frame,
                char *error);

/** frame_recv() - receive a header on @channel and parse it. The thread that
 * receives on the channel. Return: 0, -EPROTO, or channel_recv_header()'s. */
int frame_recv(struct channel *channel, const struct block_table *table,
               struct frame *frame, char *error);

/**
 * frame_masks_parse() - check the masks of a SPARSE frame.
 * @data, @zero: results, PAGESET_MASK_WORDS words each
 * Any thread. Return: 0 or -EPROTO, with @error.
 */
int frame_masks_parse(const struct frame *frame,
                      const struct frame_masks *masks, uint64_t *data,
                      uint64_t *zero, char *error);

static inline unsigned frame_pages(const struct frame *frame)
{
    return (unsigned)(frame->length / FRAME_PAGE);
}

static inline uint64_t frame_first_page(const struct frame *frame)
{
    return frame->block->first_page + frame->offset / FRAME_PAGE;
}

#endif
