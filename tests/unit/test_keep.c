/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../daemon/keep.h"
#include "../../daemon/pageset.h"

#define RAM   (64ull << 20)
#define PAGES (RAM / 4096)
#define ROLE  2

static struct keep keep;

static int set_up(void **state)
{
    (void)state;
    assert_int_equal(keep_init(&keep, ROLE, RAM), 0);
    keep.record.joined = true;
    keep_save(&keep);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    keep_fini(&keep);
    return 0;
}

/* What is written while one has it is there for the next. */
static void outlives_who_wrote_it(void **state)
{
    char error[ERROR_TEXT_BYTES];
    struct pageset set;
    struct keep next;

    (void)state;
    memcpy(keep.record.session, "0123456789abcdef", 16);
    keep.record.attempt = 7;
    keep_save(&keep);
    pageset_keep(&set, PAGES, keep_map_words(&keep, KEEP_MISSING, PAGES));
    pageset_add(&set, 100, 1000);
    assert_int_equal(keep_load(&next, keep.fd, ROLE, error), 0);
    assert_memory_equal(next.record.session, "0123456789abcdef", 16);
    assert_int_equal(next.record.attempt, 7);
    pageset_keep(&set, PAGES, keep_map_words(&next, KEEP_MISSING, PAGES));
    assert_int_equal(pageset_count(&set), 1000);
    assert_true(pageset_has(&set, 1099) && !pageset_has(&set, 1100));
    pageset_keep(&set, PAGES, keep_map_words(&next, KEEP_RECEIVED, PAGES));
    assert_int_equal(pageset_count(&set), 0);
    keep_fini(&next);
}

static void has_room_for_its_guest_only(void **state)
{
    (void)state;
    assert_non_null(keep_map_words(&keep, KEEP_RECEIVED, PAGES));
    assert_null(keep_map_words(&keep, KEEP_MISSING, 1ull << 40));
}

static void cannot_be_pulled_away(void **state)
{
    (void)state;
    assert_int_equal(ftruncate(keep.fd, 0), -1);
    assert_int_equal(ftruncate(keep.fd, 1 << 30), -1);
}

/* A record that says something else is refused, and why. */
static void what_makes_no_sense_is_refused(void **state)
{
    static const struct {
        size_t offset;
        uint64_t value;
        size_t bytes;
        const char *says;
    } rows[] = {
        {offsetof(struct keep_record, magic), 1, 4, "not of a remapd"},
        {offsetof(struct keep_record, version), 3, 4, "is of version 3"},
        {offsetof(struct keep_record, version), 0, 4, "is of version 0"},
        {offsetof(struct keep_record, role), 1, 4, "makes no sense"},
        {offsetof(struct keep_record, max_pages), 1, 8, "makes no sense"},
        {offsetof(struct keep_record, max_pages), UINT64_MAX, 8, "no sense"},
        {offsetof(struct keep_record, max_pages), 1ull << 63, 8, "no sense"},
        {offsetof(struct keep_record, addresses), 9, 4, "makes no sense"},
        {offsetof(struct keep_record, joined), 0, 4, "nobody has joined"},
    };
    char error[ERROR_TEXT_BYTES];
    struct keep next;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(pwrite(keep.fd, &rows[i].value, rows[i].bytes,
                                (off_t)rows[i].offset),
                         rows[i].bytes);
        assert_true(keep_load(&next, keep.fd, ROLE, error) < 0);
        assert_non_null(strstr(error, rows[i].says));
        keep_save(&keep);
    }
    keep.record.addresses = 1;
    memset(keep.record.address[0], 'x', sizeof(keep.record.address[0]));
    keep_save(&keep);
    assert_true(keep_load(&next, keep.fd, ROLE, error) < 0);
    assert_non_null(strstr(error, "address that does not end"));
    keep.record.addresses = 0;
    memset(keep.record.tls_name, 'x', sizeof(keep.record.tls_name));
    keep_save(&keep);
    assert_true(keep_load(&next, keep.fd, ROLE, error) < 0);
    assert_non_null(strstr(error, "name that does not end"));
}

static void something_else_is_refused(void **state)
{
    char error[ERROR_TEXT_BYTES];
    struct keep next;
    int fds[2], open_memfd = memfd_create("open", MFD_ALLOW_SEALING);

    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_true(keep_load(&next, -1, ROLE, error) < 0);
    assert_true(keep_load(&next, fds[0], ROLE, error) < 0);
    assert_int_equal(ftruncate(open_memfd, 1 << 20), 0);
    assert_true(keep_load(&next, open_memfd, ROLE, error) < 0);
    close(fds[0]);
    close(fds[1]);
    close(open_memfd);
}

#define keep_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        keep_test(outlives_who_wrote_it),
        keep_test(has_room_for_its_guest_only),
        keep_test(cannot_be_pulled_away),
        keep_test(what_makes_no_sense_is_refused),
        keep_test(something_else_is_refused),
    };

    return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
