/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../daemon/congestion.h"

static const char *control_of(int fd)
{
    static char name[16];
    socklen_t length = sizeof(name);

    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length),
                     0);
    return name;
}

static int stream_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    return fd;
}

static void a_socket_gets_what_has_been_chosen(void **state)
{
    int fd = stream_socket();

    (void)state;
    assert_int_equal(congestion_choose("reno"), 0);
    congestion_set(fd);
    assert_string_equal(control_of(fd), "reno");
    close(fd);
}

static void by_default_it_does_not_pace(void **state)
{
    int fd = stream_socket();
    const char *control;

    (void)state;
    assert_int_equal(congestion_choose(NULL), 0);
    congestion_set(fd);
    control = control_of(fd);
    assert_true(!strcmp(control, "cubic") || !strcmp(control, "reno"));
    close(fd);
}

static void what_the_kernel_lacks_changes_nothing(void **state)
{
    int fd = stream_socket();

    (void)state;
    assert_int_equal(congestion_choose("reno"), 0);
    assert_int_equal(congestion_choose("nonesuch"), -ENOENT);
    congestion_set(fd);
    assert_string_equal(control_of(fd), "reno");
    close(fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_socket_gets_what_has_been_chosen),
        cmocka_unit_test(by_default_it_does_not_pace),
        cmocka_unit_test(what_the_kernel_lacks_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
