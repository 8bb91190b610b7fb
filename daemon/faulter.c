/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "faulter.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>

struct faulters {
    struct stats *stats;
    int poll_fd;
    pthread_mutex_t lock; /* of the list; held for no system call */
    struct faulter *list[STATS_MAX_FAULTERS];
    _Atomic unsigned top; /* no index above it is in use */
};

_Static_assert(STATS_MAX_FAULTERS == HANDOFF_MAX_FAULTERS &&
                   BLOCK_NONE == HANDOFF_NO_BLOCK,
               "the hand-off's numbers are used as they are");

int faulter_region_parse(const struct block_table *table,
                         const struct handoff_region *message,
                         struct faulter_region *region, char *error)
{
    uint32_t index = be32toh(message->block);
    uint64_t page_size = be64toh(message->page_size);
    uint64_t base = be64toh(message->base);
    const struct block *block = NULL;

    region->offset = be64toh(message->offset);
    region->length = be64toh(message->length);
    if (index < table->count) {
        block = &table->blocks[index];
        region->block = *block;
    } else if (index == BLOCK_NONE) {
        region->block = (struct block){.index = index,
                                       .idstr = "added since",
                                       .page_size = page_size,
                                       .fd = -1,
                                       .shared = true};
    } else {
        snprintf(error, ERROR_TEXT_BYTES, "a region of block %u, of %u", index,
                 table->count);
        return -EINVAL;
    }
    if (!region->block.shared || page_size != region->block.page_size ||
        page_size < PAGE_BYTES || page_size > HUGE_BYTES ||
        (page_size & (page_size - 1)) ||
        (region->offset | region->length | base) % page_size ||
        !region->length || region->offset + region->length < region->length ||
        base + region->length < base ||
        (block && region->offset + region->length > block->length)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "a region of block %.80s: %llu bytes from %llu, at 0x%llx, "
                 "are not whole shared pages of it",
                 region->block.idstr, (unsigned long long)region->length,
                 (unsigned long long)region->offset, (unsigned long long)base);
        return -EINVAL;
    }
    region->block.hva = base - region->offset;
    if (!block)
        region->block.length = region->offset + region->length;
    return 0;
}

struct faulters *faulters_new(struct stats *stats)
{
    int poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct faulters *faulters;

    if (poll_fd < 0)
        return NULL;
    faulters = xcalloc(1, sizeof(*faulters));
    faulters->stats = stats;
    faulters->poll_fd = poll_fd;
    pthread_mutex_init(&faulters->lock, NULL);
    return faulters;
}

struct faulter *faulter_get(struct faulters *faulters, unsigned index)
{
    struct faulter *faulter;

    pthread_mutex_lock(&faulters->lock);
    faulter = faulters->list[index];
    if (faulter)
        faulter->refs++;
    pthread_mutex_unlock(&faulters->lock);
    return faulter;
}

void faulter_put(struct faulter *faulter)
{
    if (!faulter || --faulter->refs)
        return;
    close(faulter->target.uffd);
    free(faulter);
}

static void faulters_exchange(struct faulters *faulters, unsigned index,
                              struct faulter *faulter)
{
    struct faulter *old;

    pthread_mutex_lock(&faulters->lock);
    old = faulters->list[index];
    faulters->list[index] = faulter;
    faulters->top = MAX(faulters->top, index);
    pthread_mutex_unlock(&faulters->lock);
    if (!old)
        return;
    /* Others have this userfaultfd open too: closing it would not do. */
    epoll_ctl(faulters->poll_fd, EPOLL_CTL_DEL, old->target.uffd, NULL);
    faulter_put(old);
}

static void faulter_wake(const struct faulter *faulter)
{
    for (unsigned i = 0; i < faulter->count; i++) {
        const struct faulter_region *region = &faulter->regions[i];

        place_wake(&faulter->target, &region->block, region->offset,
                   region->length);
    }
}

int faulters_set(struct faulters *faulters, unsigned index, const char *name,
                 pid_t pid, int uffd, const struct faulter_region *regions,
                 unsigned count)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    struct faulter *faulter;
    int fd;

    if (!count) {
        faulters_exchange(faulters, index, NULL);
        return 0;
    }
    fd = fcntl(uffd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    fcntl(fd, F_SETFL, O_NONBLOCK); /* or there is nothing to poll for */
    faulter = xcalloc(1, sizeof(*faulter) + count * sizeof(*regions));
    faulter->refs = 1;
    faulter->pid = pid;
    faulter->target.uffd = fd;
    faulter->target.stats = faulters->stats;
    faulter->stats = &faulters->stats->faulters[index];
    snprintf(faulter->stats->name, sizeof(faulter->stats->name), "%s", name);
    memcpy(faulter->regions, regions, count * sizeof(*regions));
    faulter->count = count;
    faulters_exchange(faulters, index, faulter);
    if (epoll_ctl(faulters->poll_fd, EPOLL_CTL_ADD, fd, &event))
        return -errno;
    faulter_wake(faulter); /* its faults may have been read by another remapd */
    return 0;
}

void faulters_wake(struct faulters *faulters)
{
    for (unsigned i = FAULTER_QEMU; i <= faulters->top; i++) {
        struct faulter *faulter = faulter_get(faulters, i);

        if (faulter)
            faulter_wake(faulter);
        faulter_put(faulter);
    }
}

int faulters_set_qemu(struct faulters *faulters, pid_t pid, int uffd,
                      const struct block_table *table)
{
    AUTO_FREE struct faulter_region *regions =
        xcalloc(table->count, sizeof(*regions));

    for (uint32_t i = 0; i < table->count; i++) {
        regions[i].block = table->blocks[i];
        regions[i].length = table->blocks[i].length;
    }
    return faulters_set(faulters, FAULTER_QEMU, "qemu", pid, uffd, regions,
                        table->count);
}

void faulters_free(struct faulters *faulters)
{
    if (!faulters)
        return;
    for (unsigned i = 0; i < STATS_MAX_FAULTERS; i++)
        faulter_put(faulters->list[i]);
    close(faulters->poll_fd);
    pthread_mutex_destroy(&faulters->lock);
    free(faulters);
}

int faulters_poll_fd(const struct faulters *faulters)
{
    return faulters->poll_fd;
}

int faulter_read(const struct faulter *faulter, struct uffd_msg *msgs,
                 unsigned count)
{
    struct iovec iov = {msgs, count * sizeof(*msgs)};
    ssize_t got = preadv2(faulter->target.uffd, &iov, 1, -1, RWF_NOWAIT);

    if (got < 0 && errno == EOPNOTSUPP)
        got = read(faulter->target.uffd, msgs, iov.iov_len);
    return got < 0 ? -errno : (int)((size_t)got / sizeof(*msgs));
}

const struct faulter_region *faulter_region_at(const struct faulter *faulter,
                                               uint64_t hva)
{
    for (unsigned i = 0; i < faulter->count; i++) {
        const struct faulter_region *region = &faulter->regions[i];

        if (hva - region->block.hva - region->offset < region->length)
            return region;
    }
    return NULL;
}

void faulter_show(const struct faulter *faulter, const struct block *block,
                  uint64_t offset, uint64_t length)
{
    while (length) {
        uint64_t done = 0;
        int error = place_continue_ops.data(&faulter->target, block, offset,
                                            length, NULL, &done);

        if (!error)
            done = length;
        faulter->stats->shown_pages += done / PAGE_BYTES;
        if (!done) {
            /* There already, as one page; or not to be had: leave the rest. */
            done = error == EEXIST ? block->page_size : length;
            place_wake(&faulter->target, block, offset, done);
        }
        offset += done;
        length -= done;
    }
}

void faulters_show(struct faulters *faulters, const struct block *block,
                   uint64_t offset, uint64_t length)
{
    for (unsigned i = FAULTER_QEMU + 1; i <= faulters->top; i++) {
        struct faulter *faulter = faulter_get(faulters, i);

        for (unsigned j = 0; faulter && j < faulter->count; j++) {
            const struct faulter_region *region = &faulter->regions[j];
            uint64_t start = MAX(offset, region->offset);
            uint64_t end =
                MIN(offset + length, region->offset + region->length);

            if (region->block.index == block->index && start < end)
                faulter_show(faulter, &region->block, start, end - start);
        }
        faulter_put(faulter);
    }
}
