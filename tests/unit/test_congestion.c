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

static void who_is_accepted_gets_it_too(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int listener = stream_socket(), peer = stream_socket(), fd;

    (void)state;
    assert_int_equal(congestion_choose("reno"), 0);
    congestion_set(listener);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(
        getsockname(listener, (struct sockaddr *)&address, &length), 0);
    assert_int_equal(connect(peer, (struct sockaddr *)&address, length), 0);
    fd = accept(listener, NULL, NULL);
    assert_string_equal(control_of(fd), "reno");
    close(fd);
    close(peer);
    close(listener);
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
        cmocka_unit_test(who_is_accepted_gets_it_too),
        cmocka_unit_test(what_the_kernel_lacks_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
