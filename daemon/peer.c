/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "listener.h"
#include "log.h"
#include "msg.h"
#include "service.h"
#include "session.h"
#include "wire.h"

/* Who has connected but not said hello: few, and not for long. */
#define PEER_MAX_STRANGERS 128
#define PEER_HELLO_SECONDS 5
#define PEER_BACKLOG       128

struct stranger {
    struct stranger *next; /* it has connected later than this one has */
    struct msg_conn *conn;
    struct in6_addr host;
    struct event *timeout;
};

static struct evconnlistener *listener;
static struct stranger *strangers;
static unsigned stranger_count, port;
static enum tls_mode mode;
static char name[INET6_ADDRSTRLEN + sizeof("[]:65535")];

static void stranger_free(struct stranger *stranger)
{
    struct stranger **link = &strangers;

    while (*link != stranger)
        link = &(*link)->next;
    *link = stranger->next;
    stranger_count--;
    msg_conn_free(stranger->conn);
    event_free(stranger->timeout);
    free(stranger);
}

static void stranger_abort(struct stranger *stranger, const char *reason)
{
    Remapd__Abort abort_body = REMAPD__ABORT__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    abort_body.reason = (char *)(uintptr_t)reason;
    message.body_case = REMAPD__MESSAGE__BODY_ABORT;
    message.abort = &abort_body;
    msg_conn_send(stranger->conn, &message);
    stranger_free(stranger);
}

static void stranger_refuse(struct stranger *stranger, const char *reason)
{
    log_warning("%s: refused: %s", msg_conn_peer(stranger->conn), reason);
    stranger_abort(stranger, reason);
}

static void stranger_message(void *owner, const Remapd__Message *message)
{
    struct stranger *stranger = owner;
    const Remapd__Hello *hello = message->hello;
    struct session *session;
    struct msg_conn *conn;
    char error[ERROR_TEXT_BYTES];

    if (message->body_case != REMAPD__MESSAGE__BODY_HELLO ||
        hello->magic != WIRE_MAGIC || hello->kind > REMAPD__HELLO__KIND__BULK) {
        stranger_refuse(stranger, "that was no hello");
        return;
    }
    if (hello->version != WIRE_VERSION) {
        snprintf(error, sizeof(error),
                 "protocol version %u, this remapd "
                 "speaks %u",
                 hello->version, WIRE_VERSION);
        stranger_refuse(stranger, error);
        return;
    }
    session = session_find(hello->session.data, hello->session.len);
    if (!session) {
        stranger_refuse(stranger, "there is no such session");
        return;
    }
    conn = stranger->conn;
    if (session_join(session, conn, hello, error)) {
        stranger_refuse(stranger, error);
        return;
    }
    stranger->conn = NULL; /* it is the session's now */
    stranger_free(stranger);
}

static void stranger_closed(void *owner, const char *reason)
{
    struct stranger *stranger = owner;

    log_warning("%s: no hello: %s", msg_conn_peer(stranger->conn), reason);
    stranger_abort(stranger, reason);
}

static const struct msg_handlers stranger_handlers = {
    .message = stranger_message,
    .closed = stranger_closed,
};

static void stranger_timeout(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    stranger_refuse(opaque, "no hello in time");
}

/* IPv4's as IPv6's, of which the network: a host has a whole one to choose
 * addresses from. All zeros for what is neither. */
static struct in6_addr peer_host(const struct sockaddr *address)
{
    const struct sockaddr_in6 *in6 = (const void *)address;
    const struct sockaddr_in *in = (const void *)address;
    struct in6_addr host = {0};

    if (address && address->sa_family == AF_INET6) {
        host = in6->sin6_addr;
        if (!IN6_IS_ADDR_V4MAPPED(&host))
            host.s6_addr32[2] = host.s6_addr32[3] = 0;
    }
    if (address && address->sa_family == AF_INET)
        host.s6_addr32[3] = in->sin_addr.s_addr;
    return host;
}

/* There are too many: the oldest of the host with the most goes, so that a
 * greedy one locks out nobody else. */
static void peer_make_room(void)
{
    struct stranger *oldest = strangers;
    unsigned most = 0;

    for (struct stranger *s = strangers; s; s = s->next) {
        unsigned count = 0;

        for (const struct stranger *t = strangers; t; t = t->next)
            count += IN6_ARE_ADDR_EQUAL(&s->host, &t->host);
        if (count < most)
            continue;
        most = count;
        oldest = s;
    }
    stranger_refuse(oldest, "too many connections without a hello");
}

static void peer_accepted(struct evconnlistener *from, evutil_socket_t fd,
                          struct sockaddr *address, int length, void *opaque)
{
    struct event_base *base = evconnlistener_get_base(from);
    struct timeval timeout = {PEER_HELLO_SECONDS, 0};
    struct tls_link link = {fd, NULL};
    struct sockaddr_storage own = {0};
    socklen_t own_length = sizeof(own);
    struct stranger *stranger;
    bool encrypt;

    (void)length;
    (void)opaque;
    /* By the address that the peer has connected to, which it judges too. */
    getsockname(fd, (struct sockaddr *)&own, &own_length);
    encrypt = tls_wanted(mode, (struct sockaddr *)&own);
    if (encrypt)
        link.tls = tls_accept();
    if (stranger_count >= PEER_MAX_STRANGERS)
        peer_make_room();
    stranger = xcalloc(1, sizeof(*stranger));
    stranger->host = peer_host(address);
    stranger->conn = msg_conn_new(base, link, &stranger_handlers, stranger);
    stranger->timeout = evtimer_new(base, stranger_timeout, stranger);
    if (!stranger->timeout || evtimer_add(stranger->timeout, &timeout))
        abort();
    stranger->next = strangers;
    strangers = stranger;
    stranger_count++;
    if (encrypt && !link.tls)
        stranger_refuse(stranger, TLS_NO_CERTIFICATES);
}

/* Where the listener listens, whoever has bound it. */
static void peer_name(const struct sockaddr_storage *ss)
{
    const struct sockaddr_in6 *in6 = (const void *)ss;
    const struct sockaddr_in *in = (const void *)ss;
    char host[INET6_ADDRSTRLEN] = "";

    if (ss->ss_family == AF_INET6) {
        port = ntohs(in6->sin6_port);
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(name, sizeof(name), "[%s]:%u", host, port);
    } else {
        port = ntohs(in->sin_port);
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(name, sizeof(name), "%s:%u", host, port);
    }
}

bool peer_listen(struct event_base *base, const struct conf *conf)
{
    const char *address = conf->listen;
    const unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC;
    struct sockaddr_storage ss;
    socklen_t length, bound = sizeof(ss);
    int fd = service_socket("peer");

    if (wire_parse(address, &ss, &length))
        die("--listen: %s is not ADDRESS:PORT with a numeric address", address);
    if (fd >= 0 && sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0)
        die("systemd has passed as peer what is no listening stream socket");
    listener = fd >= 0
                   ? evconnlistener_new(base, peer_accepted, NULL, flags, 0, fd)
                   : evconnlistener_new_bind(
                         base, peer_accepted, NULL, flags | LEV_OPT_REUSEABLE,
                         PEER_BACKLOG, (struct sockaddr *)&ss, (int)length);
    if (!listener)
        die("--listen: %s: %s", address, strerror(errno));
    listener_guard(listener);
    if (getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&ss,
                    &bound))
        die("--listen: %s", strerror(errno));
    peer_name(&ss);
    mode = conf->tls;
    return tls_wanted(mode, (struct sockaddr *)&ss);
}

const char *peer_address(void)
{
    return name;
}

unsigned peer_port(void)
{
    return port;
}

void peer_unlisten(void)
{
    while (strangers)
        stranger_free(strangers);
    if (listener)
        evconnlistener_free(listener);
    listener = NULL;
}
