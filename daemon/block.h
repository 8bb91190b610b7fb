/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The block table: what guest memory there is.
 *
 * Written by the main thread while a session is set up, read by every thread
 * once pages move, freed after they have stopped.
 */
#ifndef REMAPD_BLOCK_H
#define REMAPD_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "util.h"

#define BLOCK_MAX_COUNT      1024
#define BLOCK_MAX_PAGES      (1ull << 34) /* 64 TiB in one session */
#define BLOCK_MAX_PAGE_BYTES HUGE_BYTES
#define BLOCK_IDSTR_BYTES    256
#define BLOCK_NONE           UINT32_MAX /* no block's index */

struct block {
    uint32_t index;
    char idstr[BLOCK_IDSTR_BYTES];
    uint64_t hva;        /* in the QEMU of this host; 0 if it is not known */
    uint64_t length;     /* bytes, a multiple of page_size */
    uint64_t page_size;  /* bytes: what is placed in one piece at the least */
    uint64_t fd_offset;  /* bytes */
    uint64_t first_page; /* of the session's page numbers, a multiple of 512 */
    uint8_t *map;        /* this daemon's own mapping of fd, or NULL */
    int fd;              /* shared memory, or -1 */
    bool shared;
};

struct block_table {
    struct block *blocks;
    uint32_t count;
    uint64_t pages; /* page numbers in use: the end of the last block's */
};

/**
 * block_table_add() - append a copy of @block, which must bear the next index.
 * @table: zeroed before the first call
 * @block: hva, length, page_size, idstr set; its fd becomes the table's
 * @error: ERROR_TEXT_BYTES, says what is wrong with the block
 *
 * Main thread. Return: 0, -EINVAL, -EEXIST (overlap or same name), -E2BIG.
 */
int block_table_add(struct block_table *table, const struct block *block,
                    char *error);

/** block_table_map() - map the blocks that have an fd, for receiving in place.
 * The daemon itself never touches the mappings, only the kernel on its behalf:
 * an fd that is cut short gives an error, not a signal.
 * Main thread. Return: 0 or -errno, with @error. */
int block_table_map(struct block_table *table, char *error);

/** block_table_page() - the block that holds session page number @page, or
 * NULL where the numbers have a gap. Any thread. */
const struct block *block_table_page(const struct block_table *table,
                                     uint64_t page);

/**
 * block_table_bind() - complete @table, the peer's, with what this host's QEMU
 * handed over: hva, fd, fd_offset, shared. Names, lengths and page sizes must
 * be the same, in order. The fds move from @qemu to @table.
 *
 * Main thread. Return: 0 or -EINVAL, with @error.
 */
int block_table_bind(struct block_table *table, struct block_table *qemu,
                     char *error);

/** block_table_mark() - a number that another table hardly has: names, lengths
 * and page sizes make it. */
uint64_t block_table_mark(const struct block_table *table);

/** block_table_fini() - unmap, close, free; @table is empty again. */
void block_table_fini(struct block_table *table);

#endif
