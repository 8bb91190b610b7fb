/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The other way: from the guest's fault to the request on an urgent channel.
 *
 * The reader outlives connections. Without one it still answers faults on pages
 * that are there; who waits for others is woken at the next connection, and so
 * asks again.
 */
#ifndef REMAPD_FAULT_H
#define REMAPD_FAULT_H

#include "block.h"
#include "channel.h"
#include "faulter.h"
#include "pagemap.h"
#include "place.h"
#include "thread.h"

struct fault_reader;

/**
 * fault_reader_start() - read faults in a thread of their own.
 * @faulters: whose faults are read
 * @target: by which pages of @table are placed for QEMU
 * @engines: by block index
 * @status: an error of the memory ends the thread and is kept there
 * @plane: an error of a channel is kept there
 *
 * Main thread. Return: 0, or -errno with *@result NULL.
 */
int fault_reader_start(struct fault_reader **result, struct faulters *faulters,
                       const struct place_target *target,
                       const struct block_table *table,
                       const enum place_engine *engines, struct pagemap *map,
                       struct thread_status *status,
                       struct thread_status *plane);

/**
 * fault_reader_connect() - ask for missing pages on @channels from now on.
 * @channels: urgent ones, @count of them, 1 or more; their sending side is the
 *            reader's alone until fault_reader_connected() is false again
 *
 * What has been received but perhaps not placed is placed first. Main thread,
 * while not connected.
 */
void fault_reader_connect(struct fault_reader *reader,
                          struct channel *const *channels, unsigned count);

/** fault_reader_disconnect() - stop asking; shuts the channels down. The main
 * thread is poked when that has been done. NULL is fine. Main thread. */
void fault_reader_disconnect(struct fault_reader *reader);

/**
 * fault_reader_tick() - interrupt a read that waits.
 *
 * For Linux before 6.10, where a back end can have that happen, see
 * faulter_read(): that back end is not served any more. A few times a second,
 * to the thread's end. NULL is fine. Main thread.
 */
void fault_reader_tick(struct fault_reader *reader);

/** fault_reader_connected() - may the reader still use the channels? */
bool fault_reader_connected(const struct fault_reader *reader);

/** fault_reader_stop() - have the thread end, without waiting for it. NULL is
 * fine. Main thread. */
void fault_reader_stop(struct fault_reader *reader);

/** fault_reader_free() - after the thread's end. NULL is fine. Main thread. */
void fault_reader_free(struct fault_reader *reader);

#endif
