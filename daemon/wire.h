/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What both roles of a session do alike with messages. Main thread. */
#ifndef REMAPD_WIRE_H
#define REMAPD_WIRE_H

#include "session.h"

#define WIRE_MAGIC 0x524d5043u /* "RMPC" */
#ifndef WIRE_VERSION           /* tests build a remapd of another one */
#define WIRE_VERSION 2
#endif

/** wire_address() - a numeric address and a port as the kernel wants them.
 * Return: 0 or -EINVAL. */
int wire_address(const char *host, unsigned port, struct sockaddr_storage *ss,
                 socklen_t *length);

/** wire_parse() - @address, "HOST:PORT" or "[HOST]:PORT", both numeric.
 * Return: 0 or -EINVAL. */
int wire_parse(const char *address, struct sockaddr_storage *ss,
               socklen_t *length);

/** wire_send_block() - tell the peer of @block. */
void wire_send_block(struct session *session, const struct block *block);

/** wire_reads_at_once() - is @fd, from QEMU, memory (memfd, shmem, hugetlbfs)?
 * Reading another file may block without end. */
bool wire_reads_at_once(int fd);

/** wire_take_block() - add QEMU's @message to @table; takes *@fd if it belongs
 * to the block. What is wrong with it fails the session. */
void wire_take_block(struct session *session, struct block_table *table,
                     const struct handoff_block *message, int *fd);

/** wire_send_left() - name the pages of @set, which no thread changes, and
 * their sum. */
void wire_send_left(struct session *session, const struct pageset *set);

/** wire_take_left() - check the peer's @left and call @leave for each run of
 * pages, numbered as in the session. Return: 0, or -EPROTO: then the session is
 * lost. */
int wire_take_left(struct session *session, const Remapd__Left *left,
                   void (*leave)(struct session *session, uint64_t first,
                                 uint64_t pages));

/** wire_take_common() - act on a message that both roles treat alike; any that
 * is left over, @unexpected says what it is, loses the session. */
void wire_take_common(struct session *session, const Remapd__Message *message,
                      const char *unexpected);

/** wire_closed() - the control connection is gone: fine once all is complete,
 * else the session is broken. */
void wire_closed(struct session *session, const char *reason);

/** wire_keep_alive() - speak if we have been silent for a second; the session
 * is broken if the peer has been for too long. */
void wire_keep_alive(struct session *session);

#endif
