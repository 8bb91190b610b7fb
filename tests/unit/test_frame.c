/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <endian.h>

#include "../../daemon/frame.h"

#define MIB (1ull << 20)

static struct block blocks[] = {
    {.index = 0, .idstr = "small", .length = 3 * MIB + 4096,
     .page_size = 4096, .first_page = 0, .fd = -1},
    {.index = 1, .idstr = "huge", .length = 8 * MIB, .page_size = HUGE_BYTES,
     .first_page = 1024, .fd = -1},
};
static const struct block_table table = {blocks, 2, 1024 + 2048};

static struct frame_header header_of(enum frame_kind kind, uint16_t block,
                                     uint64_t offset, uint64_t length,
                                     uint32_t payload)
{
    return (struct frame_header){
        .magic = htobe32(FRAME_MAGIC),
        .kind = (uint8_t)kind,
        .block = htobe16(block),
        .offset = htobe64(offset),
        .length = htobe64(length),
        .payload = htobe32(payload),
    };
}

static void packs_big_endian(void **state)
{
    static const uint8_t wire[] = {
        'R', 'M', 'P', 'F', FRAME_DATA, 0, 0, 1, 0, 0, 0, 0, 0, 0x20, 0, 0,
        0,   0,   0,   0,   0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0};
    struct frame frame = {FRAME_DATA, &blocks[1], HUGE_BYTES, HUGE_BYTES,
                          HUGE_BYTES, 0, false};
    struct frame_header header;

    (void)state;
    frame_pack(&frame, &header);
    assert_memory_equal(&header, wire, sizeof(wire));
}

static void parses_what_it_packs(void **state)
{
    static const struct frame frames[] = {
        {FRAME_REQUEST, &blocks[0], 4096, 4096, 0, 0, false},
        {FRAME_REQUEST, &blocks[1], HUGE_BYTES, HUGE_BYTES, 0, 3, true},
        {FRAME_DATA, &blocks[0], 3 * MIB, 4096, 4096, 0, false},
        {FRAME_DATA, &blocks[0], 4096, HUGE_BYTES, HUGE_BYTES, 0, false},
        {FRAME_ZERO, &blocks[0], 0, 3 * MIB + 4096, 0, 0, false},
        {FRAME_ZERO, &blocks[1], 0, 8 * MIB, 0, 0, false},
        {FRAME_SPARSE, &blocks[0], 0, 8192, 128 + 4096, 0, false},
        {FRAME_SPARSE, &blocks[0], 0, 8192, 128, 0, false},
        {FRAME_REQUEST, &blocks[0], 0, 16 * 4096, 0, 15, false},
        {FRAME_END, NULL, 0, 0, 0, 0, false},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(frames); i++) {
        char error[ERROR_TEXT_BYTES] = "";
        struct frame_header header;
        struct frame back;

        frame_pack(&frames[i], &header);
        if (frame_parse(&header, &table, &back, error))
            fail_msg("row %u: %s", i, error);
        assert_int_equal(back.kind, frames[i].kind);
        assert_ptr_equal(back.block, frames[i].block);
        assert_int_equal(back.offset, frames[i].offset);
        assert_int_equal(back.length, frames[i].length);
        assert_int_equal(back.payload, frames[i].payload);
        assert_int_equal(back.wanted, frames[i].wanted);
        assert_int_equal(back.again, frames[i].again);
    }
    assert_int_equal(frame_first_page(&frames[1]), 1024 + 512);
    assert_int_equal(frame_pages(&frames[3]), 512);
}

/* Each wrong field is refused with a text of its own. */
static void refuses_each_wrong_field(void **state)
{
    static const struct {
        uint8_t kind;
        uint16_t block;
        uint64_t offset, length;
        uint32_t payload;
        const char *says;
    } rows[] = {
        {0, 0, 0, 4096, 0, "unknown kind 0"},
        {FRAME_KINDS, 0, 0, 4096, 0, "unknown kind 6"},
        {255, 0, 0, 4096, 0, "unknown kind 255"},
        {FRAME_DATA, 2, 0, 4096, 4096, "DATA frame for block 2, there are 2"},
        {FRAME_ZERO, 65535, 0, 4096, 0, "ZERO frame for block 65535"},
        {FRAME_DATA, 0, 0, 4096, 4095, "4096 bytes with a payload of 4095"},
        {FRAME_DATA, 0, 0, 4096, 0, "with a payload of 0"},
        {FRAME_ZERO, 0, 0, 4096, 4096, "ZERO frame of 4096 bytes with a"},
        {FRAME_REQUEST, 0, 0, 4096, 1, "REQUEST frame of 4096 bytes with a"},
        {FRAME_END, 0, 0, 0, 1, "END frame of 0 bytes with a payload of 1"},
        {FRAME_SPARSE, 0, 0, 8192, 127, "with a payload of 127"},
        {FRAME_SPARSE, 0, 0, 8192, 128 + 4095, "with a payload of 4223"},
        {FRAME_SPARSE, 0, 0, 8192, 128 + 12288, "with a payload of 12416"},
        {FRAME_DATA, 0, 0, 0, 0, "for 0 bytes at 0 of block small"},
        {FRAME_ZERO, 0, 4 * MIB, 4096, 0, "4096 bytes at 4194304 of block"},
        {FRAME_ZERO, 0, 3 * MIB, 8192, 0, "which has 3149824"},
        {FRAME_ZERO, 0, ~0ull << 12, 8192, 0, "which has 3149824"},
        {FRAME_ZERO, 0, 4096, ~0ull << 12, 0, "which has 3149824"},
        {FRAME_ZERO, 0, 512, 4096, 0, "not whole pages of 4096"},
        {FRAME_ZERO, 0, 0, 512, 0, "not whole pages of 4096"},
        {FRAME_ZERO, 1, 0, 4096, 0, "not whole pages of 2097152"},
        {FRAME_ZERO, 1, 4096, HUGE_BYTES, 0, "not whole pages of 2097152"},
        {FRAME_REQUEST, 0, 0, HUGE_BYTES + 4096, 0, "more than 2097152"},
        {FRAME_DATA, 1, 0, 2 * HUGE_BYTES, 2 * HUGE_BYTES,
         "more than 2097152"},
        {FRAME_SPARSE, 0, 0, HUGE_BYTES + 4096, 128, "more than 2097152"},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct frame_header header =
            header_of(rows[i].kind, rows[i].block, rows[i].offset,
                      rows[i].length, rows[i].payload);
        char error[ERROR_TEXT_BYTES] = "";
        struct frame frame;

        if (!frame_parse(&header, &table, &frame, error))
            fail_msg("row %u is accepted, it should say: %s", i, rows[i].says);
        assert_says(error, rows[i].says);
    }
}

static void judges_the_wanted_page(void **state)
{
    struct frame_header header = header_of(FRAME_REQUEST, 0, 0, 16 * 4096, 0);
    char error[ERROR_TEXT_BYTES] = "";
    struct frame frame;

    (void)state;
    header.wanted = htobe32(15);
    assert_int_equal(frame_parse(&header, &table, &frame, error), 0);
    header.wanted = htobe32(16);
    assert_true(frame_parse(&header, &table, &frame, error) < 0);
    assert_says(error, "REQUEST frame of 65536 bytes that wants page 16");
    header.kind = FRAME_ZERO;
    header.wanted = htobe32(1);
    assert_true(frame_parse(&header, &table, &frame, error) < 0);
    assert_says(error, "ZERO frame of 65536 bytes that wants page 1");
}

static void refuses_wrong_magic_and_again(void **state)
{
    struct frame_header header = header_of(FRAME_ZERO, 0, 0, 4096, 0);
    char error[ERROR_TEXT_BYTES] = "";
    struct frame frame;

    (void)state;
    assert_int_equal(frame_parse(&header, &table, &frame, error), 0);
    header.magic = htobe32(0x12345678);
    assert_true(frame_parse(&header, &table, &frame, error) < 0);
    assert_says(error, "wrong magic 0x12345678");
    header = header_of(FRAME_ZERO, 0, 0, 4096, 0);
    header.again = 1;
    assert_true(frame_parse(&header, &table, &frame, error) < 0);
    header.kind = FRAME_REQUEST;
    assert_int_equal(frame_parse(&header, &table, &frame, error), 0);
    assert_true(frame.again);
    header.again = 2;
    assert_true(frame_parse(&header, &table, &frame, error) < 0);
}

/* What is accepted lies within its block, whatever the header says. */
static void never_accepts_out_of_range(void **state)
{
    uint64_t seed = test_seed();
    unsigned accepted = 0;

    (void)state;
    for (unsigned i = 0; i < 2000000; i++) {
        uint64_t random = test_random(&seed), kind = random % 7;
        uint64_t offset = test_random(&seed), length = test_random(&seed);
        char error[ERROR_TEXT_BYTES];
        struct frame_header header;
        struct frame frame;

        /* Most of them nearly right, some wholly random. */
        if (random >> 8 & 7) {
            offset = offset % 4096 << 12;
            length = length % 1030 << 12;
        }
        header = header_of(kind, random >> 16 & 3, offset, length,
                           kind == FRAME_DATA     ? (uint32_t)length
                           : kind == FRAME_SPARSE ? 128 + 4096
                                                  : 0);
        if (!(random >> 24 & 31))
            ((uint8_t *)&header)[random >> 32 & 31] = (uint8_t)(random >> 40);
        if (frame_parse(&header, &table, &frame, error) ||
            frame.kind == FRAME_END)
            continue;
        accepted++;
        assert_non_null(frame.block);
        assert_true(frame.block == &blocks[0] || frame.block == &blocks[1]);
        assert_true(frame.length > 0);
        assert_true(frame.length <= frame.block->length);
        assert_true(frame.offset <= frame.block->length - frame.length);
        assert_int_equal(frame.offset % frame.block->page_size, 0);
        assert_int_equal(frame.length % frame.block->page_size, 0);
        if (frame.kind != FRAME_ZERO)
            assert_true(frame.length <= FRAME_MAX_BYTES);
        if (frame.kind == FRAME_DATA)
            assert_int_equal(frame.payload, frame.length);
        else if (frame.kind == FRAME_SPARSE)
            assert_true(frame.payload <= 128 + frame.length);
        else
            assert_int_equal(frame.payload, 0);
    }
    assert_true(accepted > 1000);
}

static int parse_masks(struct frame *frame, struct frame_masks *masks,
                       uint64_t *data, uint64_t *zero)
{
    char error[ERROR_TEXT_BYTES] = "";
    int ret = frame_masks_parse(frame, masks, data, zero, error);

    if (ret)
        assert_says(error, "masks that do not fit");
    return ret;
}

static void judges_masks(void **state)
{
    struct frame frame = {FRAME_SPARSE, &blocks[0], 0, 16 * 4096,
                          128 + 3 * 4096, 0, false};
    uint64_t data[PAGESET_MASK_WORDS], zero[PAGESET_MASK_WORDS];
    struct frame_masks masks = {.data = {0x05, 0x80}, .zero = {0x0a}};

    (void)state;
    assert_int_equal(parse_masks(&frame, &masks, data, zero), 0);
    assert_int_equal(data[0], 0x8005);
    assert_int_equal(zero[0], 0x000a);
    for (unsigned i = 1; i < PAGESET_MASK_WORDS; i++)
        assert_int_equal(data[i] | zero[i], 0);
    masks.zero[0] |= 1; /* a page of both kinds */
    assert_true(parse_masks(&frame, &masks, data, zero) < 0);
    masks.zero[0] &= 0xfe;
    masks.data[0] |= 0x40; /* one more than the payload holds */
    assert_true(parse_masks(&frame, &masks, data, zero) < 0);
    masks.data[0] &= 0xbf;
    masks.zero[2] = 1; /* behind the frame's end */
    assert_true(parse_masks(&frame, &masks, data, zero) < 0);
    masks.zero[2] = 0;
    masks.data[1] = 0; /* one less */
    assert_true(parse_masks(&frame, &masks, data, zero) < 0);
}

static void masks_of_huge_pages_are_whole(void **state)
{
    struct frame frame = {FRAME_SPARSE, &blocks[1], 0, HUGE_BYTES,
                          128 + HUGE_BYTES, 0, false};
    uint64_t data[PAGESET_MASK_WORDS], zero[PAGESET_MASK_WORDS];
    struct frame_masks masks = {0};

    (void)state;
    memset(masks.data, 0xff, sizeof(masks.data));
    assert_int_equal(parse_masks(&frame, &masks, data, zero), 0);
    masks.data[5] = 0xfe;
    frame.payload -= 4096;
    assert_true(parse_masks(&frame, &masks, data, zero) < 0);
    memset(&masks, 0, sizeof(masks));
    memset(masks.zero, 0xff, sizeof(masks.zero));
    frame.payload = 128;
    assert_int_equal(parse_masks(&frame, &masks, data, zero), 0);
    masks.zero[63] = 0x7f;
    assert_true(parse_masks(&frame, &masks, data, zero) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_big_endian),
        cmocka_unit_test(parses_what_it_packs),
        cmocka_unit_test(refuses_each_wrong_field),
        cmocka_unit_test(judges_the_wanted_page),
        cmocka_unit_test(refuses_wrong_magic_and_again),
        cmocka_unit_test(never_accepts_out_of_range),
        cmocka_unit_test(judges_masks),
        cmocka_unit_test(masks_of_huge_pages_are_whole),
    };

    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
