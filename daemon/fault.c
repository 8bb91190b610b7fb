/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fault.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "frame.h"
#include "log.h"

#define FAULT_BATCH 64 /* messages a read, requests a send */

/* What is fetched with a page that is waited for: as much as costs about the
 * same as to ask, to wake three threads and to answer, but no more than the
 * link carries in so long. */
#define FAULT_WINDOW_BYTES (64u << 10)
#define FAULT_WINDOW_US    200

/* A huge page is fetched whole, unless the best of some tries took longer than
 * this: by the best, for a busy host is slow at times, a slow link always. */
#define FAULT_WHOLE_NS    8000000
#define FAULT_WHOLE_TRIES 4

/* Until then nothing is known of the link, and it is taken to be fast. */
#define FAULT_LEARN_NS 20000000

struct fault_reader {
    const struct place_target *target;
    const struct block_table *table;
    const enum place_engine *engines; /* by block index */
    struct pagemap *map;
    struct channel *channels[THREAD_MAX_CHANNELS];
    unsigned channel_count;
    struct thread_status *status;
    uint64_t started_ns;
    int stop_fd;
    struct thread thread;
};

/* Requests collected for one channel. */
struct fault_batch {
    struct frame_header headers[FAULT_BATCH];
    unsigned count;
};

/* Bytes that the link carries in a microsecond, by what has come so far. */
static uint64_t fault_rate(const struct fault_reader *reader, uint64_t now)
{
    uint64_t elapsed = now - reader->started_ns;

    if (elapsed < FAULT_LEARN_NS)
        return UINT32_MAX;
    return reader->target->stats->data_pages * PAGE_BYTES / (elapsed / 1000);
}

/* What to fetch for a fault in @block: a whole huge page, if the engine can
 * place one and the link has carried one soon enough. */
static uint64_t fault_granule(const struct fault_reader *reader,
                              const struct block *block)
{
    const struct stats *stats = reader->target->stats;

    if (stats->wholes >= FAULT_WHOLE_TRIES &&
        stats->whole_min_ns > FAULT_WHOLE_NS)
        return block->page_size;
    return place_granule(reader->engines[block->index], block);
}

/* What to fetch with a page: a power of two of pages. */
static uint64_t fault_window(const struct fault_reader *reader, uint64_t now)
{
    uint64_t bytes = fault_rate(reader, now) * FAULT_WINDOW_US;
    uint64_t window = FAULT_WINDOW_BYTES;

    while (window > PAGE_BYTES && window > bytes)
        window /= 2;
    return window;
}

/* Put a request for the page at @offset into @batch, unless it has been asked
 * for: all of its granule, if that can be placed whole, or what is around it.
 */
static void fault_ask(struct fault_reader *reader, const struct block *block,
                      uint64_t offset, uint64_t now, struct fault_batch *batch)
{
    uint64_t granule = fault_granule(reader, block);
    uint64_t start = align_down(offset, granule);
    struct frame frame = {.kind = FRAME_REQUEST, .block = block};
    unsigned whole, asked;

    if (granule > block->length - start) {
        granule = block->page_size; /* the block's end is no whole granule */
        start = offset;
    }
    whole = (unsigned)(granule / PAGE_BYTES);
    asked =
        pagemap_request(reader->map, block->first_page + offset / PAGE_BYTES,
                        block->first_page + start / PAGE_BYTES, whole, now);
    if (!asked)
        return;
    if (asked < whole || granule == PAGE_BYTES) {
        granule = MAX(fault_window(reader, now), block->page_size);
        start = align_down(offset, granule);
    }
    frame.offset = start;
    frame.length = MIN(granule, block->length - start);
    frame.wanted = (uint32_t)((offset - start) / PAGE_BYTES);
    frame_pack(&frame, &batch->headers[batch->count++]);
}

/* One fault: answered at once if the page is there, else put into its
 * channel's batch, unless somebody has asked already. */
static int fault_take(struct fault_reader *reader, const struct uffd_msg *msg,
                      uint64_t now, struct fault_batch *batches, char *error)
{
    uint64_t hva = msg->arg.pagefault.address;
    const struct block *block;
    uint64_t offset, page;

    if (msg->event != UFFD_EVENT_PAGEFAULT) {
        snprintf(error, ERROR_TEXT_BYTES, "unexpected userfaultfd event 0x%x",
                 msg->event);
        return -EPROTO;
    }
    block = block_table_at(reader->table, hva);
    if (!block) {
        snprintf(error, ERROR_TEXT_BYTES, "fault outside of all blocks");
        return -EPROTO;
    }
    atomic_fetch_add(&reader->target->stats->faults, 1);
    offset = align_down(hva - block->hva, block->page_size);
    page = block->first_page + offset / PAGE_BYTES;
    if (!pagemap_missing(reader->map, page)) {
        bool minor = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR;
        int ret = place_present(reader->target, block, offset, minor);

        if (ret)
            snprintf(error, ERROR_TEXT_BYTES,
                     "answering a fault on block %.80s: %s", block->idstr,
                     strerror(-ret));
        return ret;
    }
    fault_ask(reader, block, offset, now,
              &batches[page / FRAME_MAX_PAGES % reader->channel_count]);
    return 0;
}

static int fault_serve(struct fault_reader *reader, char *error)
{
    struct fault_batch batches[THREAD_MAX_CHANNELS];
    struct uffd_msg msgs[FAULT_BATCH];
    ssize_t got = read(reader->target->uffd, msgs, sizeof(msgs));
    uint64_t now = now_ns();
    int ret;

    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return 0; /* woken and gone between poll and read */
        snprintf(error, ERROR_TEXT_BYTES, "reading the userfaultfd: %s",
                 strerror(errno));
        return -errno;
    }
    for (unsigned i = 0; i < reader->channel_count; i++)
        batches[i].count = 0;
    for (unsigned i = 0; i < (size_t)got / sizeof(*msgs); i++) {
        ret = fault_take(reader, &msgs[i], now, batches, error);
        if (ret)
            return ret;
    }
    for (unsigned i = 0; i < reader->channel_count; i++) {
        struct iovec iov = {batches[i].headers,
                            batches[i].count * sizeof(struct frame_header)};

        if (!batches[i].count)
            continue;
        ret = channel_send(reader->channels[i], &iov, 1);
        if (ret) {
            snprintf(error, ERROR_TEXT_BYTES, "sending a request: %s",
                     strerror(-ret));
            return ret;
        }
    }
    return 0;
}

static void fault_main(void *opaque)
{
    struct fault_reader *reader = opaque;
    struct pollfd fds[] = {{.fd = reader->target->uffd, .events = POLLIN},
                           {.fd = reader->stop_fd, .events = POLLIN}};
    char error[ERROR_TEXT_BYTES];

    thread_begin("fault", NULL);
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            abort();
        if (fds[1].revents)
            return;
        if (fds[0].revents & POLLERR) {
            snprintf(error, sizeof(error),
                     "the userfaultfd does not work: is it non-blocking?");
            break;
        }
        if (fds[0].revents & POLLHUP) {
            snprintf(error, sizeof(error), "the guest's memory is gone");
            break;
        }
        if (fds[0].revents && fault_serve(reader, error))
            break;
    }
    thread_status_fail(reader->status, NULL, error);
}

int fault_reader_start(struct fault_reader **result,
                       const struct place_target *target,
                       const struct block_table *table,
                       const enum place_engine *engines, struct pagemap *map,
                       struct channel *const *channels, unsigned count,
                       struct thread_status *status)
{
    struct fault_reader *reader = xcalloc(1, sizeof(*reader));
    int ret;

    *result = NULL;
    reader->target = target;
    reader->table = table;
    reader->engines = engines;
    reader->map = map;
    memcpy(reader->channels, channels, count * sizeof(*channels));
    reader->channel_count = count;
    reader->status = status;
    reader->started_ns = now_ns();
    reader->stop_fd = eventfd(0, EFD_CLOEXEC);
    ret = reader->stop_fd < 0
              ? -errno
              : thread_start(&reader->thread, status, fault_main, reader);
    if (!ret) {
        *result = reader;
        return 0;
    }
    if (reader->stop_fd >= 0)
        close(reader->stop_fd);
    free(reader);
    return ret;
}

void fault_reader_stop(struct fault_reader *reader)
{
    if (!reader)
        return;
    if (eventfd_write(reader->stop_fd, 1))
        abort();
    /* It may be sending into a full channel. */
    for (unsigned i = 0; i < reader->channel_count; i++)
        channel_shutdown(reader->channels[i]);
}

void fault_reader_free(struct fault_reader *reader)
{
    if (!reader)
        return;
    thread_join(&reader->thread);
    close(reader->stop_fd);
    free(reader);
}
