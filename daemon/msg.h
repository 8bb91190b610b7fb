/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections to other remapd as the main thread sees them: messages of
 * proto/control.proto, each behind its size, encrypted or not. A connection
 * that turns out to be a page channel is given away by msg_conn_detach().
 */
#ifndef REMAPD_MSG_H
#define REMAPD_MSG_H

#include <event2/event.h>
#include <sys/socket.h>

#include "control.pb-c.h"
#include "tls.h"

#define MSG_MAX_BYTES (64u << 10)

struct msg_conn;

/* What a connection's owner is told. From within a call the owner may free or
 * detach the connection. All in the main thread. */
struct msg_handlers {
    void (*message)(void *owner, const Remapd__Message *message);
    /* Never after msg_conn_free(); the owner frees. */
    void (*closed)(void *owner, const char *reason);
    /* Connected, and sure of who that is; only after msg_conn_connect(). */
    void (*connected)(void *owner);
};

/** msg_conn_new() - take over @link, a connected non-blocking socket. */
struct msg_conn *msg_conn_new(struct event_base *base, struct tls_link link,
                              const struct msg_handlers *handlers, void *owner);

/** msg_conn_connect() - connect to @address, encrypted by @tls, which is taken
 * over, or NULL; give up after @timeout_ms. */
struct msg_conn *
msg_conn_connect(struct event_base *base, const struct sockaddr *address,
                 socklen_t length, struct tls *tls, unsigned timeout_ms,
                 const struct msg_handlers *handlers, void *owner);

/** msg_conn_adopt() - from now on @owner is told, through @handlers. */
void msg_conn_adopt(struct msg_conn *conn, const struct msg_handlers *handlers,
                    void *owner);

/** msg_conn_allow() - let so many @bytes more be queued than a peer that does
 * not read may leave: for a list that is sent at once. Main thread. */
void msg_conn_allow(struct msg_conn *conn, uint64_t bytes);

/** msg_conn_send() - queue @message. What cannot be sent closes @conn; once it
 * is closed, or before the other side is known, nothing is sent. */
void msg_conn_send(struct msg_conn *conn, const Remapd__Message *message);

/** msg_conn_detach() - send what is queued, free @conn and give back its
 * socket in @link; blocking now, unless it is encrypted. Return: 0, -EPROTO if
 * bytes have arrived that nobody has asked for, or -errno; then @link holds
 * nothing. */
int msg_conn_detach(struct msg_conn *conn, struct tls_link *link);

/** msg_conn_cipher() - that encrypts @conn, for people; NULL if none does. */
const char *msg_conn_cipher(const struct msg_conn *conn);

/** msg_conn_free() - close. What is queued is sent as far as the kernel takes
 * it at once. NULL is fine. */
void msg_conn_free(struct msg_conn *conn);

/** msg_conn_peer() - the other side's address as text, for messages. */
const char *msg_conn_peer(const struct msg_conn *conn);

#endif
