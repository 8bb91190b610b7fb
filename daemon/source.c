/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "pageset.h"
#include "present.h"

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

int source_check(pid_t pid)
{
    uint8_t byte;
    struct iovec local = {&byte, 1}, nowhere = {NULL, 1};

    /* The kernel asks who may before it looks what is there: nothing. */
    if (process_vm_readv(pid, &local, 1, &nowhere, 1, 0) < 0 && errno != EFAULT)
        return -errno;
    return 0;
}

/* What anonymous memory in huge pages of hugetlb is called. */
#define ANON_HUGETLB " /anon_hugepage (deleted)"

void source_find_anonymous(pid_t pid, const struct block_table *table,
                           bool *anonymous)
{
    AUTO_FCLOSE FILE *maps = present_maps(pid);
    unsigned long start, end, inode;
    char line[512];

    for (uint32_t i = 0; i < table->count; i++)
        anonymous[i] = maps && table->blocks[i].fd < 0;
    while (maps && fgets(line, sizeof(line), maps)) {
        if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) !=
                3 ||
            !inode || strstr(line, ANON_HUGETLB))
            continue;
        for (uint32_t i = 0; i < table->count; i++) {
            const struct block *block = &table->blocks[i];

            if (start < block->hva + block->length && end > block->hva)
                anonymous[i] = false;
        }
    }
}

bool source_is_hole(int present, const struct block *block, uint64_t offset,
                    unsigned pages)
{
    uint64_t hva = block->hva + offset, mask[PAGESET_MASK_WORDS];

    /* Most that are none say so with their first page. */
    return present_pages(present, hva, 1, mask) && !mask_count(mask) &&
           present_pages(present, hva, pages, mask) && !mask_count(mask);
}

/* One run of pages. A memfd is read, not mapped: reading its holes does not
 * fill them, and nobody can pull it away underneath. */
static int read_run(pid_t pid, const struct block *block, uint64_t offset,
                    uint64_t length, uint8_t *buffer)
{
    struct iovec local = {buffer, length};
    struct iovec remote = {(void *)(uintptr_t)(block->hva + offset), length};
    ssize_t got = block->fd >= 0
                      ? pread(block->fd, buffer, length,
                              (off_t)(block->fd_offset + offset))
                      : process_vm_readv(pid, &local, 1, &remote, 1, 0);

    if (got < 0)
        return -errno;
    return (uint64_t)got == length ? 0 : -EFAULT;
}

int source_read(pid_t pid, const struct block *block, uint64_t offset,
                unsigned pages, const uint64_t *wanted, uint8_t *buffer,
                uint64_t *zero)
{
    unsigned end;

    memset(zero, 0, PAGESET_MASK_WORDS * 8);
    for (unsigned run = mask_run(wanted, pages, 0, &end); run < pages;
         run = mask_run(wanted, pages, end, &end)) {
        int ret = read_run(pid, block, offset + run * PAGE_BYTES,
                           (end - run) * PAGE_BYTES, buffer + run * PAGE_BYTES);

        if (ret)
            return ret;
        for (unsigned page = run; page < end; page++) {
            if (source_page_is_zero(buffer + page * PAGE_BYTES))
                mask_add(zero, page);
        }
    }
    return 0;
}
