/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "present.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "block.h"
#include "pageset.h"

/* Present or swapped. Ref: Documentation/admin-guide/mm/pagemap.rst. */
#define PRESENT_MEMORY (3ull << 62)

int present_open(pid_t pid)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

bool present_pages(int fd, uint64_t hva, unsigned pages, uint64_t *mask)
{
    uint64_t entries[PAGESET_MASK_WORDS * 64];
    size_t bytes = pages * sizeof(*entries);

    memset(mask, 0, PAGESET_MASK_WORDS * sizeof(*mask));
    if (fd < 0 ||
        pread(fd, entries, bytes,
              (off_t)(hva / PAGE_BYTES * sizeof(*entries))) != (ssize_t)bytes)
        return false;
    for (unsigned i = 0; i < pages; i++) {
        if (entries[i] & PRESENT_MEMORY)
            mask_add(mask, i);
    }
    return true;
}

static FILE *present_file(pid_t pid, const char *name)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    return fopen(path, "re");
}

uint64_t present_private(pid_t pid)
{
    AUTO_FCLOSE FILE *status = present_file(pid, "status");
    uint64_t kib = 0, value;
    char line[128];

    while (status && fgets(line, sizeof(line), status)) {
        if (sscanf(line, "RssAnon: %" SCNu64, &value) == 1 ||
            sscanf(line, "VmSwap: %" SCNu64, &value) == 1)
            kib += value;
    }
    return kib << 10;
}

FILE *present_maps(pid_t pid)
{
    return present_file(pid, "maps");
}
