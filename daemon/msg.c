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

#include "congestion.h"
#include "util.h"

#define MSG_QUEUE_MAX_BYTES (64u << 20) /* a peer that does not read */
#define MSG_FLUSH_PARTS     16

/* A TLS handshake begins so: no message has such a size. */
#define MSG_TLS_HELLO 0x1603

struct msg_conn {
    struct bufferevent *bev;
    struct tls *tls;       /* NULL: in the clear */
    struct evbuffer *text; /* of tls: decrypted */
    bool open;             /* connected, and the handshake is done */
    const struct msg_handlers *handlers;
    void *owner;
    uint64_t room; /* bytes: what more may be queued, by its owner's leave */
    bool busy;     /* in a handler: freeing is put off */
    bool dead;     /* freed or detached meanwhile */
    char peer[INET6_ADDRSTRLEN + 16];
};

static void msg_conn_release(struct msg_conn *conn)
{
    if (conn->bev)
        bufferevent_free(conn->bev);
    if (conn->text)
        evbuffer_free(conn->text);
    tls_free(conn->tls);
    free(conn);
}

/* What the other side has said, as it meant it. */
static struct evbuffer *msg_conn_input(const struct msg_conn *conn)
{
    return conn->tls ? conn->text : bufferevent_get_input(conn->bev);
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
    struct evbuffer *in = msg_conn_input(conn);
    Remapd__Message *message;
    uint32_t bytes;

    if (evbuffer_get_length(in) < sizeof(bytes))
        return false;
    evbuffer_copyout(in, &bytes, sizeof(bytes));
    bytes = ntohl(bytes);
    if (bytes >> 16 == MSG_TLS_HELLO && !conn->tls) {
        msg_conn_closed(conn, TLS_IS_CLEAR);
        return false;
    }
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

/* Return false when @conn is gone. */
static bool msg_conn_opened(struct msg_conn *conn)
{
    conn->open = true;
    bufferevent_set_timeouts(conn->bev, NULL, NULL);
    conn->busy = true;
    if (conn->handlers->connected)
        conn->handlers->connected(conn->owner);
    conn->busy = false;
    if (!conn->dead)
        return true;
    msg_conn_release(conn);
    return false;
}

/* Return false when @conn is gone. */
static bool msg_conn_decrypt(struct msg_conn *conn)
{
    struct evbuffer *out = bufferevent_get_output(conn->bev);
    int ret =
        tls_take(conn->tls, bufferevent_get_input(conn->bev), conn->text, out);

    if (ret && tls_is_clear(conn->tls)) {
        tls_free(conn->tls); /* what the owner still says is understood */
        conn->tls = NULL;
        conn->open = true;
        msg_conn_closed(conn, TLS_IS_CLEAR);
        return false;
    }
    if (ret) {
        conn->open = false;
        msg_conn_closed(conn, tls_reason(conn->tls));
        return false;
    }
    return conn->open || !tls_ready(conn->tls) || msg_conn_opened(conn);
}

static void msg_conn_readable(struct bufferevent *bev, void *opaque)
{
    struct msg_conn *conn = opaque;

    (void)bev;
    if (conn->tls && !msg_conn_decrypt(conn))
        return;
    while (msg_conn_take(conn))
        ;
}

static void msg_conn_event(struct bufferevent *bev, short what, void *opaque)
{
    struct msg_conn *conn = opaque;

    if (what & BEV_EVENT_CONNECTED) {
        int one = 1;

        setsockopt(bufferevent_getfd(bev), IPPROTO_TCP, TCP_NODELAY, &one,
                   sizeof(one));
        bufferevent_enable(bev, EV_READ);
        if (conn->tls)
            msg_conn_decrypt(conn); /* there is nothing yet: it begins */
        else
            msg_conn_opened(conn);
    } else if (what & BEV_EVENT_TIMEOUT) {
        msg_conn_closed(conn, "no answer in time");
    } else if (what & BEV_EVENT_ERROR) {
        msg_conn_closed(conn,
                        evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    } else {
        msg_conn_closed(conn, evbuffer_get_length(msg_conn_input(conn))
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

static struct msg_conn *msg_conn_open(struct event_base *base,
                                      struct tls_link link,
                                      const struct msg_handlers *handlers,
                                      void *owner)
{
    struct msg_conn *conn = xcalloc(1, sizeof(*conn));

    conn->handlers = handlers;
    conn->owner = owner;
    conn->bev = bufferevent_socket_new(base, link.fd, BEV_OPT_CLOSE_ON_FREE);
    conn->tls = link.tls;
    conn->text = link.tls ? evbuffer_new() : NULL;
    if (!conn->bev || (link.tls && !conn->text))
        abort();
    bufferevent_setcb(conn->bev, msg_conn_readable, NULL, msg_conn_event, conn);
    return conn;
}

struct msg_conn *msg_conn_new(struct event_base *base, struct tls_link link,
                              const struct msg_handlers *handlers, void *owner)
{
    struct msg_conn *conn = msg_conn_open(base, link, handlers, owner);
    struct sockaddr_storage ss = {0};
    socklen_t length = sizeof(ss);
    int one = 1;

    setsockopt(link.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    getpeername(link.fd, (struct sockaddr *)&ss, &length);
    conn->open = !link.tls;
    msg_conn_name(conn, (struct sockaddr *)&ss, length);
    bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
    return conn;
}

struct msg_conn *
msg_conn_connect(struct event_base *base, const struct sockaddr *address,
                 socklen_t length, struct tls *tls, unsigned timeout_ms,
                 const struct msg_handlers *handlers, void *owner)
{
    const int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    struct tls_link link = {socket(address->sa_family, type, 0), tls};
    struct msg_conn *conn = msg_conn_open(base, link, handlers, owner);
    struct timeval timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    congestion_set(link.fd);
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

void msg_conn_allow(struct msg_conn *conn, uint64_t bytes)
{
    conn->room += bytes;
}

void msg_conn_send(struct msg_conn *conn, const Remapd__Message *message)
{
    uint32_t bytes = (uint32_t)remapd__message__get_packed_size(message);
    struct evbuffer *out = bufferevent_get_output(conn->bev);
    AUTO_FREE uint8_t *packed = xcalloc(1, sizeof(bytes) + bytes);
    uint32_t prefix = htonl(bytes);

    if (!conn->open)
        return;
    if (evbuffer_get_length(out) > MSG_QUEUE_MAX_BYTES + conn->room) {
        shutdown(bufferevent_getfd(conn->bev), SHUT_RDWR);
        return;
    }
    memcpy(packed, &prefix, sizeof(prefix));
    remapd__message__pack(message, packed + sizeof(prefix));
    if (!conn->tls)
        evbuffer_add(out, packed, sizeof(prefix) + bytes);
    else if (tls_put(conn->tls, packed, sizeof(prefix) + bytes, out))
        shutdown(bufferevent_getfd(conn->bev), SHUT_RDWR);
    explicit_bzero(packed, sizeof(prefix) + bytes); /* a key, perhaps */
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

int msg_conn_detach(struct msg_conn *conn, struct tls_link *link)
{
    bool surplus = evbuffer_get_length(bufferevent_get_input(conn->bev)) ||
                   evbuffer_get_length(msg_conn_input(conn)) ||
                   (conn->tls && tls_surplus(conn->tls));
    int ret = surplus ? -EPROTO : msg_conn_flush(conn);

    *link = (struct tls_link){-1, NULL};
    if (!ret) {
        link->fd = fcntl(bufferevent_getfd(conn->bev), F_DUPFD_CLOEXEC, 0);
        ret = link->fd < 0 ? -errno : 0;
    }
    if (!ret)
        fcntl(link->fd, F_SETFL, fcntl(link->fd, F_GETFL) & ~O_NONBLOCK);
    if (!ret && conn->tls) {
        ret = tls_use_socket(conn->tls, link->fd);
        link->tls = conn->tls;
        conn->tls = NULL;
    }
    if (ret)
        tls_link_close(link);
    msg_conn_drop(conn);
    return ret;
}

const char *msg_conn_cipher(const struct msg_conn *conn)
{
    return conn->tls ? tls_cipher(conn->tls) : NULL;
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
