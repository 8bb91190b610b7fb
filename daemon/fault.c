/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fault.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

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

/* Where single pages may come ahead of it and do not break it up they do so
 * where the link needs longer than this, which is a bit less than one of 10
 * Gb/s needs; but one in some is fetched whole then, to see whether it still
 * holds.
 */
#define FAULT_AHEAD_NS    1600000
#define FAULT_AHEAD_TRIES 16 /* of fewer the best may be slow by chance */
#define FAULT_AHEAD_PROBE 128

/* Until then nothing is known of the link, and pages come ahead: a new guest
 * goes through many huge pages then. */
#define FAULT_LEARN_NS 20000000

/* How long reading may take where the kernel cannot be told not to wait. */
#define FAULT_READ_MAX_NS 500000000
#define FAULT_SIGNAL      SIGURG

/* In the poll set beside the indices of faulters. */
#define FAULT_POKE   UINT32_MAX
#define FAULT_EVENTS 16

struct fault_reader {
    struct faulters *faulters;
    const struct place_target *target;
    const struct block_table *table;
    struct stats *stats;
    const enum place_engine *engines; /* by block index */
    struct pagemap *map;
    struct thread_status *status, *plane;
    /* Written by the main thread while `connected` is false, and read by the
     * reader's when it is poked through event_fd. */
    struct channel *channels[THREAD_MAX_CHANNELS];
    unsigned offered;
    _Atomic bool stop, offer;
    _Atomic bool connected;      /* the channels are, or may be, in use */
    _Atomic uint64_t reading_ns; /* since when it reads, or 0 */
    int event_fd;
    /* The reader's own. */
    unsigned channel_count;             /* 0: there is nobody to ask */
    uint64_t started_ns, started_pages; /* when that began */
    unsigned ahead;                     /* pages that may come ahead */
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
    return (reader->stats->data_pages - reader->started_pages) * PAGE_BYTES /
           (elapsed / 1000);
}

/* Does a huge page come soon enough that no single page need come ahead of it?
 * By what the link has carried; but that is little where there was little to
 * carry or the cores were busy, so the best of some tries counts as well, which
 * are worth their time unless the link seems to be very slow. */
static bool fault_whole_is_soon(const struct fault_reader *reader, uint64_t now)
{
    const struct stats *stats = reader->stats;
    uint64_t rate = fault_rate(reader, now);

    if (now - reader->started_ns < FAULT_LEARN_NS)
        return false;
    if (rate * (FAULT_AHEAD_NS / 1000) >= HUGE_BYTES)
        return true;
    if (stats->wholes < FAULT_AHEAD_TRIES)
        return rate * (FAULT_WHOLE_NS / 1000) >= HUGE_BYTES;
    return stats->whole_ns <= FAULT_AHEAD_NS;
}

/* Is a huge page of @engine fetched whole for a fault? */
static bool fault_fetches_whole(struct fault_reader *reader,
                                enum place_engine engine, uint64_t now)
{
    const struct stats *stats = reader->stats;

    if (stats->wholes >= FAULT_WHOLE_TRIES && stats->whole_ns > FAULT_WHOLE_NS)
        return false;
    return !place_merges(reader->target, engine) ||
           fault_whole_is_soon(reader, now) ||
           ++reader->ahead % FAULT_AHEAD_PROBE == 0;
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
 * One that was asked for with its huge page, which may lie in a queue of
 * bulk's, is asked for once more if it may come ahead of that. */
static void fault_ask(struct fault_reader *reader, const struct block *block,
                      uint64_t offset, uint64_t now, struct fault_batch *batch)
{
    enum place_engine engine = reader->engines[block->index];
    uint64_t granule = fault_fetches_whole(reader, engine, now)
                           ? place_granule(engine, block)
                           : block->page_size;
    uint64_t start = align_down(offset, granule);
    struct frame frame = {.kind = FRAME_REQUEST,
                          .block = block,
                          .again = place_merges(reader->target, engine)};
    unsigned whole, asked;

    if (granule > block->length - start) {
        granule = block->page_size; /* the block's end is no whole granule */
        start = offset;
    }
    whole = (unsigned)(granule / PAGE_BYTES);
    asked = pagemap_request(
        reader->map, block->first_page + offset / PAGE_BYTES,
        block->first_page + start / PAGE_BYTES, whole, frame.again, now);
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

/* A back end's fault on a page that is there, of which the kernel has something
 * (@minor) or nothing. Around it there are likely more. What fails is woken,
 * and faults again: nobody else is to wait for a back end. */
static void fault_show(struct fault_reader *reader,
                       const struct faulter *faulter,
                       const struct faulter_region *region, uint64_t offset,
                       bool minor)
{
    const struct block *block = &region->block;
    uint64_t end = offset + block->page_size;
    uint64_t limit =
        MIN(align_down(offset, FAULT_WINDOW_BYTES) + FAULT_WINDOW_BYTES,
            region->offset + region->length);

    if (!minor) {
        uint64_t done;

        if (place_copy_ops.zero(&faulter->target, block, offset,
                                block->page_size, &done))
            place_wake(&faulter->target, block, offset, block->page_size);
        return;
    }
    while (end < limit && (block->index == BLOCK_NONE ||
                           !pagemap_missing(reader->map, block->first_page +
                                                             end / PAGE_BYTES)))
        end += block->page_size;
    faulter_show(faulter, block, offset, end - offset);
}

/* One fault: answered at once if the page is there, else put into its
 * channel's batch, if there is anything to ask for. */
static int fault_take(struct fault_reader *reader,
                      const struct faulter *faulter, bool qemu,
                      const struct uffd_msg *msg, uint64_t now,
                      struct fault_batch *batches, char *error)
{
    bool minor = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR;
    uint64_t hva = msg->arg.pagefault.address;
    const struct faulter_region *region;
    const struct block *block;
    uint64_t offset, page;
    int ret;

    if (msg->event != UFFD_EVENT_PAGEFAULT) {
        if (msg->event == UFFD_EVENT_FORK)
            close((int)msg->arg.fork.ufd); /* reading it has opened it */
        snprintf(error, ERROR_TEXT_BYTES, "unexpected userfaultfd event 0x%x",
                 msg->event);
        return -EPROTO;
    }
    region = faulter_region_at(faulter, hva);
    if (!region && qemu) {
        snprintf(error, ERROR_TEXT_BYTES, "fault outside of all blocks");
        return -EPROTO;
    }
    if (!region)
        return 0; /* just mapped: whoever takes QEMU's word for it wakes all */
    atomic_fetch_add(&reader->stats->faults, 1);
    atomic_fetch_add(&faulter->stats->faults, 1);
    block = &region->block;
    offset = align_down(hva - block->hva, block->page_size);
    page = block->first_page + offset / PAGE_BYTES;
    if (block->index == BLOCK_NONE || !pagemap_missing(reader->map, page)) {
        if (!qemu) {
            fault_show(reader, faulter, region, offset, minor);
            return 0;
        }
        /* A huge page may be about to take its place. */
        pagemap_enter(reader->map, page);
        ret = place_present(&faulter->target, block, offset, minor);
        pagemap_leave(reader->map, page);
        if (ret)
            snprintf(error, ERROR_TEXT_BYTES,
                     "answering a fault on block %.80s: %s", block->idstr,
                     strerror(-ret));
        return ret;
    }
    if (reader->channel_count)
        fault_ask(reader, block, offset, now,
                  &batches[page / FRAME_MAX_PAGES % reader->channel_count]);
    return 0;
}

static void fault_send(struct fault_reader *reader, struct fault_batch *batches)
{
    for (unsigned i = 0; i < reader->channel_count; i++) {
        struct iovec iov = {batches[i].headers,
                            batches[i].count * sizeof(struct frame_header)};
        char error[ERROR_TEXT_BYTES];
        int ret =
            batches[i].count ? channel_send(reader->channels[i], &iov, 1) : 0;

        if (!ret)
            continue;
        snprintf(error, sizeof(error), "sending a request: %s", strerror(-ret));
        thread_status_fail(reader->plane, reader->channels[i], error);
        reader->channel_count = 0;
    }
}

/* Read and take what has come from @faulter, which is or was at @index, and ask
 * for what is missing. All that was read is taken, even if a part is wrong. */
static int fault_serve(struct fault_reader *reader,
                       const struct faulter *faulter, unsigned index,
                       char *error)
{
    AUTO_FAULTER struct faulter *newest = NULL;
    struct fault_batch batches[THREAD_MAX_CHANNELS];
    struct uffd_msg msgs[FAULT_BATCH];
    uint64_t now = now_ns();
    int count, ret = 0;

    reader->reading_ns = now;
    count = faulter_read(faulter, msgs, FAULT_BATCH);
    reader->reading_ns = 0;
    if (count == -EAGAIN)
        return 0; /* woken and gone between poll and read */
    if (count < 0) {
        snprintf(error, ERROR_TEXT_BYTES, "reading the userfaultfd: %s",
                 strerror(-count));
        return count;
    }
    /* After reading: regions that are not in it are yet to be woken. */
    newest = faulter_get(reader->faulters, index);
    if (newest)
        faulter = newest;
    for (unsigned i = 0; i < reader->channel_count; i++)
        batches[i].count = 0;
    for (int i = 0; i < count; i++) {
        int wrong = fault_take(reader, faulter, index == FAULTER_QEMU, &msgs[i],
                               now, batches, error);

        if (wrong)
            ret = wrong;
    }
    fault_send(reader, batches);
    return ret;
}

/* Place what had come whole when the last connection, or the last remapd, was
 * lost: the guest may have it already. */
static int fault_finish(struct fault_reader *reader, char *error)
{
    struct pagemap *map = reader->map;
    uint64_t waited_ns;

    for (uint64_t page = pagemap_received_next(map, 0);
         page < map->received.pages;
         page = pagemap_received_next(map, page + 1)) {
        const struct block *block = block_table_page(reader->table, page);
        uint64_t mask[PAGESET_MASK_WORDS], offset;
        unsigned pages;
        int ret;

        if (!block || !place_ops_of(reader->engines[block->index])->in_place)
            continue;
        pages = (unsigned)(block->page_size / PAGE_BYTES);
        offset = align_down((page - block->first_page) * PAGE_BYTES,
                            block->page_size);
        mask_fill(mask, pages);
        ret = place_data(reader->target, reader->engines[block->index], block,
                         offset, block->page_size, NULL);
        if (ret) {
            snprintf(error, ERROR_TEXT_BYTES, "going on: %s",
                     place_strerror(ret));
            return ret;
        }
        pagemap_placed(map, block->first_page + offset / PAGE_BYTES, pages,
                       mask, &waited_ns);
        faulters_show(reader->faulters, block, offset, block->page_size);
    }
    return 0;
}

/* Who waits was heard by somebody who cannot answer any more: have them all say
 * so again. */
static int fault_again(struct fault_reader *reader, char *error)
{
    int ret = fault_finish(reader, error);

    faulters_wake(reader->faulters);
    thread_status_poke(reader->status);
    return ret;
}

/* The main thread has poked. */
static int fault_poked(struct fault_reader *reader, char *error)
{
    eventfd_t value;

    eventfd_read(reader->event_fd, &value);
    reader->channel_count = 0;
    if (!reader->offer) {
        reader->connected = false;
        thread_status_poke(reader->status);
        return 0;
    }
    reader->channel_count = reader->offered;
    reader->started_ns = now_ns();
    reader->started_pages = reader->stats->data_pages;
    return fault_again(reader, error);
}

/* There was an error: of this one, or of who had its place until now? */
static int fault_look(const struct faulter *faulter, char *error)
{
    struct pollfd it = {.fd = faulter->target.uffd, .events = POLLIN};

    if (poll(&it, 1, 0) <= 0 || it.revents & POLLIN)
        return 0;
    snprintf(error, ERROR_TEXT_BYTES,
             "the userfaultfd cannot be waited for any more");
    return -EBADFD;
}

/* Whatever happens on one descriptor. What is wrong with a back end's concerns
 * nobody else. */
static int fault_heed(struct fault_reader *reader,
                      const struct epoll_event *event, char *error)
{
    AUTO_FAULTER struct faulter *faulter = NULL;
    unsigned index = event->data.u32;
    int ret;

    if (index == FAULT_POKE)
        return fault_poked(reader, error);
    faulter = faulter_get(reader->faulters, index);
    if (!faulter)
        return 0; /* gone since */
    ret = event->events & EPOLLIN ? fault_serve(reader, faulter, index, error)
                                  : fault_look(faulter, error);
    if (!ret || index == FAULTER_QEMU)
        return ret;
    log_warning("back end %s: %s: its page faults are not served any more",
                faulter->stats->name, error);
    epoll_ctl(faulters_poll_fd(reader->faulters), EPOLL_CTL_DEL,
              faulter->target.uffd, NULL);
    return 0;
}

static void fault_interrupted(int number)
{
    (void)number;
}

/* Let a signal end a call that waits. */
static void fault_allow_interrupt(void)
{
    const struct sigaction action = {.sa_handler = fault_interrupted};
    sigset_t mask;

    sigemptyset(&mask);
    sigaddset(&mask, FAULT_SIGNAL);
    if (sigaction(FAULT_SIGNAL, &action, NULL) ||
        pthread_sigmask(SIG_UNBLOCK, &mask, NULL))
        abort();
}

static void fault_main(void *opaque)
{
    struct fault_reader *reader = opaque;
    struct epoll_event events[FAULT_EVENTS];
    char error[ERROR_TEXT_BYTES];
    int ret;

    thread_begin("fault", NULL);
    fault_allow_interrupt();
    ret = fault_again(reader, error);
    while (!ret && !reader->stop) {
        int count = epoll_wait(faulters_poll_fd(reader->faulters), events,
                               FAULT_EVENTS, -1);

        if (count < 0 && errno != EINTR)
            abort();
        for (int i = 0; i < count && !ret; i++)
            ret = fault_heed(reader, &events[i], error);
    }
    reader->connected = false;
    if (!reader->stop)
        thread_status_fail(reader->status, NULL, error);
}

int fault_reader_start(struct fault_reader **result, struct faulters *faulters,
                       const struct place_target *target,
                       const struct block_table *table,
                       const enum place_engine *engines, struct pagemap *map,
                       struct thread_status *status,
                       struct thread_status *plane)
{
    struct epoll_event poke = {.events = EPOLLIN, .data.u32 = FAULT_POKE};
    struct fault_reader *reader = xcalloc(1, sizeof(*reader));
    int ret;

    *result = NULL;
    reader->faulters = faulters;
    reader->target = target;
    reader->table = table;
    reader->stats = target->stats;
    reader->engines = engines;
    reader->map = map;
    reader->status = status;
    reader->plane = plane;
    reader->event_fd = eventfd(0, EFD_CLOEXEC);
    ret = reader->event_fd < 0 ||
                  epoll_ctl(faulters_poll_fd(faulters), EPOLL_CTL_ADD,
                            reader->event_fd, &poke)
              ? -errno
              : thread_start(&reader->thread, status, fault_main, reader);
    if (!ret) {
        *result = reader;
        return 0;
    }
    if (reader->event_fd >= 0)
        close(reader->event_fd);
    free(reader);
    return ret;
}

static void fault_reader_poke(struct fault_reader *reader)
{
    if (eventfd_write(reader->event_fd, 1))
        abort();
}

void fault_reader_connect(struct fault_reader *reader,
                          struct channel *const *channels, unsigned count)
{
    memcpy(reader->channels, channels, count * sizeof(*channels));
    reader->offered = count;
    reader->connected = true;
    reader->offer = true;
    fault_reader_poke(reader);
}

void fault_reader_disconnect(struct fault_reader *reader)
{
    if (!reader || !reader->offer)
        return;
    reader->offer = false;
    /* It may be sending into a full channel. */
    for (unsigned i = 0; i < reader->offered; i++)
        channel_shutdown(reader->channels[i]);
    fault_reader_poke(reader);
}

void fault_reader_tick(struct fault_reader *reader)
{
    uint64_t since = reader ? reader->reading_ns : 0;

    /* Just before the call it would be lost: the next tick has another. */
    if (since && now_ns() - since > FAULT_READ_MAX_NS)
        pthread_kill(reader->thread.id, FAULT_SIGNAL);
}

bool fault_reader_connected(const struct fault_reader *reader)
{
    return reader && reader->connected;
}

void fault_reader_stop(struct fault_reader *reader)
{
    if (!reader)
        return;
    fault_reader_disconnect(reader);
    reader->stop = true;
    fault_reader_poke(reader);
}

void fault_reader_free(struct fault_reader *reader)
{
    if (!reader)
        return;
    thread_join(&reader->thread);
    close(reader->event_fd);
    free(reader);
}
