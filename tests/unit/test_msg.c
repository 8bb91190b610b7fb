/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <arpa/inet.h>
#include <event2/util.h>

#include "../../daemon/msg.h"

static struct event_base *base;
static struct msg_conn *conn;
static int peer; /* the other end */
static unsigned messages;
static char closed[128];

static void on_message(void *owner, const Remapd__Message *message)
{
    (void)owner;
    (void)message;
    messages++;
}

static void on_closed(void *owner, const char *reason)
{
    (void)owner;
    snprintf(closed, sizeof(closed), "%s", reason);
    msg_conn_free(conn);
    conn = NULL;
}

static const struct msg_handlers handlers = {on_message, on_closed, NULL};

static int set_up(void **state)
{
    int fds[2];

    (void)state;
    messages = 0;
    closed[0] = 0;
    base = event_base_new();
    if (!base || socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
        return -1;
    evutil_make_socket_nonblocking(fds[0]);
    conn = msg_conn_new(base, (struct tls_link){fds[0], NULL}, &handlers,
                        NULL);
    peer = fds[1];
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    msg_conn_free(conn);
    close(peer);
    event_base_free(base);
    return 0;
}

/* Give the connection all that has been sent to it. */
static void run(void)
{
    event_base_loop(base, EVLOOP_NONBLOCK);
    event_base_loop(base, EVLOOP_NONBLOCK);
}

static void put(const void *bytes, size_t count)
{
    assert_int_equal(send(peer, bytes, count, 0), count);
}

/* An Abort whose message takes @bytes in all; returns it behind its size. */
static uint8_t *abort_of(size_t bytes, size_t *total)
{
    Remapd__Abort body = REMAPD__ABORT__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;
    char *reason = calloc(1, bytes + 1);
    uint8_t *packet = calloc(1, bytes + 4);
    uint32_t prefix = htonl((uint32_t)bytes);
    size_t text = bytes;

    memset(reason, 'x', bytes);
    body.reason = reason;
    message.body_case = REMAPD__MESSAGE__BODY_ABORT;
    message.abort = &body;
    do {
        reason[--text] = 0;
    } while (remapd__message__get_packed_size(&message) > bytes);
    assert_int_equal(remapd__message__get_packed_size(&message), bytes);
    memcpy(packet, &prefix, 4);
    remapd__message__pack(&message, packet + 4);
    free(reason);
    *total = bytes + 4;
    return packet;
}

static void takes_messages_in_any_pieces(void **state)
{
    size_t total;
    uint8_t *packet = abort_of(100, &total);

    (void)state;
    put(packet, 3);
    run();
    put(packet + 3, 50);
    run();
    assert_int_equal(messages, 0);
    put(packet + 53, total - 53);
    put(packet, total);
    run();
    assert_int_equal(messages, 2);
    assert_string_equal(closed, "");
    free(packet);
}

static void takes_the_largest(void **state)
{
    size_t total;
    uint8_t *packet = abort_of(MSG_MAX_BYTES, &total);

    (void)state;
    put(packet, total);
    for (unsigned i = 0; i < 100 && !messages; i++)
        run();
    assert_int_equal(messages, 1);
    free(packet);
}

static void refuses_by_the_size_alone(void **state)
{
    static const uint32_t sizes[] = {0, MSG_MAX_BYTES + 1, UINT32_MAX};

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint32_t prefix = htonl(sizes[i]);
        char says[32];

        put(&prefix, sizeof(prefix));
        run();
        assert_int_equal(messages, 0);
        snprintf(says, sizeof(says), "message of %u bytes", sizes[i]);
        assert_says(closed, says);
        tear_down(state);
        assert_int_equal(set_up(state), 0);
    }
}

static void refuses_what_cannot_be_decoded(void **state)
{
    static const uint8_t garbage[] = {0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff};

    (void)state;
    put(garbage, sizeof(garbage));
    run();
    assert_says(closed, "cannot be decoded");
}

/* A field that this version does not know leaves nothing to act on. */
static void refuses_a_message_without_body(void **state)
{
    static const uint8_t unknown[] = {0, 0, 0, 3, 0xf8, 0x7f, 0x01};

    (void)state;
    put(unknown, sizeof(unknown));
    run();
    assert_says(closed, "cannot be decoded");
}

static void half_a_message_is_no_clean_end(void **state)
{
    (void)state;
    put("\0\0\0\12abc", 7);
    shutdown(peer, SHUT_WR);
    run();
    assert_string_equal(closed, "connection closed within a message");
}

static void an_end_between_messages_is_clean(void **state)
{
    (void)state;
    shutdown(peer, SHUT_WR);
    run();
    assert_string_equal(closed, "connection closed");
}

/* A channel's first frame must not come before it is asked for. */
static void detaches_only_a_quiet_socket(void **state)
{
    struct tls_link link;

    assert_int_equal(msg_conn_detach(conn, &link), 0);
    assert_true(link.fd >= 0 && !link.tls);
    tls_link_close(&link);
    conn = NULL;
    tear_down(state);
    assert_int_equal(set_up(state), 0);
    put("\0\0", 2);
    run();
    assert_int_equal(msg_conn_detach(conn, &link), -EPROTO);
    conn = NULL;
    assert_true(link.fd < 0);
}

#define msg_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        msg_test(takes_messages_in_any_pieces),
        msg_test(takes_the_largest),
        msg_test(refuses_by_the_size_alone),
        msg_test(refuses_what_cannot_be_decoded),
        msg_test(refuses_a_message_without_body),
        msg_test(half_a_message_is_no_clean_end),
        msg_test(an_end_between_messages_is_clean),
        msg_test(detaches_only_a_quiet_socket),
    };

    return cmocka_run_group_tests_name("msg", tests, NULL, NULL);
}
