/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "keep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "block.h"
#include "pageset.h"
#include "util.h"

#define KEEP_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Page numbers that no page has: each block starts at a multiple of 512. */
#define KEEP_GAP_PAGES (512ull * BLOCK_MAX_COUNT)

static size_t keep_map_bytes(uint64_t max_pages)
{
    return align_up(pageset_words(max_pages) * 8, PAGE_BYTES);
}

static size_t keep_bytes(uint64_t max_pages)
{
    return align_up(sizeof(struct keep_record), PAGE_BYTES) +
           KEEP_MAPS * keep_map_bytes(max_pages);
}

static int keep_map(struct keep *keep, int fd, size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (memory == MAP_FAILED)
        return -errno;
    madvise(memory, bytes, MADV_DONTDUMP);
    madvise(memory, bytes, MADV_DONTFORK);
    *keep = (struct keep){.fd = fd, .bytes = bytes, .memory = memory};
    return 0;
}

int keep_init(struct keep *keep, uint32_t role, uint64_t ram_bytes)
{
    uint64_t max_pages =
        MIN(ram_bytes / PAGE_BYTES, BLOCK_MAX_PAGES) + KEEP_GAP_PAGES;
    size_t bytes = keep_bytes(max_pages);
    int fd = memfd_create("remapd-keep", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int ret;

    if (fd < 0)
        return -errno;
    ret = ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, KEEP_SEALS)
              ? -errno
              : keep_map(keep, fd, bytes);
    if (ret) {
        close(fd);
        return ret;
    }
    keep->record = (struct keep_record){.magic = KEEP_MAGIC,
                                        .version = KEEP_VERSION,
                                        .role = role,
                                        .max_pages = max_pages};
    keep_save(keep);
    return 0;
}

static const char *keep_check(const struct keep *keep, uint32_t role,
                              char *text)
{
    const struct keep_record *record = &keep->record;

    if (record->magic != KEEP_MAGIC)
        return "what QEMU has kept is not of a remapd";
    if (record->version != KEEP_VERSION) {
        snprintf(text, ERROR_TEXT_BYTES,
                 "what QEMU has kept is of version %u, this remapd reads %u: "
                 "start the remapd that this migration began with",
                 record->version, KEEP_VERSION);
        return text;
    }
    if (record->max_pages > BLOCK_MAX_PAGES + KEEP_GAP_PAGES ||
        keep_bytes(record->max_pages) != keep->bytes || record->role != role ||
        record->addresses > KEEP_MAX_ADDRESSES)
        return "what QEMU has kept makes no sense";
    for (uint32_t i = 0; i < record->addresses; i++) {
        if (!memchr(record->address[i], 0, sizeof(record->address[i])))
            return "what QEMU has kept has an address that does not end";
    }
    if (!memchr(record->tls_name, 0, sizeof(record->tls_name)))
        return "what QEMU has kept has a name that does not end";
    if (!record->joined)
        return "what QEMU has kept is of a migration that nobody has joined";
    return NULL;
}

int keep_load(struct keep *keep, int fd, uint32_t role, char *error)
{
    int own, ret, seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    struct stat stat;
    const char *wrong;

    /* Sealed, it cannot be pulled away while it is looked at. */
    if (seals < 0 || (seals & KEEP_SEALS) != KEEP_SEALS || fstat(fd, &stat) ||
        stat.st_size < (off_t)sizeof(struct keep_record)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "QEMU gives back something else than it was to keep");
        return -EINVAL;
    }
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    ret = own < 0 ? -errno : keep_map(keep, own, (size_t)stat.st_size);
    if (ret) {
        if (own >= 0)
            close(own);
        snprintf(error, ERROR_TEXT_BYTES, "what QEMU has kept: %s",
                 strerror(-ret));
        return -EINVAL;
    }
    memcpy(&keep->record, keep->memory, sizeof(keep->record));
    wrong = keep_check(keep, role, error);
    if (!wrong)
        return 0;
    if (wrong != error)
        snprintf(error, ERROR_TEXT_BYTES, "%s", wrong);
    keep_fini(keep);
    return -EINVAL;
}

void keep_save(struct keep *keep)
{
    memcpy(keep->memory, &keep->record, sizeof(keep->record));
}

uint64_t *keep_map_words(const struct keep *keep, enum keep_map map,
                         uint64_t pages)
{
    uint64_t max_pages = keep->record.max_pages;
    char *maps =
        (char *)keep->memory + align_up(sizeof(struct keep_record), PAGE_BYTES);

    if (pages > max_pages)
        return NULL;
    return (uint64_t *)(void *)(maps + map * keep_map_bytes(max_pages));
}

void keep_fini(struct keep *keep)
{
    if (!keep->memory)
        return;
    munmap(keep->memory, keep->bytes);
    close(keep->fd);
    explicit_bzero(keep, sizeof(*keep));
}
