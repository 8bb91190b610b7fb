/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <arpa/inet.h>
#include <event2/util.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../daemon/session.h"
#include "../../daemon/wire.h"

/* Two pages of each GiB are left, far apart: the list takes a bit for each page
 * between them, in all more than a peer that does not read may leave queued. */
#define GUEST_BYTES (3ull << 40)
#define GIB_PAGES   ((1ull << 30) / PAGE_BYTES)

static struct {
    int fd;
    uint64_t pages, said; /* named, and their sum as LeftEnd has it */
} peer;

static struct event_base *base;

static bool take(void *to, size_t bytes)
{
    return recv(peer.fd, to, bytes, MSG_WAITALL) == (ssize_t)bytes;
}

static void *listen_to_the_end(void *opaque)
{
    static uint8_t packed[MSG_MAX_BYTES];
    uint32_t bytes;

    while (!peer.said && take(&bytes, sizeof(bytes)) &&
           take(packed, ntohl(bytes))) {
        Remapd__Message *message =
            remapd__message__unpack(NULL, ntohl(bytes), packed);

        if (message->body_case == REMAPD__MESSAGE__BODY_LEFT_END)
            peer.said = message->left_end->pages;
        else
            for (size_t i = 0; i < message->left->pages.len; i++)
                peer.pages += (uint64_t)__builtin_popcount(
                    message->left->pages.data[i]);
        remapd__message__free_unpacked(message, NULL);
    }
    shutdown(peer.fd, SHUT_RDWR);
    return opaque;
}

static void on_message(void *owner, const Remapd__Message *message)
{
    (void)owner;
    (void)message;
}

static void on_closed(void *owner, const char *reason)
{
    (void)owner;
    (void)reason;
    event_base_loopbreak(base);
}

static void names_all_that_a_large_guest_lacks(void **state)
{
    static const struct msg_handlers handlers = {on_message, on_closed, NULL};
    struct block block = {.length = GUEST_BYTES};
    struct session *session = calloc(1, sizeof(*session));
    struct pageset set;
    pthread_t thread;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    evutil_make_socket_nonblocking(fds[0]);
    peer.fd = fds[1];
    base = event_base_new();
    session->table = (struct block_table){&block, 1, GUEST_BYTES / PAGE_BYTES};
    session->control = msg_conn_new(
        base, (struct tls_link){fds[0], NULL}, &handlers, NULL);
    pageset_init(&set, session->table.pages);
    for (uint64_t gib = 0; gib < session->table.pages; gib += GIB_PAGES) {
        pageset_add(&set, gib, 1);
        pageset_add(&set, gib + GIB_PAGES - 1, 1);
    }

    wire_send_left(session, &set);
    assert_int_equal(
        pthread_create(&thread, NULL, listen_to_the_end, NULL), 0);
    event_base_dispatch(base);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(peer.said, 2 * session->table.pages / GIB_PAGES);
    assert_int_equal(peer.pages, 2 * session->table.pages / GIB_PAGES);

    msg_conn_free(session->control);
    event_base_free(base);
    pageset_fini(&set);
    close(peer.fd);
    free(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_all_that_a_large_guest_lacks),
    };

    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
