/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's half of the page plane: memory, sender, channel; or, where
 * QEMU lends a hand, memory, splicer, channel.
 *
 * The main thread sets a sender up, starts and stops it. In between it runs
 * one thread a channel: urgent ones answer requests, bulk ones send what is
 * left, first of all around the last request. A connection may be lost: stop,
 * wait for the threads' end, sender_again(), add channels, start.
 */
#ifndef REMAPD_SENDER_H
#define REMAPD_SENDER_H

#include <sys/types.h>

#include "block.h"
#include "channel.h"
#include "pageset.h"
#include "splicer.h"
#include "stats.h"

/* Said by whoever notices it first: a thread that reads, or the hand-off. */
#define SENDER_QEMU_LEFT                                                       \
    "the source's QEMU has left: if it has ended, the pages that are left "    \
    "are lost with it"

struct sender;

/**
 * sender_new() - a sender without channels; all of @table's pages stay unsent.
 * @table: must stay as it is until sender_free()
 * @pid: whose memory blocks without an fd are
 * @stats: counted into
 * @notify_fd: an eventfd, written when sender_error() has something new
 */
struct sender *sender_new(const struct block_table *table, pid_t pid,
                          struct stats *stats, int notify_fd);

/** sender_set_granules() - by block index, bytes that bulk sends in one frame;
 * copied; before start. */
void sender_set_granules(struct sender *sender, const uint32_t *granule);

/** sender_again() - forget the last connection; after the threads' end. */
void sender_again(struct sender *sender);

/** sender_forget() - nothing is to be sent any more; before sender_leave(). */
void sender_forget(struct sender *sender);

/** sender_add_channel() - take over a connected socket; before start.
 * @splicer: that sends on it out of QEMU, or NULL; lent until the threads' end
 */
void sender_add_channel(struct sender *sender, struct tls_link link,
                        enum channel_kind kind, unsigned index,
                        struct splicer *splicer);

/** sender_leave() - @pages pages from @first are to be sent; before start. */
void sender_leave(struct sender *sender, uint64_t first, uint64_t pages);

/** sender_left() - pages that bulk has still to send. Any thread. */
const struct pageset *sender_left(const struct sender *sender);

/** sender_start() - answer requests and send.
 * Return: 0, or -errno if threads cannot be had; then call sender_stop(). */
int sender_start(struct sender *sender);

/** sender_stop() - have all threads end, without waiting for it. */
void sender_stop(struct sender *sender);

/** sender_ended() - have they? The eventfd is written when they have. */
bool sender_ended(const struct sender *sender);

/** sender_free() - close the channels, free; after the threads' end. NULL is
 * fine. */
void sender_free(struct sender *sender);

/** sender_bytes() - memory that the sender's map takes. */
uint64_t sender_bytes(const struct sender *sender);

/** sender_wire_bytes() - bytes sent on all channels. Any thread. */
uint64_t sender_wire_bytes(const struct sender *sender);

/** sender_error() - why a thread has ended early, or NULL. Any thread. */
const char *sender_error(const struct sender *sender);

#endif
