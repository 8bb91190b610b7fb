/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "frame.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Indexed by enum frame_kind: what a frame of that kind may carry. */
static const struct {
    const char *name;
    bool bounded; /* at most FRAME_MAX_BYTES of guest memory */
} kinds[] = {
    [FRAME_REQUEST] = {"REQUEST", true}, [FRAME_DATA] = {"DATA", true},
    [FRAME_ZERO] = {"ZERO", false},      [FRAME_SPARSE] = {"SPARSE", true},
    [FRAME_END] = {"END", true},
};

_Static_assert(ARRAY_SIZE(kinds) == FRAME_KINDS, "a row for every kind");

void frame_pack(const struct frame *frame, struct frame_header *header)
{
    *header = (struct frame_header){
        .magic = htobe32(FRAME_MAGIC),
        .kind = (uint8_t)frame->kind,
        .again = frame->again,
        .block = htobe16(frame->block ? (uint16_t)frame->block->index : 0),
        .offset = htobe64(frame->offset),
        .length = htobe64(frame->length),
        .payload = htobe32(frame->payload),
        .wanted = htobe32(frame->wanted),
    };
}

static bool frame_payload_fits(const struct frame *frame)
{
    switch (frame->kind) {
    case FRAME_DATA:
        return frame->payload == frame->length;
    case FRAME_SPARSE:
        return frame->payload >= sizeof(struct frame_masks) &&
               frame->payload - sizeof(struct frame_masks) <= frame->length &&
               (frame->payload - sizeof(struct frame_masks)) % FRAME_PAGE == 0;
    default:
        return frame->payload == 0;
    }
}

int frame_parse(const struct frame_header *header,
                const struct block_table *table, struct frame *frame,
                char *error)
{
    uint16_t index = be16toh(header->block);
    const struct block *block;

    *frame = (struct frame){
        .kind = header->kind,
        .offset = be64toh(header->offset),
        .length = be64toh(header->length),
        .payload = be32toh(header->payload),
        .wanted = be32toh(header->wanted),
        .again = header->again,
    };
    if (be32toh(header->magic) != FRAME_MAGIC) {
        snprintf(error, ERROR_TEXT_BYTES, "frame with wrong magic 0x%08x",
                 be32toh(header->magic));
        return -EPROTO;
    }
    if (frame->kind < FRAME_REQUEST || frame->kind >= FRAME_KINDS ||
        header->again > (frame->kind == FRAME_REQUEST)) {
        snprintf(error, ERROR_TEXT_BYTES, "frame of unknown kind %u",
                 header->kind);
        return -EPROTO;
    }
    if (frame->wanted && (frame->kind != FRAME_REQUEST ||
                          frame->wanted >= frame->length / FRAME_PAGE)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "%s frame of %llu bytes that wants page %u",
                 kinds[frame->kind].name, (unsigned long long)frame->length,
                 frame->wanted);
        return -EPROTO;
    }
    if (!frame_payload_fits(frame)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "%s frame of %llu bytes with a payload of %u",
                 kinds[frame->kind].name, (unsigned long long)frame->length,
                 frame->payload);
        return -EPROTO;
    }
    if (frame->kind == FRAME_END)
        return 0;
    if (index >= table->count) {
        snprintf(error, ERROR_TEXT_BYTES, "%s frame for block %u, there are %u",
                 kinds[frame->kind].name, index, table->count);
        return -EPROTO;
    }
    block = frame->block = &table->blocks[index];
    if (!frame->length || frame->offset > block->length ||
        frame->length > block->length - frame->offset) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "%s frame for %llu bytes at %llu of block %.80s, which has "
                 "%llu",
                 kinds[frame->kind].name, (unsigned long long)frame->length,
                 (unsigned long long)frame->offset, block->idstr,
                 (unsigned long long)block->length);
        return -EPROTO;
    }
    if (frame->offset % block->page_size || frame->length % block->page_size ||
        (kinds[frame->kind].bounded && frame->length > FRAME_MAX_BYTES)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "%s frame for %llu bytes at %llu of block %.80s: not whole "
                 "pages of %llu, or more than %u",
                 kinds[frame->kind].name, (unsigned long long)frame->length,
                 (unsigned long long)frame->offset, block->idstr,
                 (unsigned long long)block->page_size, FRAME_MAX_BYTES);
        return -EPROTO;
    }
    return 0;
}

int frame_recv(struct channel *channel, const struct block_table *table,
               struct frame *frame, char *error)
{
    struct frame_header header;
    int ret = channel_recv_header(channel, &header);

    if (!ret)
        return frame_parse(&header, table, frame, error);
    snprintf(error, ERROR_TEXT_BYTES,
             ret == -ECONNRESET ? "connection lost within a frame"
                                : "connection lost");
    return ret;
}

int frame_masks_parse(const struct frame *frame,
                      const struct frame_masks *masks, uint64_t *data,
                      uint64_t *zero, char *error)
{
    uint64_t allowed[PAGESET_MASK_WORDS];
    unsigned step = (unsigned)(frame->block->page_size / FRAME_PAGE);
    bool bad = false;

    mask_fill(allowed, frame_pages(frame));
    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++) {
        uint64_t word;

        memcpy(&word, masks->data + i * 8, 8);
        data[i] = le64toh(word);
        memcpy(&word, masks->zero + i * 8, 8);
        zero[i] = le64toh(word);
        bad |= (data[i] & zero[i]) || ((data[i] | zero[i]) & ~allowed[i]);
    }
    /* Memory with larger pages comes and goes in whole ones. */
    for (unsigned page = 0; step > 1 && page < frame_pages(frame);
         page += step) {
        for (unsigned i = 1; i < step; i++)
            bad |= mask_has(data, page) != mask_has(data, page + i) ||
                   mask_has(zero, page) != mask_has(zero, page + i);
    }
    bad |= mask_count(data) * FRAME_PAGE + sizeof(*masks) != frame->payload;
    if (bad) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "SPARSE frame at %llu of block %.80s with masks that do not "
                 "fit it",
                 (unsigned long long)frame->offset, frame->block->idstr);
        return -EPROTO;
    }
    return 0;
}
