/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "../../daemon/faulter.h"

#define MIB (1ull << 20)

static int new_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
    return fd;
}

/* Blocks of 4 MiB: shared, of huge pages, private. */
static void table_of_three(struct block_table *table)
{
    char error[ERROR_TEXT_BYTES];

    for (uint32_t i = 0; i < 3; i++) {
        struct block block = {.index = i,
                              .idstr = {(char)('a' + i)},
                              .hva = (i + 1) * 64 * MIB,
                              .length = 4 * MIB,
                              .page_size = i == 1 ? HUGE_BYTES : PAGE_BYTES,
                              .fd = -1,
                              .shared = i < 2};

        assert_int_equal(block_table_add(table, &block, error), 0);
    }
}

static struct handoff_region region_of(uint32_t block, uint64_t offset,
                                       uint64_t length, uint64_t page_size,
                                       uint64_t base)
{
    return (struct handoff_region){htobe32(1),        htobe32(block),
                                   htobe64(offset),   htobe64(length),
                                   htobe64(page_size), htobe64(base)};
}

static void finds_what_a_back_end_has_mapped(void **state)
{
    struct handoff_region message =
        region_of(0, MIB, 2 * MIB, PAGE_BYTES, 0x7000 * PAGE_BYTES);
    struct stats *stats = xcalloc(1, sizeof(*stats));
    struct faulters *faulters = faulters_new(stats);
    const struct faulter_region *found;
    struct faulter_region region;
    struct block_table table = {0};
    struct faulter *faulter;
    char error[ERROR_TEXT_BYTES];
    int fd = eventfd(0, EFD_NONBLOCK);

    (void)state;
    table_of_three(&table);
    assert_int_equal(faulter_region_parse(&table, &message, &region, error), 0);
    assert_int_equal(faulters_set(faulters, 3, "disk", 0, fd, &region, 1), 0);
    assert_string_equal(stats->faulters[3].name, "disk");
    assert_null(faulter_get(faulters, FAULTER_QEMU));
    faulter = faulter_get(faulters, 3);
    found = faulter_region_at(faulter, 0x7000 * PAGE_BYTES + 5);
    assert_non_null(found);
    /* The same page of the block, at the back end's address. */
    assert_int_equal(0x7000 * PAGE_BYTES - found->block.hva, MIB);
    assert_int_equal(found->block.first_page, table.blocks[0].first_page);
    assert_null(faulter_region_at(faulter, 0x7000 * PAGE_BYTES - 1));
    assert_null(faulter_region_at(faulter, 0x7000 * PAGE_BYTES + 2 * MIB));

    /* Gone for all who come, not for who holds it; its name stays. */
    assert_int_equal(faulters_set(faulters, 3, "disk", 0, -1, NULL, 0), 0);
    assert_null(faulter_get(faulters, 3));
    assert_non_null(faulter_region_at(faulter, 0x7000 * PAGE_BYTES));
    faulter_put(faulter);
    assert_string_equal(stats->faulters[3].name, "disk");
    faulters_free(faulters);
    block_table_fini(&table);
    close(fd);
    free(stats);
}

static void finds_what_qemu_has_mapped(void **state)
{
    struct stats *stats = xcalloc(1, sizeof(*stats));
    struct faulters *faulters = faulters_new(stats);
    struct block_table table = {0};
    struct faulter *faulter;
    int fd = eventfd(0, EFD_NONBLOCK);

    (void)state;
    table_of_three(&table);
    assert_int_equal(faulters_set_qemu(faulters, 0, fd, &table), 0);
    faulter = faulter_get(faulters, FAULTER_QEMU);
    for (uint32_t i = 0; i < table.count; i++) {
        uint64_t hva = table.blocks[i].hva;
        const struct faulter_region *found = faulter_region_at(faulter, hva);

        assert_non_null(found);
        assert_int_equal(found->block.index, i);
        assert_ptr_equal(faulter_region_at(faulter, hva + 4 * MIB - 1), found);
        assert_null(faulter_region_at(faulter, hva + 4 * MIB));
        assert_null(faulter_region_at(faulter, hva - 1));
    }
    faulter_put(faulter);
    faulters_free(faulters);
    block_table_fini(&table);
    close(fd);
    free(stats);
}

static void polls_only_those_that_are_there(void **state)
{
    struct handoff_region message = region_of(0, 0, MIB, PAGE_BYTES, 16 * MIB);
    struct stats *stats = xcalloc(1, sizeof(*stats));
    struct faulters *faulters = faulters_new(stats);
    struct block_table table = {0};
    struct faulter_region region;
    char error[ERROR_TEXT_BYTES];
    struct epoll_event event;
    int fd = eventfd(1, EFD_NONBLOCK);

    (void)state;
    table_of_three(&table);
    assert_int_equal(faulter_region_parse(&table, &message, &region, error), 0);
    assert_int_equal(faulters_set(faulters, 2, "net", 0, fd, &region, 1), 0);
    assert_int_equal(epoll_wait(faulters_poll_fd(faulters), &event, 1, 0), 1);
    assert_int_equal(event.data.u32, 2);
    /* The same descriptor again, as QEMU hands it over again. */
    assert_int_equal(faulters_set(faulters, 2, "net", 0, fd, &region, 1), 0);
    assert_int_equal(epoll_wait(faulters_poll_fd(faulters), &event, 1, 0), 1);
    assert_int_equal(faulters_set(faulters, 2, "net", 0, -1, NULL, 0), 0);
    assert_int_equal(epoll_wait(faulters_poll_fd(faulters), &event, 1, 0), 0);
    faulters_free(faulters);
    block_table_fini(&table);
    close(fd);
    free(stats);
}

/* Who shares the open file has made it block, and has read what there was. */
static void never_waits_for_what_others_have_read(void **state)
{
    struct handoff_region message = region_of(0, 0, MIB, PAGE_BYTES, 16 * MIB);
    struct stats *stats = xcalloc(1, sizeof(*stats));
    struct faulters *faulters = faulters_new(stats);
    struct block_table table = {0};
    struct faulter_region region;
    struct faulter *faulter;
    struct uffd_msg msg;
    char error[ERROR_TEXT_BYTES];
    int fd = new_uffd();

    (void)state;
    table_of_three(&table);
    assert_int_equal(faulter_region_parse(&table, &message, &region, error), 0);
    assert_int_equal(faulters_set(faulters, 1, "disk", 0, fd, &region, 1), 0);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    faulter = faulter_get(faulters, 1);
    assert_int_equal(faulter_read(faulter, &msg, 1), -EAGAIN);
    faulter_put(faulter);
    faulters_free(faulters);
    block_table_fini(&table);
    close(fd);
    free(stats);
}

static void refuses_each_wrong_region(void **state)
{
    static const struct {
        uint32_t block;
        uint64_t offset, length, page_size, base;
        const char *says;
    } rows[] = {
        {3, 0, MIB, PAGE_BYTES, MIB, "block 3, of 3"},
        {2, 0, MIB, PAGE_BYTES, MIB, "block c"}, /* private */
        {0, 0, 0, PAGE_BYTES, MIB, "block a"},
        {0, 0, MIB + 1, PAGE_BYTES, MIB, "block a"},
        {0, 1, MIB, PAGE_BYTES, MIB, "block a"},
        {0, 0, MIB, PAGE_BYTES, MIB + 8, "block a"},
        {0, 0, MIB, HUGE_BYTES, 2 * MIB, "block a"},
        {0, 4 * MIB, PAGE_BYTES, PAGE_BYTES, MIB, "block a"},
        {0, 0, 4 * MIB + PAGE_BYTES, PAGE_BYTES, MIB, "block a"},
        {0, -PAGE_BYTES, 2 * PAGE_BYTES, PAGE_BYTES, MIB, "block a"},
        {0, 0, MIB, PAGE_BYTES, -PAGE_BYTES, "block a"},
        {1, 0, 2 * MIB, PAGE_BYTES, 2 * MIB, "block b"},
        {1, 0, 2 * MIB, HUGE_BYTES, MIB, "block b"},
        {BLOCK_NONE, 0, MIB, 0, MIB, "added since"},
        {BLOCK_NONE, 0, MIB, 3 * PAGE_BYTES, 0, "added since"},
        {BLOCK_NONE, 0, 4 * MIB, 4 * MIB, 4 * MIB, "added since"},
    };
    struct block_table table = {0};
    struct faulter_region region;
    char error[ERROR_TEXT_BYTES];

    (void)state;
    table_of_three(&table);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct handoff_region message =
            region_of(rows[i].block, rows[i].offset, rows[i].length,
                      rows[i].page_size, rows[i].base);

        assert_int_equal(
            faulter_region_parse(&table, &message, &region, error), -EINVAL);
        assert_says(error, rows[i].says);
    }
    block_table_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_a_back_end_has_mapped),
        cmocka_unit_test(finds_what_qemu_has_mapped),
        cmocka_unit_test(polls_only_those_that_are_there),
        cmocka_unit_test(never_waits_for_what_others_have_read),
        cmocka_unit_test(refuses_each_wrong_region),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
