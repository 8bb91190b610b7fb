/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "receiver.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "collapse.h"
#include "fault.h"
#include "frame.h"
#include "staging.h"
#include "thread.h"

/* Bulk may rest for so much longer than a peer may be silent: at the source it
 * lets huge pages for faults go first. */
#define BULK_PATIENCE 3

struct receive_thread {
    struct receiver *receiver;
    struct channel channel;
    struct thread worker;    /* its buffer is this thread's staging */
    struct staging *staging; /* for whole granules, if engine remap is used */
    _Atomic bool ended;      /* bulk: the source has sent its all */
    uint64_t seen_bytes, seen_ns; /* what had come when the main thread looked,
                                     and since when it was no more */
};

struct receiver {
    const struct block_table *table;
    const enum place_engine *engines;
    struct placer_pool *placers;
    struct faulters *faulters;
    struct place_target target;
    struct pagemap map;
    struct receive_thread threads[THREAD_MAX_CHANNELS];
    unsigned count;
    struct fault_reader *fault_reader;
    struct collapser collapser;
    bool collapses; /* an engine places huge pages */
    struct stager stager;
    uint64_t past_bytes;          /* received on channels that are gone */
    struct thread_status status;  /* of the channels' threads */
    struct thread_status lasting; /* of the others */
};

struct receiver *receiver_new(const struct block_table *table,
                              uint64_t *missing, uint64_t *received,
                              struct stats *stats, int notify_fd)
{
    struct receiver *receiver = xcalloc(1, sizeof(*receiver));

    receiver->table = table;
    receiver->target.stats = stats;
    thread_status_init(&receiver->status, notify_fd);
    thread_status_init(&receiver->lasting, notify_fd);
    pagemap_init(&receiver->map, table->pages, missing, received, stats);
    collapser_init(&receiver->collapser, table, &receiver->map,
                   &receiver->lasting);
    stager_init(&receiver->stager);
    return receiver;
}

void receiver_expect(struct receiver *receiver, uint64_t first, uint64_t pages)
{
    pagemap_expect(&receiver->map, first, pages);
}

static void receiver_drop_channels(struct receiver *receiver)
{
    for (unsigned i = 0; i < receiver->count; i++) {
        thread_join(&receiver->threads[i].worker);
        receiver->past_bytes += receiver->threads[i].channel.received_bytes;
        channel_fini(&receiver->threads[i].channel);
    }
    receiver->count = 0;
}

void receiver_again(struct receiver *receiver)
{
    receiver_drop_channels(receiver);
    thread_status_again(&receiver->status);
    pagemap_again(&receiver->map);
}

const struct pageset *receiver_wanted(const struct receiver *receiver)
{
    return pagemap_wanted(&receiver->map);
}

void receiver_add_channel(struct receiver *receiver, struct tls_link link,
                          enum channel_kind kind, unsigned index)
{
    struct receive_thread *thread = &receiver->threads[receiver->count++];

    thread->receiver = receiver;
    thread->ended = false;
    thread->seen_bytes = 0;
    thread->seen_ns = now_ns();
    channel_init(&thread->channel, link, kind, index);
}

int receiver_stage(struct receiver *receiver, unsigned urgent,
                   uint32_t urgent_slots, unsigned bulk, uint32_t bulk_slots)
{
    for (unsigned i = 0; i < urgent + bulk; i++) {
        struct receive_thread *thread = &receiver->threads[i];

        thread->staging = stager_add(&receiver->stager,
                                     i < urgent ? urgent_slots : bulk_slots);
        if (!thread->staging)
            return -ENOMEM;
    }
    return stager_start(&receiver->stager, &receiver->lasting);
}

bool receiver_staged(struct receiver *receiver)
{
    return stager_primed(&receiver->stager);
}

/* The payload of @data's pages goes to @to, page by page at its place; pages
 * not in @wanted go to the thread's own buffer, which no core dump holds: all
 * to its beginning, or, where it is @to, to their place in it. */
static int receive_payload(struct receive_thread *thread, const uint64_t *data,
                           const uint64_t *wanted, unsigned pages, uint8_t *to)
{
    struct iovec iov[FRAME_MAX_PAGES];
    uint8_t *own = thread->worker.buffer;
    unsigned count = 0, end;

    for (unsigned run = mask_run(data, pages, 0, &end); run < pages;
         run = mask_run(data, pages, end, &end)) {
        for (unsigned page = run; page < end; page++) {
            bool keep = to == own || mask_has(wanted, page);
            uint8_t *base = keep ? to + page * PAGE_BYTES : own;
            struct iovec *last = count ? &iov[count - 1] : NULL;

            if (last && (uint8_t *)last->iov_base + last->iov_len == base)
                last->iov_len += PAGE_BYTES;
            else
                iov[count++] = (struct iovec){base, PAGE_BYTES};
        }
    }
    return channel_recv(&thread->channel, iov, count);
}

/* Shared memory, with what has been decrypted. QEMU can pull it away: the
 * kernel, which says so, writes it. */
static int fill_shared(const struct frame *frame, const uint64_t *mask,
                       const uint8_t *from)
{
    struct iovec local[MASK_MAX_RUNS], remote[MASK_MAX_RUNS];
    unsigned pages = frame_pages(frame);
    unsigned count = mask_iovecs(mask, pages, from, local);
    ssize_t done;

    mask_iovecs(mask, pages, (uint8_t *)frame->block->map + frame->offset,
                remote);
    done = process_vm_writev(getpid(), local, count, remote, count, 0);
    if (done < 0)
        return -errno;
    return done == (ssize_t)(mask_count(mask) * PAGE_BYTES) ? 0 : -EFAULT;
}

static int place_runs(struct receive_thread *thread, const struct frame *frame,
                      const uint64_t *mask, const uint8_t *from)
{
    struct receiver *receiver = thread->receiver;
    enum place_engine engine = receiver->engines[frame->block->index];
    unsigned pages = frame_pages(frame), end;

    for (unsigned run = mask_run(mask, pages, 0, &end); run < pages;
         run = mask_run(mask, pages, end, &end)) {
        uint64_t offset = frame->offset + run * PAGE_BYTES;
        uint64_t length = (end - run) * PAGE_BYTES;
        int ret = from ? place_data(&receiver->target, engine, frame->block,
                                    offset, length, from + run * PAGE_BYTES)
                       : place_zero(&receiver->target, engine, frame->block,
                                    offset, length);

        if (ret)
            return ret;
    }
    return 0;
}

/* A granule as one huge page; as place_whole(). */
static int place_huge(struct receive_thread *thread, const struct frame *frame,
                      struct placer_fill *fill)
{
    struct receiver *receiver = thread->receiver;
    int ret =
        place_whole(&receiver->target, receiver->engines[frame->block->index],
                    receiver->placers, (unsigned)(thread - receiver->threads),
                    frame->block, frame->offset, fill);

    if (!ret)
        atomic_fetch_add(&receiver->target.stats->huge_pages, 1);
    return ret;
}

/* Run by run. */
static int place_pages(struct receive_thread *thread, const struct frame *frame,
                       const uint64_t *data, const uint64_t *zero,
                       const uint8_t *from)
{
    struct receiver *receiver = thread->receiver;
    enum place_engine engine = receiver->engines[frame->block->index];
    int ret;

    /* Zeros alone may be a hole at the source: no memory for them here. Shared
     * ones have it already. */
    if (place_ops_of(engine)->in_place)
        collapser_note_shared(&receiver->collapser, frame_first_page(frame));
    else if (place_ops_of(engine)->huge && mask_count(data) &&
             collapser_note(&receiver->collapser, frame_first_page(frame)))
        atomic_fetch_add(&receiver->target.stats->pieces, 1);
    ret = place_runs(thread, frame, data, from);
    return ret ? ret : place_runs(thread, frame, zero, NULL);
}

/* Have QEMU's placer take the payload off the network, into staging and on into
 * the guest. Return: 0; -EAGAIN if the payload is in @fill's buffer instead;
 * -ENODATA if it is still to be received; or as place_whole(). */
static int receive_through_placer(struct receive_thread *thread,
                                  const struct frame *frame,
                                  struct placer_fill *fill)
{
    struct placer_pool *placers = thread->receiver->placers;
    int ret;

    fill->fd = placers->deaf ? -1 : channel_lend(&thread->channel);
    if (fill->fd < 0)
        return -ENODATA;
    ret = place_huge(thread, frame, fill);
    fill->fd = -1;
    if (fill->taken)
        channel_lent(&thread->channel,
                     (uint64_t)mask_count(fill->data) * PAGE_BYTES);
    return ret == -EAGAIN && !fill->taken ? -ENODATA : ret;
}

/* Back ends see only what the page map knows of; see faulters_show(). */
static void show_pages(struct receive_thread *thread, const struct frame *frame,
                       const uint64_t *data, const uint64_t *zero)
{
    unsigned pages = frame_pages(frame), end;
    uint64_t all[PAGESET_MASK_WORDS];

    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        all[i] = data[i] | zero[i];
    for (unsigned run = mask_run(all, pages, 0, &end); run < pages;
         run = mask_run(all, pages, end, &end))
        faulters_show(thread->receiver->faulters, frame->block,
                      frame->offset + run * PAGE_BYTES,
                      (end - run) * PAGE_BYTES);
}

static void count_pages(struct receive_thread *thread, unsigned data,
                        unsigned zero, unsigned duplicate)
{
    struct stats *stats = thread->receiver->target.stats;

    atomic_fetch_add(&stats->data_pages, data);
    atomic_fetch_add(&stats->zero_pages, zero);
    atomic_fetch_add(&stats->duplicate_pages, duplicate);
    atomic_fetch_add(thread->channel.kind == CHANNEL_URGENT
                         ? &stats->urgent_pages
                         : &stats->bulk_pages,
                     data + zero);
}

/* A huge page came for a fault, which has waited so long; see stats.h. */
static void count_whole(struct receiver *receiver, uint64_t waited_ns)
{
    struct stats *stats = receiver->target.stats;

    if (waited_ns == UINT64_MAX)
        return;
    if (!stats->wholes || waited_ns < stats->whole_min_ns)
        stats->whole_min_ns = waited_ns;
    stats->wholes++;
}

/* Receive, place and account for at most 512 pages: those of @data have bytes
 * coming, those of @zero are zero. */
static int receive_range(struct receive_thread *thread,
                         const struct frame *frame, const uint64_t *data,
                         const uint64_t *zero, char *error)
{
    struct receiver *receiver = thread->receiver;
    const struct block *block = frame->block;
    const struct place_ops *ops = place_ops_of(receiver->engines[block->index]);
    uint64_t first = frame_first_page(frame);
    unsigned pages = frame_pages(frame), placed_data, placed_zero;
    uint64_t waited_data_ns, waited_zero_ns;
    uint64_t want_data[PAGESET_MASK_WORDS], want_zero[PAGESET_MASK_WORDS];
    struct placer_fill fill = {.data = want_data, .fd = -1};
    uint8_t *slot = NULL;
    int lost = 0, ret = -ENODATA;
    bool copies = ops->in_place && channel_copies(&thread->channel), whole;

    memcpy(want_data, data, sizeof(want_data));
    memcpy(want_zero, zero, sizeof(want_zero));
    pagemap_want(&receiver->map, first, pages, want_data, ops->in_place);
    pagemap_want(&receiver->map, first, pages, want_zero, ops->in_place);
    whole = ops->huge && frame->offset % HUGE_BYTES == 0 &&
            frame->kind != FRAME_ZERO &&
            mask_count(want_data) + mask_count(want_zero) == FRAME_MAX_PAGES;
    if (whole && ops->staged) {
        slot = staging_take(thread->staging);
        whole = slot;
    }
    fill.buffer = slot                       ? slot
                  : ops->in_place && !copies ? block->map + frame->offset
                                             : thread->worker.buffer;
    if (whole && !slot)
        ret = receive_through_placer(thread, frame, &fill);
    if (ret == -ENODATA) {
        lost = receive_payload(thread, data, want_data, pages, fill.buffer);
        if (!lost && copies)
            lost = fill_shared(frame, want_data, fill.buffer);
        if (!lost && ops->in_place)
            pagemap_received(&receiver->map, first, pages, want_data);
        ret = lost ? lost : whole ? place_huge(thread, frame, &fill) : -EAGAIN;
    } else if (ret == -EPIPE) {
        lost = -ECONNRESET;
    }
    if (ret == -EAGAIN)
        ret = place_pages(thread, frame, want_data, want_zero, fill.buffer);
    if (slot)
        staging_release(thread->staging);
    if (lost) {
        snprintf(error, ERROR_TEXT_BYTES, "connection lost within a frame: %s",
                 strerror(-lost));
        return lost;
    }
    if (ret) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "placing %llu bytes at %llu of block %.80s: %s",
                 (unsigned long long)frame->length,
                 (unsigned long long)frame->offset, block->idstr,
                 place_strerror(ret));
        return ret;
    }
    placed_data = pagemap_placed(&receiver->map, first, pages, want_data,
                                 &waited_data_ns);
    placed_zero = pagemap_placed(&receiver->map, first, pages, want_zero,
                                 &waited_zero_ns);
    /* They were this thread's alone, whoever has placed them: fault_finish()
     * may have been there first. */
    if (ops->in_place) {
        placed_data = mask_count(want_data);
        placed_zero = mask_count(want_zero);
    }
    if (block->shared)
        show_pages(thread, frame, want_data, want_zero);
    if (thread->channel.kind == CHANNEL_URGENT && frame->length >= HUGE_BYTES)
        count_whole(receiver, MIN(waited_data_ns, waited_zero_ns));
    count_pages(thread, placed_data, placed_zero,
                mask_count(data) + mask_count(zero) - placed_data -
                    placed_zero);
    if (!pagemap_left(&receiver->map))
        thread_status_poke(&receiver->status);
    return 0;
}

static int receive_sparse(struct receive_thread *thread,
                          const struct frame *frame, char *error)
{
    struct frame_masks masks;
    struct iovec iov = {&masks, sizeof(masks)};
    uint64_t data[PAGESET_MASK_WORDS], zero[PAGESET_MASK_WORDS];
    int ret = channel_recv_exactly(&thread->channel, &iov);

    if (ret) {
        snprintf(error, ERROR_TEXT_BYTES, "connection lost within a frame: %s",
                 strerror(-ret));
        return ret;
    }
    ret = frame_masks_parse(frame, &masks, data, zero, error);
    return ret ? ret : receive_range(thread, frame, data, zero, error);
}

static int receive_zero(struct receive_thread *thread,
                        const struct frame *frame, char *error)
{
    static const uint64_t none[PAGESET_MASK_WORDS];
    struct frame part = *frame;
    int ret = 0;

    for (uint64_t done = 0; done < frame->length && !ret; done += part.length) {
        uint64_t zero[PAGESET_MASK_WORDS];

        part.offset = frame->offset + done;
        part.length = MIN(frame->length - done,
                          FRAME_MAX_BYTES - part.offset % FRAME_MAX_BYTES);
        mask_fill(zero, frame_pages(&part));
        ret = receive_range(thread, &part, none, zero, error);
    }
    return ret;
}

static int receive_frame(struct receive_thread *thread, char *error)
{
    static const uint64_t none[PAGESET_MASK_WORDS];
    uint64_t data[PAGESET_MASK_WORDS];
    struct frame frame;
    int ret =
        frame_recv(&thread->channel, thread->receiver->table, &frame, error);

    if (ret)
        return ret;
    switch (frame.kind) {
    case FRAME_DATA:
        mask_fill(data, frame_pages(&frame));
        return receive_range(thread, &frame, data, none, error);
    case FRAME_SPARSE:
        return receive_sparse(thread, &frame, error);
    case FRAME_ZERO:
        return receive_zero(thread, &frame, error);
    case FRAME_END:
        thread->ended = true;
        return 0;
    default:
        snprintf(error, ERROR_TEXT_BYTES, "REQUEST frame from the source");
        return -EPROTO;
    }
}

static void receive_main(void *opaque)
{
    struct receive_thread *thread = opaque;
    struct receiver *receiver = thread->receiver;
    char error[ERROR_TEXT_BYTES];

    thread_begin("recv", &thread->channel);
    while (!receive_frame(thread, error))
        ;
    thread_status_fail(&receiver->status, &thread->channel, error);
}

int receiver_start(struct receiver *receiver, int uffd, pid_t pid,
                   struct faulters *faulters, const enum place_engine *engines,
                   struct placer_pool *placers)
{
    int ret;

    receiver->target.uffd = uffd;
    receiver->faulters = faulters;
    receiver->engines = engines;
    receiver->placers = placers;
    for (uint32_t i = 0; i < receiver->table->count; i++)
        receiver->collapses |= place_ops_of(engines[i])->huge;
    ret = fault_reader_start(
        &receiver->fault_reader, faulters, &receiver->target, receiver->table,
        engines, &receiver->map, &receiver->lasting, &receiver->status);
    /* Last: who starts again after an error must find it not running. */
    if (!ret && receiver->collapses)
        collapser_start(&receiver->collapser, pid, true);
    return ret;
}

int receiver_connect(struct receiver *receiver)
{
    uint64_t granules = pagemap_left(&receiver->map) / FRAME_MAX_PAGES;
    struct channel *urgent[THREAD_MAX_CHANNELS];
    unsigned urgent_count = 0;
    int ret = 0;

    for (unsigned i = 0; i < receiver->count; i++) {
        struct channel *channel = &receiver->threads[i].channel;

        if (receiver->threads[i].staging)
            staging_expect(receiver->threads[i].staging, granules);
        if (channel->kind == CHANNEL_URGENT)
            urgent[urgent_count++] = channel;
        else if (receiver->placers->placers[i])
            placer_expect(receiver->placers->placers[i], granules);
    }
    for (unsigned i = 0; i < receiver->count && !ret; i++)
        ret = thread_start(&receiver->threads[i].worker, &receiver->status,
                           receive_main, &receiver->threads[i]);
    if (!ret)
        fault_reader_connect(receiver->fault_reader, urgent, urgent_count);
    return ret;
}

void receiver_disconnect(struct receiver *receiver)
{
    thread_status_stop(&receiver->status);
    fault_reader_disconnect(receiver->fault_reader);
    for (unsigned i = 0; i < receiver->count; i++)
        channel_shutdown(&receiver->threads[i].channel);
}

bool receiver_rests(const struct receiver *receiver)
{
    return thread_status_ended(&receiver->status) &&
           !fault_reader_connected(receiver->fault_reader);
}

bool receiver_stalls(struct receiver *receiver, uint64_t patience_ns,
                     char *error)
{
    uint64_t now = now_ns(), waiting = pagemap_waiting_ns(&receiver->map);

    for (unsigned i = 0; i < receiver->count; i++) {
        struct receive_thread *thread = &receiver->threads[i];
        bool bulk = thread->channel.kind == CHANNEL_BULK;
        uint64_t bytes = channel_heard_bytes(&thread->channel);
        /* An urgent channel owes something only while somebody waits. */
        uint64_t owes = bulk ? 0 : waiting;
        uint64_t patient_ns = bulk ? BULK_PATIENCE * patience_ns : patience_ns;

        if (bytes != thread->seen_bytes || (bulk && thread->ended)) {
            thread->seen_bytes = bytes;
            thread->seen_ns = now;
        } else if (owes < now && now - owes > patient_ns &&
                   now - thread->seen_ns > patient_ns) {
            snprintf(error, ERROR_TEXT_BYTES,
                     "%s channel %u: nothing has come for %u s",
                     bulk ? "bulk" : "urgent", thread->channel.index,
                     (unsigned)(patient_ns / 1000000000));
            return true;
        }
    }
    return false;
}

void receiver_stop(struct receiver *receiver)
{
    receiver_disconnect(receiver);
    thread_status_stop(&receiver->lasting);
    stager_stop(&receiver->stager);
    fault_reader_stop(receiver->fault_reader);
}

void receiver_collapse(struct receiver *receiver, pid_t pid)
{
    collapser_share(&receiver->collapser, receiver->faulters);
    collapser_start(&receiver->collapser, pid, false);
}

bool receiver_ended(const struct receiver *receiver)
{
    return thread_status_ended(&receiver->status) &&
           thread_status_ended(&receiver->lasting);
}

void receiver_free(struct receiver *receiver)
{
    if (!receiver)
        return;
    fault_reader_free(receiver->fault_reader);
    receiver_drop_channels(receiver);
    stager_fini(&receiver->stager);
    pagemap_fini(&receiver->map);
    collapser_fini(&receiver->collapser);
    thread_status_fini(&receiver->status);
    thread_status_fini(&receiver->lasting);
    free(receiver);
}

uint64_t receiver_left(const struct receiver *receiver)
{
    return pagemap_left(&receiver->map);
}

uint64_t receiver_bytes(const struct receiver *receiver, uint64_t *constant)
{
    *constant = sizeof(*receiver);
    return *constant + pagemap_bytes(&receiver->map) +
           pageset_bytes(&receiver->collapser.pieces);
}

uint64_t receiver_wire_bytes(const struct receiver *receiver)
{
    uint64_t bytes = receiver->past_bytes;

    for (unsigned i = 0; i < receiver->count; i++)
        bytes += receiver->threads[i].channel.received_bytes;
    return bytes;
}

bool receiver_broken(const struct receiver *receiver)
{
    return thread_status_error(&receiver->lasting);
}

const char *receiver_error(const struct receiver *receiver)
{
    const char *error = thread_status_error(&receiver->status);

    return error ? error : thread_status_error(&receiver->lasting);
}
