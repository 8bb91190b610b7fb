/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading the memory of the source's QEMU, and finding what of it is zero. */
#ifndef REMAPD_SOURCE_H
#define REMAPD_SOURCE_H

#include <stdint.h>
#include <sys/types.h>

#include "block.h"

/**
 * source_check() - may this process read the memory of @pid at all?
 *
 * Touches none of it. Any thread. Return: 0 or -errno.
 */
int source_check(pid_t pid);

/**
 * source_read() - the bytes of @pages pages at @offset of @block.
 * @pid: the QEMU, for blocks that have no fd
 * @pages: 1..512
 * @wanted: PAGESET_MASK_WORDS words; pages not in it are not read
 * @buffer: result: pages * 4096 bytes
 * @zero: result: those wanted pages that are zero
 *
 * The guest must be stopped. Any thread.
 * Return: 0, -ESRCH if the QEMU is gone, or -errno.
 */
int source_read(pid_t pid, const struct block *block, uint64_t offset,
                unsigned pages, const uint64_t *wanted, uint8_t *buffer,
                uint64_t *zero);

/**
 * source_find_anonymous() - of which blocks is the QEMU's memory no file's?
 * @anonymous: result: by block index; false, too, if it cannot be known
 *
 * Of a file, what QEMU never touched need not be zero. Reads /proc/PID/maps.
 * Any thread.
 */
void source_find_anonymous(pid_t pid, const struct block_table *table,
                           bool *anonymous);

/**
 * source_is_hole() - has the QEMU no memory at all behind @pages pages?
 * @present: of present_open(), or -1
 * @block: an anonymous one
 *
 * What is a hole is zero, need not be read, and should stay a hole; reading it
 * would fill it. Any thread. Return: false if not, or if it cannot be known.
 */
bool source_is_hole(int present, const struct block *block, uint64_t offset,
                    unsigned pages);

/** source_page_is_zero() - are all 4096 bytes at @page zero? Any thread. */
bool source_page_is_zero(const uint8_t *page);

#endif
