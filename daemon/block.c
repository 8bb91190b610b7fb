/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* Page numbers of a block start here, so that a 2 MiB granule of a block is a
 * run of whole words in every pageset. */
#define BLOCK_PAGE_ALIGN 512

static int block_check(const struct block_table *table,
                       const struct block *block, char *error)
{
    if (table->count >= BLOCK_MAX_COUNT ||
        block->length / PAGE_BYTES > BLOCK_MAX_PAGES - table->pages) {
        snprintf(error, ERROR_TEXT_BYTES, "block table too large");
        return -E2BIG;
    }
    if (block->index != table->count) {
        snprintf(error, ERROR_TEXT_BYTES, "block %u out of order, expected %u",
                 block->index, table->count);
        return -EINVAL;
    }
    if (!memchr(block->idstr, 0, sizeof(block->idstr)) || !block->idstr[0]) {
        snprintf(error, ERROR_TEXT_BYTES, "block %u has no name", block->index);
        return -EINVAL;
    }
    if (block->page_size < PAGE_BYTES ||
        block->page_size > BLOCK_MAX_PAGE_BYTES ||
        (block->page_size & (block->page_size - 1))) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "block %.80s has pages of %llu bytes, supported are %llu to "
                 "%llu",
                 block->idstr, (unsigned long long)block->page_size, PAGE_BYTES,
                 BLOCK_MAX_PAGE_BYTES);
        return -EINVAL;
    }
    if (!block->length || block->length % block->page_size ||
        block->hva % block->page_size ||
        block->hva + block->length < block->hva) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "block %.80s: %llu bytes at 0x%llx are not whole pages",
                 block->idstr, (unsigned long long)block->length,
                 (unsigned long long)block->hva);
        return -EINVAL;
    }
    for (uint32_t i = 0; i < table->count; i++) {
        const struct block *other = &table->blocks[i];
        bool overlap = block->hva && block->hva < other->hva + other->length &&
                       other->hva < block->hva + block->length;

        if (overlap || !strcmp(other->idstr, block->idstr)) {
            snprintf(error, ERROR_TEXT_BYTES, "block %.80s %s block %.80s",
                     block->idstr, overlap ? "overlaps" : "is named like",
                     other->idstr);
            return -EEXIST;
        }
    }
    return 0;
}

int block_table_add(struct block_table *table, const struct block *block,
                    char *error)
{
    int ret = block_check(table, block, error);
    struct block *blocks;

    if (ret)
        return ret;
    blocks = realloc(table->blocks, (table->count + 1) * sizeof(*blocks));
    if (!blocks)
        abort();
    table->blocks = blocks;
    blocks[table->count] = *block;
    blocks[table->count].first_page = table->pages;
    table->count++;
    table->pages =
        align_up(table->pages + block->length / PAGE_BYTES, BLOCK_PAGE_ALIGN);
    return 0;
}

int block_table_map(struct block_table *table, char *error)
{
    for (uint32_t i = 0; i < table->count; i++) {
        struct block *block = &table->blocks[i];
        void *map;

        if (block->fd < 0)
            continue;
        map = mmap(NULL, block->length, PROT_READ | PROT_WRITE, MAP_SHARED,
                   block->fd, (off_t)block->fd_offset);
        if (map == MAP_FAILED) {
            int ret = -errno;

            snprintf(error, ERROR_TEXT_BYTES, "mapping block %.80s: %s",
                     block->idstr, strerror(-ret));
            return ret;
        }
        madvise(map, block->length, MADV_HUGEPAGE);
        madvise(map, block->length, MADV_DONTDUMP);
        madvise(map, block->length, MADV_DONTFORK);
        block->map = map;
    }
    return 0;
}

const struct block *block_table_page(const struct block_table *table,
                                     uint64_t page)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct block *block = &table->blocks[i];

        if (page >= block->first_page &&
            page - block->first_page < block->length / PAGE_BYTES)
            return block;
    }
    return NULL;
}

int block_table_bind(struct block_table *table, struct block_table *qemu,
                     char *error)
{
    if (table->count != qemu->count) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "the source has %u blocks, the destination %u", table->count,
                 qemu->count);
        return -EINVAL;
    }
    for (uint32_t i = 0; i < table->count; i++) {
        const struct block *a = &table->blocks[i], *b = &qemu->blocks[i];

        if (strcmp(a->idstr, b->idstr) || a->length != b->length ||
            a->page_size != b->page_size) {
            snprintf(error, ERROR_TEXT_BYTES,
                     "block %u: the source has %.60s (%llu bytes, pages of "
                     "%llu), the destination %.60s (%llu, %llu)",
                     i, a->idstr, (unsigned long long)a->length,
                     (unsigned long long)a->page_size, b->idstr,
                     (unsigned long long)b->length,
                     (unsigned long long)b->page_size);
            return -EINVAL;
        }
    }
    for (uint32_t i = 0; i < table->count; i++) {
        struct block *a = &table->blocks[i], *b = &qemu->blocks[i];

        a->hva = b->hva;
        a->fd = b->fd;
        a->fd_offset = b->fd_offset;
        a->shared = b->shared;
        b->fd = -1;
    }
    return 0;
}

/* FNV-1a. */
static uint64_t mark_add(uint64_t mark, const void *data, size_t bytes)
{
    for (const uint8_t *at = data; bytes; at++, bytes--)
        mark = (mark ^ *at) * 0x100000001b3u;
    return mark;
}

uint64_t block_table_mark(const struct block_table *table)
{
    uint64_t mark = 0xcbf29ce484222325u;

    for (uint32_t i = 0; i < table->count; i++) {
        const struct block *block = &table->blocks[i];

        mark = mark_add(mark, block->idstr, strlen(block->idstr) + 1);
        mark = mark_add(mark, &block->length, sizeof(block->length));
        mark = mark_add(mark, &block->page_size, sizeof(block->page_size));
    }
    return mark;
}

void block_table_fini(struct block_table *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        struct block *block = &table->blocks[i];

        if (block->map)
            munmap(block->map, block->length);
        if (block->fd >= 0)
            close(block->fd);
    }
    free(table->blocks);
    *table = (struct block_table){0};
}
