/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The other way: from the guest's fault to the request on an urgent channel. */
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
 * @stats: of the session
 * @engines: by block index
 * @channels: urgent ones, @count of them, 1 or more; their sending side is the
 *            reader's alone until fault_reader_stop()
 * @status: an error ends the thread and is kept there
 *
 * Main thread. Return: 0, or -errno with *@result NULL.
 */
int fault_reader_start(struct fault_reader **result, struct faulters *faulters,
                       struct stats *stats, const enum place_engine *engines,
                       struct pagemap *map, struct channel *const *channels,
                       unsigned count, struct thread_status *status);

/** fault_reader_stop() - have the thread end, without waiting for it. NULL is
 * fine. Main thread. */
void fault_reader_stop(struct fault_reader *reader);

/** fault_reader_free() - after the thread's end. NULL is fine. Main thread. */
void fault_reader_free(struct fault_reader *reader);

#endif
