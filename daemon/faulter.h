/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who faults on the guest's memory: QEMU, and the vhost-user back ends that
 * have mapped the shared blocks too. Each has its own userfaultfd and its own
 * addresses; the pages and the map of them are the same for all.
 *
 * The main thread changes them, at any time; page threads hold the one that
 * they work with, and it stays as it was until they let go.
 */
#ifndef REMAPD_FAULTER_H
#define REMAPD_FAULTER_H

#include <linux/userfaultfd.h>

#include "../proto/handoff.h"
#include "block.h"
#include "place.h"
#include "stats.h"

/* The index of QEMU itself; the others' are their back ends'. */
#define FAULTER_QEMU 0

/* A part of a block, where a faulter has mapped it. */
struct faulter_region {
    struct block block; /* its hva: of the block's first byte, were all of it
                           mapped; its index: BLOCK_NONE for memory that the
                           session does not carry */
    uint64_t offset, length;
};

struct faulter {
    _Atomic unsigned refs;
    struct place_target target; /* its uffd is this faulter's alone */
    struct stats_faulter *stats;
    pid_t pid; /* 0: not known */
    unsigned count;
    struct faulter_region regions[];
};

struct faulters;

/**
 * faulter_region_parse() - what QEMU says of a region, checked.
 * @table: of the session
 * @error: ERROR_TEXT_BYTES, says what is wrong with it
 *
 * Main thread. Return: 0 or -EINVAL.
 */
int faulter_region_parse(const struct block_table *table,
                         const struct handoff_region *message,
                         struct faulter_region *region, char *error);

/** faulters_new() - none yet. @stats: has the name and the figures of each.
 * Main thread. Return: NULL if there is no descriptor left. */
struct faulters *faulters_new(struct stats *stats);

/** faulters_free() - after the end of the threads that use them. NULL is fine.
 */
void faulters_free(struct faulters *faulters);

/**
 * faulters_set() - @index is now this one, in place of what it was.
 * @uffd: made non-blocking; duplicated
 * @regions: @count of them, copied; 0: it is gone
 * @name: up to 63 characters, for the figures
 * @pid: its process, or 0
 *
 * Main thread. Return: 0 or -errno.
 */
int faulters_set(struct faulters *faulters, unsigned index, const char *name,
                 pid_t pid, int uffd, const struct faulter_region *regions,
                 unsigned count);

/** faulters_set_qemu() - the same for QEMU: its regions are the blocks. */
int faulters_set_qemu(struct faulters *faulters, pid_t pid, int uffd,
                      const struct block_table *table);

/** faulters_poll_fd() - an epoll descriptor: readable where somebody faults,
 * the event's u32 is the index. */
int faulters_poll_fd(const struct faulters *faulters);

/** faulter_get() - hold a faulter, or NULL. Any thread. */
struct faulter *faulter_get(struct faulters *faulters, unsigned index);

/** faulter_put() - let go of it. Any thread. */
void faulter_put(struct faulter *faulter);

static inline void faulter_put_auto(struct faulter **faulter)
{
    faulter_put(*faulter);
}
#define AUTO_FAULTER __attribute__((cleanup(faulter_put_auto)))

/**
 * faulter_read() - what has been said on its userfaultfd.
 * @msgs: @count of them
 *
 * A page thread. Never waits, whatever a back end does to the open file that it
 * shares, before or meanwhile; on Linux before 6.10 it does, until there is a
 * signal, if that has made it blocking and has read the last message.
 *
 * Return: how many messages, or -errno; -EAGAIN: none.
 */
int faulter_read(const struct faulter *faulter, struct uffd_msg *msgs,
                 unsigned count);

/** faulter_region_at() - the region of @faulter around @hva, or NULL. */
const struct faulter_region *faulter_region_at(const struct faulter *faulter,
                                               uint64_t hva);

/**
 * faulters_show() - map [offset, offset + length) of @block for the back ends
 * that have it, and wake them.
 *
 * After the page map knows that the range is placed: what cannot be mapped now
 * faults again, and is answered as a fault on a page that is there. Any thread;
 * blocks on the kernel's memory management only.
 */
void faulters_show(struct faulters *faulters, const struct block *block,
                   uint64_t offset, uint64_t length);

/** faulters_wake() - have all who wait for a page fault again. Any thread. */
void faulters_wake(struct faulters *faulters);

/** faulter_show() - the same for one of them. @block: a region's */
void faulter_show(const struct faulter *faulter, const struct block *block,
                  uint64_t offset, uint64_t length);

#endif
