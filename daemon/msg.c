/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "msg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/util.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#include "util.h"

#define MSG_QUEUE_MAX_BYTES (64u << 20) /* a peer that does not read */
#define MSG_FLUSH_PARTS     16

struct msg_conn {
    struct bufferevent *bev;
    const struct msg_handlers *handlers;
    void *owner;
    bool busy; /* in a handler: freeing is put off */
    bool dead; /* freed or detached meanwhile */
    char peer[INET6_ADDRSTRLEN + 16];
};

static void msg_conn_release(struct msg_conn *conn)
{
    if (conn->bev)
        bufferevent_free(conn->bev);
    free(conn);
}

static void msg_conn_closed(struct msg_conn *conn, const char *reason)
{
    conn->busy = true;
    conn->handlers->closed(conn->owner, reason);
    conn->busy = false;
    if (conn->dead)
        msg_conn_release(conn);
}

/* One message off the buffer. Return false when there is none (any more). */
static bool msg_conn_take(struct msg_conn *conn)
{
    struct evbuffer *in = bufferevent_get_input(conn->bev);
    Remapd__Message *message;
    uint32_t bytes;

    if (evbuffer_get_length(in) < sizeof(bytes))
        return false;
    evbuffer_copyout(in, &bytes, sizeof(bytes));
    bytes = ntohl(bytes);
    if (!bytes || bytes > MSG_MAX_BYTES) {
        char reason[80];

        snprintf(reason, sizeof(reason),
                 "message of %u bytes, allowed are 1 "
                 "to %u",
                 bytes, MSG_MAX_BYTES);
        msg_conn_closed(conn, reason);
        return false;
    }
    if (evbuffer_get_length(in) < sizeof(bytes) + bytes)
        return false;
    evbuffer_drain(in, sizeof(bytes));
    message = remapd__message__unpack(NULL, bytes, evbuffer_pullup(in, bytes));
    evbuffer_drain(in, bytes);
    if (!message || message->body_case == REMAPD__MESSAGE__BODY__NOT_SET) {
        if (message)
            remapd__message__free_unpacked(message, NULL);
        msg_conn_closed(conn, "message that cannot be decoded");
        return false;
    }
    conn->busy = true;
    conn->handlers->message(conn->owner, message);
    conn->busy = false;
    remapd__message__free_unpacked(message, NULL);
    if (!conn->dead)
        return true;
    msg_conn_release(conn);
    return false;
}

static void msg_conn_readable(struct bufferevent *bev, void *opaque)
{
    (void)bev;
    while (msg_conn_take(opaque))
        ;
}

static void msg_conn_event(struct bufferevent *bev, short what, void *opaque)
{
    struct msg_conn *conn = opaque;
    struct evbuffer *in = bufferevent_get_input(bev);

    if (what & BEV_EVENT_CONNECTED) {
        int one = 1;

        bufferevent_set_timeouts(bev, NULL, NULL);
        setsockopt(bufferevent_getfd(bev), IPPROTO_TCP, TCP_NODELAY, &one,
                   sizeof(one));
        bufferevent_enable(bev, EV_READ);
        if (conn->handlers->connected)
            conn->handlers->connected(conn->owner);
    } else if (what & BEV_EVENT_TIMEOUT) {
        msg_conn_closed(conn, "no answer in time");
    } else if (what & BEV_EVENT_ERROR) {
        msg_conn_closed(conn,
                        evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    } else {
        msg_conn_closed(conn, evbuffer_get_length(in)
                                  ? "connection closed within a message"
                                  : "connection closed");
    }
}

static void msg_conn_name(struct msg_conn *conn, const struct sockaddr *sa,
                          socklen_t length)
{
    char host[INET6_ADDRSTRLEN] = "?", port[8] = "?";

    getnameinfo(sa, length, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(conn->peer, sizeof(conn->peer), "%s:%s", host, port);
}

static struct msg_conn *msg_conn_open(struct event_base *base, int fd,
                                      const struct msg_handlers *handlers,
                                      void *owner)
{
    struct msg_conn *conn = xcalloc(1, sizeof(*conn));

    conn->handlers = handlers;
    conn->owner = owner;
    conn->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (!conn->bev)
        abort();
    bufferevent_setcb(conn->bev, msg_conn_readable, NULL, msg_conn_event, conn);
    return conn;
}

struct msg_conn *msg_conn_new(struct event_base *base, int fd,
                              const struct msg_handlers *handlers, void *owner)
{
    struct msg_conn *conn = msg_conn_open(base, fd, handlers, owner);
    struct sockaddr_storage ss = {0};
    socklen_t length = sizeof(ss);
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    getpeername(fd, (struct sockaddr *)&ss, &length);
    msg_conn_name(conn, (struct sockaddr *)&ss, length);
    bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
    return conn;
}

struct msg_conn *msg_conn_connect(struct event_base *base,
                                  const struct sockaddr *address,
                                  socklen_t length, unsigned timeout_ms,
                                  const struct msg_handlers *handlers,
                                  void *owner)
{
    struct msg_conn *conn = msg_conn_open(base, -1, handlers, owner);
    struct timeval timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    msg_conn_name(conn, address, length);
    bufferevent_set_timeouts(conn->bev, &timeout, &timeout);
    /* A failure at once is reported like a later one: through the event. */
    if (bufferevent_socket_connect(conn->bev, address, (int)length))
        bufferevent_trigger_event(conn->bev, BEV_EVENT_ERROR,
                                  BEV_TRIG_DEFER_CALLBACKS);
    return conn;
}

void msg_conn_adopt(struct msg_conn *conn, const struct msg_handlers *handlers,
                    void *owner)
{
    conn->handlers = handlers;
    conn->owner = owner;
}

void msg_conn_send(struct msg_conn *conn, const Remapd__Message *message)
{
    uint32_t bytes = (uint32_t)remapd__message__get_packed_size(message);
    struct evbuffer *out = bufferevent_get_output(conn->bev);
    uint32_t prefix = htonl(bytes);
    struct evbuffer_iovec space;

    if (evbuffer_get_length(out) > MSG_QUEUE_MAX_BYTES) {
        shutdown(bufferevent_getfd(conn->bev), SHUT_RDWR);
        return;
    }
    evbuffer_add(out, &prefix, sizeof(prefix));
    if (evbuffer_reserve_space(out, bytes, &space, 1) != 1)
        abort();
    remapd__message__pack(message, space.iov_base);
    space.iov_len = bytes;
    evbuffer_commit_space(out, &space, 1);
}

/* The last messages before a close or a hand-over are small; the socket's
 * buffer takes them. The bufferevent is freed next, so it keeps its copy. */
static int msg_conn_flush(struct msg_conn *conn)
{
    struct evbuffer *out = bufferevent_get_output(conn->bev);
    struct evbuffer_iovec parts[MSG_FLUSH_PARTS];
    struct msghdr msg = {.msg_iov = parts};
    size_t bytes = evbuffer_get_length(out);
    int count = evbuffer_peek(out, -1, NULL, parts, MSG_FLUSH_PARTS);

    if (!bytes)
        return 0;
    if (count > MSG_FLUSH_PARTS)
        return -EAGAIN;
    msg.msg_iovlen = (size_t)count;
    return sendmsg(bufferevent_getfd(conn->bev), &msg,
                   MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes
               ? 0
               : -EAGAIN;
}

static void msg_conn_drop(struct msg_conn *conn)
{
    conn->dead = true;
    bufferevent_free(conn->bev);
    conn->bev = NULL;
    if (!conn->busy)
        msg_conn_release(conn);
}

int msg_conn_detach(struct msg_conn *conn)
{
    bool surplus = evbuffer_get_length(bufferevent_get_input(conn->bev)) != 0;
    int fd = surplus ? -EPROTO : msg_conn_flush(conn);

    if (!fd) {
        fd = fcntl(bufferevent_getfd(conn->bev), F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            fd = -errno;
        else
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    }
    msg_conn_drop(conn);
    return fd;
}

void msg_conn_free(struct msg_conn *conn)
{
    if (!conn || conn->dead)
        return;
    msg_conn_flush(conn);
    msg_conn_drop(conn);
}

const char *msg_conn_peer(const struct msg_conn *conn)
{
    return conn->peer;
}
