/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Encryption between daemons: TLS 1.3, both sides with certificates.
 *
 * A connection begins in the main thread, which owns its socket and hands the
 * bytes in and out (tls_take(), tls_put()). One that becomes a page channel is
 * given its socket (tls_use_socket()); from then on one thread may write while
 * another reads. What OpenSSL allocates to work in is never dumped.
 */
#ifndef REMAPD_TLS_H
#define REMAPD_TLS_H

#include <event2/buffer.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define TLS_NAME_BYTES 100 /* of a host, with its end */
#define TLS_IS_CLEAR                                                           \
    "one side speaks TLS, the other does not: see tls in remapd.conf(5)"

enum tls_mode { TLS_OFF, TLS_ON, TLS_AUTO, TLS_MODES };

/* Which files, all PEM. */
struct tls_files {
    const char *ca;
    const char *server_cert, *server_key, *client_cert, *client_key;
    const char *allow; /* names of clients, with commas between; NULL: all */
};

struct tls;

/* A connected socket, and what encrypts it. */
struct tls_link {
    int fd;
    struct tls *tls; /* NULL: nothing does */
};

/* Why there is no connection, where tls_accept() or tls_connect() has none. */
#define TLS_NO_CERTIFICATES                                                    \
    "encryption is wanted, and this host has no certificates: see tls in "     \
    "remapd.conf(5)"

/** tls_link_close() - fine if there is none. */
void tls_link_close(struct tls_link *link);

/**
 * tls_load() - read certificates and keys for connections from now on.
 * @error: ERROR_TEXT_BYTES, which file is wrong, and how
 *
 * Main thread. Return: 0, or -EINVAL; then those read before stay.
 */
int tls_load(const struct tls_files *files, char *error);

/** tls_unload() - free what tls_load() has read. */
void tls_unload(void);

/** tls_wanted() - does @mode want a connection to or at @address encrypted?
 * TLS_AUTO does, but on loopback. */
bool tls_wanted(enum tls_mode mode, const struct sockaddr *address);

/** tls_name() - the first name in this host's server certificate, for tickets;
 * "" if there is none. Valid until the next tls_load(). */
const char *tls_name(void);

/** tls_accept() - for a connection that a client has opened. Return: NULL if
 * no certificates have been loaded. Main thread. */
struct tls *tls_accept(void);

/**
 * tls_connect() - for a connection to a server whose certificate must be for
 * @address, numeric, or for @name, if that is not empty.
 * Return: NULL if no certificates have been loaded. Main thread.
 */
struct tls *tls_connect(const char *address, const char *name);

/** tls_free() - NULL is fine. */
void tls_free(struct tls *tls);

/**
 * tls_take() - take what has arrived out of @wire; what it says goes to
 * @plain, what TLS itself has to answer to @out. Main thread.
 * Return: 0, or -EPROTO; then @out may hold an alert, and tls_reason() says
 * what was wrong.
 */
int tls_take(struct tls *tls, struct evbuffer *wire, struct evbuffer *plain,
             struct evbuffer *out);

/** tls_put() - encrypt @bytes at @data into @out. Main thread. Return: 0, or
 * -EPROTO if there is no connection yet, or none any more. */
int tls_put(struct tls *tls, const void *data, size_t bytes,
            struct evbuffer *out);

/** tls_ready() - is the handshake done, and the other side known? */
bool tls_ready(const struct tls *tls);

/** tls_is_clear() - has tls_take() failed since the client speaks no TLS? Then
 * it can be told so as it understands it. */
bool tls_is_clear(const struct tls *tls);

/** tls_surplus() - has more arrived than has been read? */
bool tls_surplus(const struct tls *tls);

/** tls_reason() - what has gone wrong, for people. */
const char *tls_reason(const struct tls *tls);

/** tls_cipher() - its name, for people. */
const char *tls_cipher(const struct tls *tls);

/** tls_use_socket() - from now on @tls reads and writes @fd, connected and
 * blocking, by the calls below. Main thread. Return: 0 or -ENOMEM. */
int tls_use_socket(struct tls *tls, int fd);

/** tls_writev() - encrypt and send some of @iov, at least a byte; blocks. Any
 * thread, one at a time. Return: how many bytes, or -errno. */
ssize_t tls_writev(struct tls *tls, const struct iovec *iov, unsigned count);

/** tls_read() - receive at most @bytes to @data, which no other process can
 * pull away; blocks. Any thread, one at a time. Return: how many, 0 at the end,
 * or -errno. */
ssize_t tls_read(struct tls *tls, void *data, size_t bytes);

#endif
