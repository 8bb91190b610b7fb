/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Page frames and their masks. Input: a byte that names the block's page size,
 * a header, masks. */
#include "fuzz.h"

#include <endian.h>

#include "../../daemon/frame.h"

static void check_masks(const struct frame *frame, struct input *input)
{
    uint64_t data[PAGESET_MASK_WORDS], zero[PAGESET_MASK_WORDS];
    char error[ERROR_TEXT_BYTES];
    struct frame_masks masks;

    input_take(input, &masks, sizeof(masks));
    if (frame_masks_parse(frame, &masks, data, zero, error))
        return;
    REQUIRE(mask_count(data) * FRAME_PAGE + sizeof(masks) == frame->payload);
    for (unsigned page = 0; page < FRAME_MAX_PAGES; page++) {
        bool spoken = mask_has(data, page) || mask_has(zero, page);

        REQUIRE(!spoken || page < frame_pages(frame));
        REQUIRE(!mask_has(data, page) || !mask_has(zero, page));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    bool huge = input_byte(&input) & 1;
    struct block blocks[] = {
        {.idstr = "a", .length = 64ull << 20, .fd = -1},
        {.index = 1, .idstr = "b", .length = huge ? 4u << 20 : 7 * FRAME_PAGE,
         .fd = -1, .first_page = 16384},
    };
    struct block_table table = {.blocks = blocks, .count = 2, .pages = 17408};
    struct frame_header header, again;
    char error[ERROR_TEXT_BYTES] = "";
    struct frame frame;

    blocks[0].page_size = huge ? HUGE_BYTES : PAGE_BYTES;
    blocks[1].page_size = blocks[0].page_size;
    input_take(&input, &header, sizeof(header));
    if (frame_parse(&header, &table, &frame, error)) {
        REQUIRE(*error);
        return 0;
    }
    if (frame.kind == FRAME_END)
        return 0;
    REQUIRE(frame.block >= blocks && frame.block <= &blocks[1]);
    REQUIRE(frame.length && frame.offset + frame.length > frame.offset);
    REQUIRE(frame.offset + frame.length <= frame.block->length);
    REQUIRE(frame.kind == FRAME_ZERO || frame.length <= FRAME_MAX_BYTES);
    REQUIRE(frame.payload <= FRAME_MAX_BYTES + sizeof(struct frame_masks));
    REQUIRE(frame.kind != FRAME_REQUEST || frame.wanted < frame_pages(&frame));
    frame_pack(&frame, &again);
    REQUIRE(!memcmp(&header, &again, sizeof(header)));
    if (frame.kind == FRAME_SPARSE)
        check_masks(&frame, &input);
    return 0;
}
