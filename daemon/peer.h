/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The network side: connections of other remapd until they have said hello.
 * Main thread. */
#ifndef REMAPD_PEER_H
#define REMAPD_PEER_H

#include <event2/event.h>

#include "conf.h"

/**
 * peer_listen() - accept at the socket that systemd has passed as "peer", or
 * else as conf.listen says, "HOST:PORT" or "[HOST]:PORT", port 0 for any free
 * one. Ends the program with a clear line on error.
 * @conf: stays the caller's, and as it is
 * Return: may peers connect that have to encrypt?
 */
bool peer_listen(struct event_base *base, const struct conf *conf);

/** peer_address() - where it listens, as text. */
const char *peer_address(void);

/** peer_port() - the port in use. */
unsigned peer_port(void);

/** peer_unlisten() - close the listener and who has not said hello. */
void peer_unlisten(void);

#endif
