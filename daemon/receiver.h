/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's half of the page plane: channel, staging, engine, wake.
 *
 * The main thread sets a receiver up, starts it and stops it. In between it
 * runs one thread that reads faults and, while it is connected, one a channel.
 * A connection may be lost and another one be made at any time: disconnect,
 * wait until it is at rest, add channels, connect.
 */
#ifndef REMAPD_RECEIVER_H
#define REMAPD_RECEIVER_H

#include <sys/types.h>

#include "block.h"
#include "channel.h"
#include "faulter.h"
#include "pagemap.h"
#include "place.h"

struct receiver;

/**
 * receiver_new() - a receiver without channels.
 * @table: of the guest; must stay as it is until receiver_free()
 * @missing, @received: see pagemap_init()
 * @stats: counted into
 * @notify_fd: an eventfd that is written when receiver_error() or
 *             receiver_left() == 0 has something new to say
 */
struct receiver *receiver_new(const struct block_table *table,
                              uint64_t *missing, uint64_t *received,
                              struct stats *stats, int notify_fd);

/** receiver_expect() - @pages pages from @first will come; before start. */
void receiver_expect(struct receiver *receiver, uint64_t first, uint64_t pages);

/** receiver_again() - forget the last connection, and who was receiving what;
 * at rest. */
void receiver_again(struct receiver *receiver);

/** receiver_wanted() - the pages that the source must send; at rest, after
 * receiver_again(). */
const struct pageset *receiver_wanted(const struct receiver *receiver);

/** receiver_add_channel() - take over a connected socket; before connect. */
void receiver_add_channel(struct receiver *receiver, struct tls_link link,
                          enum channel_kind kind, unsigned index);

/** receiver_stage() - have staging for engine remap primed in a thread, so many
 * slots of HUGE_BYTES for each of so many channels, the urgent ones first; they
 * keep it when they are connected anew.
 * Return: 0, or -errno; the engine then cannot be used. */
int receiver_stage(struct receiver *receiver, unsigned urgent,
                   uint32_t urgent_slots, unsigned bulk, uint32_t bulk_slots);

/** receiver_staged() - is all staging primed? True if there is none. */
bool receiver_staged(struct receiver *receiver);

/** receiver_start() - answer the faults of @faulters, as far as that can be
 * done without the source; QEMU's are among them, and its pages are placed by
 * @uffd. Both stay the caller's.
 * @pid: of the QEMU
 * @engines: by block index; read until receiver_free()
 * @placers: one for each channel, in their order, or none; until the end of
 *           the threads
 * Return: 0, or -errno if threads or staging cannot be had; then call
 * receiver_stop(). */
int receiver_start(struct receiver *receiver, int uffd, pid_t pid,
                   struct faulters *faulters, const enum place_engine *engines,
                   struct placer_pool *placers);

/** receiver_connect() - receive on the channels, and ask for what is missing.
 * @huge_pages: how many come whole, at most, and about
 * Return: 0, or -errno; then call receiver_disconnect(). */
int receiver_connect(struct receiver *receiver, uint64_t huge_pages);

/** receiver_disconnect() - have the channels' threads end, without waiting for
 * it. */
void receiver_disconnect(struct receiver *receiver);

/** receiver_rests() - have they? The eventfd is written when they have. */
bool receiver_rests(const struct receiver *receiver);

/** receiver_stalls() - has a channel that owes pages brought nothing for
 * @patience_ns? @error: ERROR_TEXT_BYTES, says which. To be asked again and
 * again, by the main thread. */
bool receiver_stalls(struct receiver *receiver, uint64_t patience_ns,
                     char *error);

/** receiver_tick() - a few times a second, to the threads' end. */
void receiver_tick(struct receiver *receiver);

/** receiver_stop() - have all threads end, without waiting for it; pages stay
 * as they are. */
void receiver_stop(struct receiver *receiver);

/** receiver_collapse() - make huge pages of what is left of what came in
 * pieces, also for the faulters that there are; see collapse.h. After the
 * threads' end: another one then runs, for receiver_ended() to wait for. */
void receiver_collapse(struct receiver *receiver, pid_t pid);

/** receiver_ended() - have they? The eventfd is written when they have. */
bool receiver_ended(const struct receiver *receiver);

/** receiver_free() - close the channels, free; after the threads' end. NULL is
 * fine. */
void receiver_free(struct receiver *receiver);

/** receiver_left() - pages not placed yet. Any thread. */
uint64_t receiver_left(const struct receiver *receiver);

/** receiver_bytes() - memory that the receiver takes, without staging.
 * @constant: result: the part that does not grow with the guest */
uint64_t receiver_bytes(const struct receiver *receiver, uint64_t *constant);

/** receiver_wire_bytes() - bytes received on all channels. */
uint64_t receiver_wire_bytes(const struct receiver *receiver);

/** receiver_broken() - has one of the threads failed that outlive connections,
 * so that a new one will not do? */
bool receiver_broken(const struct receiver *receiver);

/** receiver_error() - why a channel, or else the guest's memory, does not work
 * any more, or NULL. */
const char *receiver_error(const struct receiver *receiver);

#endif
