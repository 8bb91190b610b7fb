/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stream of a control connection: messages behind their sizes. Input: for
 * each step how many bytes arrive together and what the owner does. */
#include "../../daemon/msg.c"

#include "fuzz.h"

#include <fcntl.h>

#define MAX_STEPS 32

static struct msg_conn *conn; /* NULL once it is gone */
static unsigned what;         /* the owner does with the next message */

static void on_message(void *owner, const Remapd__Message *message)
{
    (void)owner;
    REQUIRE(conn && message->body_case != REMAPD__MESSAGE__BODY__NOT_SET);
    switch (what & 3) {
    case 0:
        msg_conn_free(conn);
        conn = NULL;
        break;
    case 1: {
        int fd = msg_conn_detach(conn);

        conn = NULL;
        if (fd >= 0)
            REQUIRE(!(fcntl(fd, F_GETFL) & O_NONBLOCK) && !close(fd));
        break;
    }
    default:
        msg_conn_send(conn, message);
    }
}

static void on_closed(void *owner, const char *reason)
{
    (void)owner;
    REQUIRE(conn && *reason);
    msg_conn_free(conn);
    conn = NULL;
}

static const struct msg_handlers handlers = {.message = on_message,
                                             .closed = on_closed};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct event_base *base;
    struct input input = {data, size};
    int pair[2];

    if (!base)
        base = event_base_new();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                   pair))
        abort();
    conn = msg_conn_new(base, pair[0], &handlers, NULL);
    for (unsigned i = 0; i < MAX_STEPS && input.size && conn; i++) {
        size_t bytes;

        what = input_byte(&input);
        bytes = MIN(what >> 2, input.size);
        if (bytes)
            send(pair[1], input.data, bytes, MSG_NOSIGNAL);
        else
            shutdown(pair[1], SHUT_WR);
        input.data += bytes;
        input.size -= bytes;
        event_base_loop(base, EVLOOP_NONBLOCK);
    }
    msg_conn_free(conn);
    close(pair[1]);
    event_base_loop(base, EVLOOP_NONBLOCK);
    return 0;
}
