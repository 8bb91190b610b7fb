/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/msg.h without sockets: who would be at the other end of a connection
 * calls memory_msg_say(). Connections have the lowest numbers that are free.
 */
#ifndef REMAPD_TESTS_FUZZ_MEMORY_MSG_H
#define REMAPD_TESTS_FUZZ_MEMORY_MSG_H

#include <fcntl.h>

#include "../../daemon/msg.h"
#include "fuzz.h"

#define MAX_PEERS 32

struct msg_conn {
    const struct msg_handlers *handlers;
    void *owner;
    bool connecting, busy, dead;
    unsigned number; /* MAX_PEERS: nobody is there */
    uint8_t said[4096]; /* the last message sent, if it is no longer */
    size_t said_bytes;
};

static struct msg_conn *msg_conns[MAX_PEERS + 1];

static struct msg_conn *memory_msg_new(const struct msg_handlers *handlers,
                                       void *owner, bool connecting)
{
    struct msg_conn *conn = xcalloc(1, sizeof(*conn));

    conn->handlers = handlers;
    conn->owner = owner;
    conn->connecting = connecting;
    while (conn->number < MAX_PEERS && msg_conns[conn->number])
        conn->number++;
    if (conn->number < MAX_PEERS)
        msg_conns[conn->number] = conn;
    return conn;
}

struct msg_conn *msg_conn_new(struct event_base *base, struct tls_link link,
                              const struct msg_handlers *handlers, void *owner)
{
    (void)base;
    (void)link;
    return memory_msg_new(handlers, owner, false);
}

struct msg_conn *msg_conn_connect(struct event_base *base,
                                  const struct sockaddr *address,
                                  socklen_t length, struct tls *tls,
                                  unsigned timeout_ms,
                                  const struct msg_handlers *handlers,
                                  void *owner)
{
    (void)base;
    (void)address;
    (void)length;
    (void)tls;
    (void)timeout_ms;
    return memory_msg_new(handlers, owner, true);
}

void msg_conn_adopt(struct msg_conn *conn, const struct msg_handlers *handlers,
                    void *owner)
{
    conn->handlers = handlers;
    conn->owner = owner;
}

void msg_conn_allow(struct msg_conn *conn, uint64_t bytes)
{
    REQUIRE(!conn->dead);
    (void)bytes;
}

void msg_conn_send(struct msg_conn *conn, const Remapd__Message *message)
{
    REQUIRE(!conn->dead);
    conn->said_bytes = remapd__message__get_packed_size(message);
    if (conn->said_bytes <= sizeof(conn->said))
        remapd__message__pack(message, conn->said);
}

void msg_conn_free(struct msg_conn *conn)
{
    if (!conn || conn->dead)
        return;
    conn->dead = true;
    if (conn->number < MAX_PEERS)
        msg_conns[conn->number] = NULL;
    if (!conn->busy)
        free(conn);
}

/* Something that can be closed. */
int msg_conn_detach(struct msg_conn *conn, struct tls_link *link)
{
    static int null = -1;

    if (null < 0)
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
    msg_conn_free(conn);
    *link = (struct tls_link){fcntl(null, F_DUPFD_CLOEXEC, 0), NULL};
    return 0;
}

const char *msg_conn_cipher(const struct msg_conn *conn)
{
    REQUIRE(!conn->dead);
    return NULL;
}

const char *msg_conn_peer(const struct msg_conn *conn)
{
    REQUIRE(!conn->dead);
    return "peer";
}

static void memory_msg_end(struct msg_conn *conn)
{
    conn->busy = false;
    if (conn->dead)
        free(conn);
}

/* Those that were to be connected are. */
static void memory_msg_connect_all(void)
{
    for (unsigned i = 0; i < MAX_PEERS; i++) {
        struct msg_conn *conn = msg_conns[i];

        if (!conn || !conn->connecting)
            continue;
        conn->connecting = false;
        conn->busy = true;
        conn->handlers->connected(conn->owner);
        memory_msg_end(conn);
    }
}

static void memory_msg_hang_up(unsigned number)
{
    struct msg_conn *conn = number < MAX_PEERS ? msg_conns[number] : NULL;

    if (!conn)
        return;
    conn->busy = true;
    conn->handlers->closed(conn->owner, "connection closed");
    memory_msg_end(conn);
    memory_msg_connect_all();
}

static void memory_msg_say(unsigned number, const Remapd__Message *message)
{
    struct msg_conn *conn = number < MAX_PEERS ? msg_conns[number] : NULL;

    if (!conn)
        return;
    conn->busy = true;
    conn->handlers->message(conn->owner, message);
    memory_msg_end(conn);
    memory_msg_connect_all();
}

/* What @number was told last, or NULL; to be freed. */
static Remapd__Message *memory_msg_heard(unsigned number)
{
    struct msg_conn *conn = number < MAX_PEERS ? msg_conns[number] : NULL;

    return conn && conn->said_bytes <= sizeof(conn->said)
               ? remapd__message__unpack(NULL, conn->said_bytes, conn->said)
               : NULL;
}

#endif
