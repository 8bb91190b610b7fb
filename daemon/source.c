/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "source.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "pageset.h"

#define SOURCE_MAX_RUNS 256 /* of 512 pages, every second one */

bool source_page_is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    /* Most pages that are not zero say so in their first bytes. */
    for (unsigned i = 0; i < PAGE_BYTES / 8; i += 8) {
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] |
            words[i + 4] | words[i + 5] | words[i + 6] | words[i + 7])
            return false;
    }
    return true;
}

/* Holes of a memfd are zero, and touching them through the mapping would
 * fill them. */
static int mark_holes(const struct block *block, uint64_t offset,
                      unsigned pages, uint64_t *holes)
{
    off_t start = (off_t)(block->fd_offset + offset);
    off_t end = start + (off_t)(pages * PAGE_BYTES), at = start;

    memset(holes, 0, PAGESET_MASK_WORDS * 8);
    while (at < end) {
        off_t data = lseek(block->fd, at, SEEK_DATA), hole;

        if (data < 0 && errno != ENXIO)
            return -errno;
        if (data < 0 || data > end)
            data = end;
        for (; at < data; at += PAGE_BYTES)
            mask_add(holes, (unsigned)((at - start) / (off_t)PAGE_BYTES));
        if (at >= end)
            break;
        hole = lseek(block->fd, at, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        at = hole;
    }
    return 0;
}

/* Copy the wanted runs out of the QEMU's memory. */
static int read_runs(pid_t pid, const struct block *block, uint64_t offset,
                     unsigned pages, const uint64_t *wanted, uint8_t *buffer)
{
    struct iovec local[SOURCE_MAX_RUNS], remote[SOURCE_MAX_RUNS];
    unsigned count = 0, end;
    uint64_t total = 0;
    ssize_t got;

    for (unsigned run = mask_run(wanted, pages, 0, &end); run < pages;
         run = mask_run(wanted, pages, end, &end)) {
        size_t length = (end - run) * PAGE_BYTES;
        uint64_t hva = block->hva + offset + run * PAGE_BYTES;

        local[count] = (struct iovec){buffer + run * PAGE_BYTES, length};
        remote[count++] = (struct iovec){(void *)(uintptr_t)hva, length};
        total += length;
    }
    got = process_vm_readv(pid, local, count, remote, count, 0);
    if (got < 0)
        return -errno;
    return (uint64_t)got == total ? 0 : -EFAULT;
}

int source_read(pid_t pid, const struct block *block, uint64_t offset,
                unsigned pages, const uint64_t *wanted, uint8_t *buffer,
                const uint8_t **bytes, uint64_t *zero)
{
    int ret;

    if (block->map) {
        *bytes = block->map + offset;
        ret = mark_holes(block, offset, pages, zero);
    } else {
        *bytes = buffer;
        memset(zero, 0, PAGESET_MASK_WORDS * 8);
        ret = read_runs(pid, block, offset, pages, wanted, buffer);
    }
    if (ret)
        return ret;
    for (unsigned page = 0; page < pages; page++) {
        if (mask_has(wanted, page) && !mask_has(zero, page) &&
            source_page_is_zero(*bytes + page * PAGE_BYTES))
            mask_add(zero, page);
    }
    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        zero[i] &= wanted[i];
    return 0;
}
