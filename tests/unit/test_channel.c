/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <linux/socket.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../daemon/channel.h"

static int fd;

static int set_up(void **state)
{
    (void)state;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0;
}

static int tear_down(void **state)
{
    (void)state;
    return close(fd);
}

static int option(int name)
{
    int value = -1;
    socklen_t length = sizeof(value);

    assert_int_equal(getsockopt(fd, SOL_SOCKET, name, &value, &length), 0);
    return value;
}

/* Bytes, the most that SO_SNDBUF takes. */
static uint64_t most(void)
{
    FILE *file = fopen("/proc/sys/net/core/wmem_max", "r");
    unsigned long long bytes = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu", &bytes), 1);
    fclose(file);
    return bytes;
}

static void holds_what_it_is_told(void **state)
{
    (void)state;
    assert_true(channel_bound_queue(fd, 128 << 10, 0));
    assert_int_equal(option(SO_SNDBUF), 128 << 10);
    assert_true(channel_bound_queue(fd, 2 * most(), 2 * most()));
    assert_int_equal(option(SO_SNDBUF), 2 * most());
    /* More than may be, but the link is filled. */
    assert_true(channel_bound_queue(fd, 3 * most(), most()));
    assert_int_equal(option(SO_SNDBUF), 2 * most());
    assert_int_equal(option(SO_BUF_LOCK) & SOCK_SNDBUF_LOCK, SOCK_SNDBUF_LOCK);
}

static void a_link_that_is_not_filled_is_the_kernels(void **state)
{
    (void)state;
    assert_false(channel_bound_queue(fd, 3 * most(), 2 * most()));
    assert_int_equal(option(SO_BUF_LOCK) & SOCK_SNDBUF_LOCK, 0);
    /* And back. */
    assert_true(channel_bound_queue(fd, 128 << 10, 0));
    assert_int_equal(option(SO_BUF_LOCK) & SOCK_SNDBUF_LOCK, SOCK_SNDBUF_LOCK);
}

#define channel_test(name)                                                     \
    cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        channel_test(holds_what_it_is_told),
        channel_test(a_link_that_is_not_filled_is_the_kernels),
    };

    return cmocka_run_group_tests_name("channel", tests, NULL, NULL);
}
