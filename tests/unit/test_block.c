/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "../../daemon/block.h"

#define MIB (1ull << 20)

static struct block block_of(uint32_t index, const char *idstr, uint64_t hva,
                             uint64_t length)
{
    struct block block = {.index = index, .hva = hva, .length = length,
                          .page_size = 4096, .fd = -1};

    snprintf(block.idstr, sizeof(block.idstr), "%s", idstr);
    return block;
}

static void numbers_pages_in_whole_granules(void **state)
{
    struct block_table table = {0};
    struct block a = block_of(0, "a", 16 * MIB, MIB + 4096);
    struct block b = block_of(1, "b", 32 * MIB, 4096);
    char error[ERROR_TEXT_BYTES];

    (void)state;
    assert_int_equal(block_table_add(&table, &a, error), 0);
    assert_int_equal(block_table_add(&table, &b, error), 0);
    assert_int_equal(table.blocks[0].first_page, 0);
    assert_int_equal(table.blocks[1].first_page, 512);
    assert_int_equal(table.pages, 1024);
    assert_ptr_equal(block_table_page(&table, 256), &table.blocks[0]);
    assert_null(block_table_page(&table, 257)); /* the gap between */
    assert_ptr_equal(block_table_page(&table, 512), &table.blocks[1]);
    assert_null(block_table_page(&table, 513));
    block_table_fini(&table);
    assert_int_equal(table.count, 0);
}

static void refuses_each_wrong_block(void **state)
{
    static const struct {
        uint32_t index;
        const char *idstr;
        uint64_t hva, length, page_size;
        const char *says;
    } rows[] = {
        {0, "b", 64 * MIB, MIB, 4096, "block 0 out of order, expected 1"},
        {2, "b", 64 * MIB, MIB, 4096, "block 2 out of order, expected 1"},
        {1, "", 64 * MIB, MIB, 4096, "block 1 has no name"},
        {1, "a", 64 * MIB, MIB, 4096, "is named like block a"},
        {1, "b", 16 * MIB, MIB, 4096, "overlaps block a"},
        {1, "b", 15 * MIB, 2 * MIB, 4096, "overlaps block a"},
        {1, "b", 15 * MIB, 8 * MIB, 4096, "overlaps block a"},
        {1, "b", 17 * MIB, 4096, 4096, "overlaps block a"},
        {1, "b", 64 * MIB, 0, 4096, "are not whole pages"},
        {1, "b", 64 * MIB, 4097, 4096, "are not whole pages"},
        {1, "b", 64 * MIB + 1, MIB, 4096, "are not whole pages"},
        {1, "b", 64 * MIB, MIB, HUGE_BYTES, "are not whole pages"},
        {1, "b", 65 * MIB, 2 * MIB, HUGE_BYTES, "are not whole pages"},
        {1, "b", ~0ull << 20, 2 * MIB, 4096, "are not whole pages"},
        {1, "b", 64 * MIB, MIB, 0, "pages of 0 bytes"},
        {1, "b", 64 * MIB, MIB, 2048, "pages of 2048 bytes"},
        {1, "b", 64 * MIB, 12288, 12288, "pages of 12288 bytes"},
        {1, "b", 64 * MIB, 64 * MIB, 4 * MIB, "pages of 4194304 bytes"},
        {1, "b", 0, 1ull << 47, 4096, "too large"},
    };
    struct block_table table = {0};
    struct block first = block_of(0, "a", 16 * MIB, 2 * MIB);
    char error[ERROR_TEXT_BYTES];

    (void)state;
    assert_int_equal(block_table_add(&table, &first, error), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct block block = block_of(rows[i].index, rows[i].idstr,
                                      rows[i].hva, rows[i].length);

        block.page_size = rows[i].page_size;
        if (!block_table_add(&table, &block, error))
            fail_msg("row %u is accepted, it should say: %s", i, rows[i].says);
        assert_says(error, rows[i].says);
        assert_int_equal(table.count, 1);
    }
    first = block_of(1, "a", 64 * MIB, MIB);
    memset(first.idstr, 'x', sizeof(first.idstr)); /* no end */
    assert_int_equal(block_table_add(&table, &first, error), -EINVAL);
    block_table_fini(&table);
}

static void is_bounded(void **state)
{
    struct block_table table = {0};
    char error[ERROR_TEXT_BYTES], name[16];

    (void)state;
    for (uint32_t i = 0; i <= BLOCK_MAX_COUNT; i++) {
        struct block block;

        snprintf(name, sizeof(name), "%u", i);
        block = block_of(i, name, (i + 1) * MIB, 4096);
        assert_int_equal(block_table_add(&table, &block, error),
                         i < BLOCK_MAX_COUNT ? 0 : -E2BIG);
    }
    block_table_fini(&table);
}

static void binds_only_equal_tables(void **state)
{
    struct block_table peer = {0}, qemu = {0};
    struct block a = block_of(0, "a", 0, MIB), b = block_of(0, "a", MIB, MIB);
    char error[ERROR_TEXT_BYTES];
    int fd = open("/dev/null", O_RDONLY);

    (void)state;
    b.fd = fd;
    b.shared = true;
    assert_int_equal(block_table_add(&peer, &a, error), 0);
    assert_int_equal(block_table_bind(&peer, &qemu, error), -EINVAL);
    assert_says(error, "the source has 1 blocks, the destination 0");
    assert_int_equal(block_table_add(&qemu, &b, error), 0);
    qemu.blocks[0].length += 4096;
    assert_int_equal(block_table_bind(&peer, &qemu, error), -EINVAL);
    qemu.blocks[0].length -= 4096;
    qemu.blocks[0].page_size = HUGE_BYTES;
    assert_int_equal(block_table_bind(&peer, &qemu, error), -EINVAL);
    qemu.blocks[0].page_size = 4096;
    qemu.blocks[0].idstr[0] = 'b';
    assert_int_equal(block_table_bind(&peer, &qemu, error), -EINVAL);
    assert_says(error, "block 0: the source has a");
    qemu.blocks[0].idstr[0] = 'a';
    assert_int_equal(block_table_bind(&peer, &qemu, error), 0);
    assert_int_equal(peer.blocks[0].hva, MIB);
    assert_int_equal(peer.blocks[0].fd, fd);
    assert_true(peer.blocks[0].shared);
    assert_int_equal(qemu.blocks[0].fd, -1);
    block_table_fini(&qemu);
    assert_int_not_equal(fcntl(fd, F_GETFD), -1);
    block_table_fini(&peer);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

/* Blocks with a descriptor are mapped, the others are left alone. */
static void maps_what_has_a_descriptor(void **state)
{
    struct block_table table = {0};
    char error[ERROR_TEXT_BYTES];

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct block block = block_of(i, i ? "shared" : "private",
                                      (i + 1) * MIB, MIB);

        if (i) {
            block.fd = memfd_create("unit", 0);
            assert_true(block.fd >= 0);
            assert_int_equal(ftruncate(block.fd, MIB), 0);
        }
        assert_int_equal(block_table_add(&table, &block, error), 0);
    }
    assert_int_equal(block_table_map(&table, error), 0);
    assert_null(table.blocks[0].map);
    assert_non_null(table.blocks[1].map);
    block_table_fini(&table);
}

static void says_which_block_cannot_be_mapped(void **state)
{
    struct block_table table = {0};
    struct block block = block_of(0, "pipe", MIB, MIB);
    char error[ERROR_TEXT_BYTES] = "";
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    block.fd = fds[0];
    assert_int_equal(block_table_add(&table, &block, error), 0);
    assert_true(block_table_map(&table, error) < 0);
    assert_says(error, "mapping block pipe: ");
    block_table_fini(&table);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_pages_in_whole_granules),
        cmocka_unit_test(refuses_each_wrong_block),
        cmocka_unit_test(is_bounded),
        cmocka_unit_test(binds_only_equal_tables),
        cmocka_unit_test(maps_what_has_a_descriptor),
        cmocka_unit_test(says_which_block_cannot_be_mapped),
    };

    return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
