/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stream of a control connection: messages behind their sizes. Input: for
 * each step how many bytes arrive together and what the owner does. They come
 * out of memory, for a socket would be most of what an input costs. */
#include "../../daemon/msg.c"

#include "fuzz.h"

#define MAX_STEPS 32

static struct msg_conn *conn; /* NULL once it is gone */
static unsigned what;         /* the owner does with the next message */

static void on_message(void *owner, const Remapd__Message *message)
{
    (void)owner;
    struct tls_link link;

    REQUIRE(conn && message->body_case != REMAPD__MESSAGE__BODY__NOT_SET);
    switch (what & 3) {
    case 0:
        msg_conn_free(conn);
        conn = NULL;
        break;
    case 1:
        REQUIRE(msg_conn_detach(conn, &link) < 0); /* there is no socket */
        conn = NULL;
        break;
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
    struct evbuffer *in;

    if (!base)
        base = event_base_new();
    conn = msg_conn_new(base, (struct tls_link){-1, NULL}, &handlers, NULL);
    in = bufferevent_get_input(conn->bev);
    evbuffer_unfreeze(in, 0); /* only the socket may add to it */
    for (unsigned i = 0; i < MAX_STEPS && input.size && conn; i++) {
        size_t bytes;

        what = input_byte(&input);
        bytes = MIN(what >> 2, input.size);
        evbuffer_add(in, input.data, bytes);
        input.data += bytes;
        input.size -= bytes;
        if (bytes)
            msg_conn_readable(conn->bev, conn);
        else
            msg_conn_event(conn->bev, BEV_EVENT_EOF, conn);
    }
    msg_conn_free(conn);
    event_base_loop(base, EVLOOP_NONBLOCK); /* bufferevents are freed late */
    return 0;
}
