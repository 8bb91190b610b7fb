/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "receiver.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "collapse.h"
#include "fault.h"
#include "frame.h"
#include "present.h"
#include "probe.h"
#include "staging.h"
#include "thread.h"

/* Bulk may rest for so much longer than a peer may be silent: at the source it
 * lets huge pages for faults go first. */
#define BULK_PATIENCE 3

/* A huge page takes the place of pages that are there if it brings so many:
 * else to take them out of the guest costs more than to copy the rest. */
#define MERGE_MIN_PAGES 128

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
    int present; /* of present_open() */
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
    receiver->present = -1;
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

/* The pages that a frame brings, at most 512. */
struct arrival {
    const struct frame *frame;
    const uint64_t *data;                   /* those whose bytes are coming */
    const uint64_t *zero;                   /* those that are zero */
    uint64_t want_data[PAGESET_MASK_WORDS]; /* the part of each that this */
    uint64_t want_zero[PAGESET_MASK_WORDS]; /* thread is to place */
    char *error;
};

static int lost_within_frame(char *error, int ret)
{
    snprintf(error, ERROR_TEXT_BYTES, "connection lost within a frame: %s",
             strerror(-ret));
    return ret;
}

static int arrival_stuck(const struct arrival *arrival, int ret)
{
    const struct frame *frame = arrival->frame;

    snprintf(arrival->error, ERROR_TEXT_BYTES,
             "placing %llu bytes at %llu of block %.80s: %s",
             (unsigned long long)frame->length,
             (unsigned long long)frame->offset, frame->block->idstr,
             place_strerror(ret));
    return ret;
}

/* The payload goes to @to, page by page at its place; pages that are not
 * wanted go to the thread's own buffer, which no core dump holds: all to its
 * beginning, or, where it is @to, to their place in it. */
static int receive_payload(struct receive_thread *thread,
                           const struct arrival *arrival, uint8_t *to)
{
    unsigned pages = frame_pages(arrival->frame), count = 0, end;
    struct iovec iov[FRAME_MAX_PAGES];
    uint8_t *own = thread->worker.buffer;
    int ret;

    for (unsigned run = mask_run(arrival->data, pages, 0, &end); run < pages;
         run = mask_run(arrival->data, pages, end, &end)) {
        for (unsigned page = run; page < end; page++) {
            bool keep = to == own || mask_has(arrival->want_data, page);
            uint8_t *base = keep ? to + page * PAGE_BYTES : own;
            struct iovec *last = count ? &iov[count - 1] : NULL;

            if (last && (uint8_t *)last->iov_base + last->iov_len == base)
                last->iov_len += PAGE_BYTES;
            else
                iov[count++] = (struct iovec){base, PAGE_BYTES};
        }
    }
    ret = channel_recv(&thread->channel, iov, count);
    return ret ? lost_within_frame(arrival->error, ret) : 0;
}

/* Of its pages those that are missing here are the ones to place. */
static void arrival_want(struct receive_thread *thread, struct arrival *arrival,
                         bool claim)
{
    struct pagemap *map = &thread->receiver->map;
    uint64_t first = frame_first_page(arrival->frame);
    unsigned pages = frame_pages(arrival->frame);

    pagemap_want(map, first, pages, arrival->want_data, claim);
    pagemap_want(map, first, pages, arrival->want_zero, claim);
}

/* How many there are to place. */
static unsigned arrival_count(const struct arrival *arrival)
{
    return mask_count(arrival->want_data) + mask_count(arrival->want_zero);
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

/* Its pages came, or were placed, on their own. */
static void note_pieces(struct receiver *receiver, const struct frame *frame)
{
    if (collapser_note(&receiver->collapser, frame_first_page(frame)))
        atomic_fetch_add(&receiver->target.stats->pieces, 1);
}

/* Run by run; the bytes are at @from. */
static int place_pages(struct receive_thread *thread,
                       const struct arrival *arrival, const uint8_t *from)
{
    struct receiver *receiver = thread->receiver;
    const struct frame *frame = arrival->frame;
    enum place_engine engine = receiver->engines[frame->block->index];
    int ret;

    /* A ZERO frame is a hole at the source: no memory for it here. Shared ones
     * have it already. */
    if (place_ops_of(engine)->in_place)
        collapser_note_shared(&receiver->collapser, frame_first_page(frame));
    else if (place_ops_of(engine)->huge && frame->kind != FRAME_ZERO &&
             arrival_count(arrival))
        note_pieces(receiver, frame);
    ret = place_runs(thread, frame, arrival->want_data, from);
    if (!ret)
        ret = place_runs(thread, frame, arrival->want_zero, NULL);
    return ret ? arrival_stuck(arrival, ret) : 0;
}

/* The index of the thread's placer. */
static unsigned own_placer(const struct receive_thread *thread)
{
    return (unsigned)(thread - thread->receiver->threads);
}

/* May it become a huge page although the guest has some of its pages? */
static bool arrival_merges(const struct receive_thread *thread,
                           const struct arrival *arrival)
{
    const struct receiver *receiver = thread->receiver;

    return place_merges(&receiver->target,
                        receiver->engines[arrival->frame->block->index]);
}

/* Back ends see only what the page map knows of; see faulters_show(). */
static void show_pages(struct receive_thread *thread,
                       const struct arrival *arrival)
{
    const struct frame *frame = arrival->frame;
    unsigned pages = frame_pages(frame), end;
    uint64_t all[PAGESET_MASK_WORDS];

    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        all[i] = arrival->want_data[i] | arrival->want_zero[i];
    for (unsigned run = mask_run(all, pages, 0, &end); run < pages;
         run = mask_run(all, pages, end, &end))
        faulters_show(thread->receiver->faulters, frame->block,
                      frame->offset + run * PAGE_BYTES,
                      (end - run) * PAGE_BYTES);
}

/* A huge page came for a fault, which has waited so long; see stats.h. */
static void count_whole(struct receiver *receiver, uint64_t waited_ns)
{
    struct stats *stats = receiver->target.stats;

    if (waited_ns == UINT64_MAX)
        return;
    if (!stats->wholes || waited_ns < stats->whole_ns)
        stats->whole_ns = waited_ns;
    else
        stats->whole_ns = (15 * stats->whole_ns + waited_ns) / 16;
    stats->wholes++;
}

/* The pages are in the guest: tell the map, those who look, and the figures. */
static void arrival_placed(struct receive_thread *thread,
                           struct arrival *arrival)
{
    struct receiver *receiver = thread->receiver;
    struct stats *stats = receiver->target.stats;
    const struct frame *frame = arrival->frame;
    const struct block *block = frame->block;
    bool urgent = thread->channel.kind == CHANNEL_URGENT;
    uint64_t first = frame_first_page(frame), waited_data_ns, waited_zero_ns;
    unsigned pages = frame_pages(frame);
    unsigned data = pagemap_placed(&receiver->map, first, pages,
                                   arrival->want_data, &waited_data_ns);
    unsigned zero = pagemap_placed(&receiver->map, first, pages,
                                   arrival->want_zero, &waited_zero_ns);

    /* They were this thread's alone, whoever has placed them: fault_finish()
     * may have been there first. */
    if (place_ops_of(receiver->engines[block->index])->in_place) {
        data = mask_count(arrival->want_data);
        zero = mask_count(arrival->want_zero);
    }
    if (block->shared)
        show_pages(thread, arrival);
    if (urgent && frame->length >= HUGE_BYTES)
        count_whole(receiver, MIN(waited_data_ns, waited_zero_ns));
    stats_pages(stats, urgent, data, zero);
    atomic_fetch_add(&stats->duplicate_pages, mask_count(arrival->data) +
                                                  mask_count(arrival->zero) -
                                                  data - zero);
    if (!pagemap_left(&receiver->map))
        thread_status_poke(&receiver->status);
}

/* As one huge page. */
static void arrival_placed_whole(struct receive_thread *thread,
                                 struct arrival *arrival)
{
    struct receiver *receiver = thread->receiver;
    struct stats *stats = receiver->target.stats;

    atomic_fetch_add(&stats->huge_pages, 1);
    if (collapser_forget(&receiver->collapser,
                         frame_first_page(arrival->frame)))
        atomic_fetch_sub(&stats->pieces, 1);
    arrival_placed(thread, arrival);
}

/* Page by page, out of @from. */
static int place_arrival(struct receive_thread *thread, struct arrival *arrival,
                         const uint8_t *from)
{
    struct receiver *receiver = thread->receiver;
    uint64_t first = frame_first_page(arrival->frame);
    bool merges = arrival_merges(thread, arrival);
    int ret;

    if (merges) {
        pagemap_enter(&receiver->map, first);
        arrival_want(thread, arrival, false); /* its huge page may have come */
    }
    ret = place_pages(thread, arrival, from);
    if (!ret)
        arrival_placed(thread, arrival);
    if (merges)
        pagemap_leave(&receiver->map, first);
    return ret;
}

/* Shared memory, with what has been decrypted. QEMU can pull it away: the
 * kernel, which says so, writes it. */
static int fill_shared(const struct arrival *arrival, const uint8_t *from,
                       uint8_t *to)
{
    struct iovec local[MASK_MAX_RUNS], remote[MASK_MAX_RUNS];
    unsigned pages = frame_pages(arrival->frame);
    unsigned count = mask_iovecs(arrival->want_data, pages, from, local);
    ssize_t done;

    mask_iovecs(arrival->want_data, pages, to, remote);
    done = process_vm_writev(getpid(), local, count, remote, count, 0);
    if (done < 0)
        return -errno;
    return done == (ssize_t)(mask_count(arrival->want_data) * PAGE_BYTES)
               ? 0
               : -EFAULT;
}

/* Shared memory: off the network into where it stays. */
static int receive_in_place(struct receive_thread *thread,
                            struct arrival *arrival)
{
    const struct frame *frame = arrival->frame;
    uint8_t *place = (uint8_t *)frame->block->map + frame->offset;
    bool copies = channel_copies(&thread->channel);
    uint8_t *to = copies ? thread->worker.buffer : place;
    int ret = receive_payload(thread, arrival, to);

    if (ret)
        return ret;
    if (copies) {
        ret = fill_shared(arrival, to, place);
        if (ret)
            return arrival_stuck(arrival, ret);
    }
    pagemap_received(&thread->receiver->map, frame_first_page(frame),
                     frame_pages(frame), arrival->want_data);
    return place_arrival(thread, arrival, to);
}

/* Off the network into the thread's buffer, and copied from there. */
static int receive_pages(struct receive_thread *thread, struct arrival *arrival)
{
    uint8_t *buffer = thread->worker.buffer;
    int ret = receive_payload(thread, arrival, buffer);

    return ret ? ret : place_arrival(thread, arrival, buffer);
}

/* A huge page: off the network into staging here, and remapped. */
static int receive_into_staging(struct receive_thread *thread,
                                struct arrival *arrival)
{
    struct receiver *receiver = thread->receiver;
    const struct frame *frame = arrival->frame;
    uint8_t *slot = staging_take(thread->staging);
    bool whole;
    int ret;

    if (!slot)
        return receive_pages(thread, arrival);
    ret = receive_payload(thread, arrival, slot);
    if (!ret) {
        ret = place_staged(&receiver->target,
                           receiver->engines[frame->block->index], frame->block,
                           frame->offset, slot, &whole);
        if (ret) {
            arrival_stuck(arrival, ret);
        } else if (whole) {
            arrival_placed_whole(thread, arrival);
        } else {
            note_pieces(receiver, frame);
            arrival_placed(thread, arrival);
        }
    }
    staging_release(thread->staging);
    return ret;
}

/* Off the network into staging in QEMU, by QEMU's placer if the socket can be
 * lent. Return: 0; -EAGAIN if there is none, and the bytes are in the buffer;
 * or what went wrong. */
static int fill_slot(struct receive_thread *thread,
                     const struct arrival *arrival, struct placer_fill *fill,
                     struct placer_slot *slot)
{
    struct placer_pool *placers = thread->receiver->placers;
    unsigned own = own_placer(thread);
    int ret = -EAGAIN;

    if (!placers->deaf)
        fill->fd = channel_lend_in(&thread->channel);
    if (fill->fd >= 0)
        ret = placer_fill(placers, own, fill, slot);
    if (!ret)
        channel_lent(&thread->channel,
                     (uint64_t)mask_count(fill->data) * PAGE_BYTES);
    if (ret == -EAGAIN) {
        fill->fd = -1;
        ret = receive_payload(thread, arrival, fill->buffer);
        return ret ? ret : placer_fill(placers, own, fill, slot);
    }
    if (ret == -EPIPE)
        return lost_within_frame(arrival->error, -ECONNRESET);
    return ret ? arrival_stuck(arrival, ret) : 0;
}

/* The pages of a granule that the guest has, before a slot takes its place. The
 * map alone does not tell: a remapd that was killed has not noted all that it
 * placed. Return: false if that is no good: there are too many, or one is still
 * on its way, or it cannot be known. */
static bool arrival_there(const struct receive_thread *thread,
                          const struct arrival *arrival, uint64_t *there)
{
    struct receiver *receiver = thread->receiver;
    const struct frame *frame = arrival->frame;
    uint64_t missing[PAGESET_MASK_WORDS], present[PAGESET_MASK_WORDS] = {0};
    uint64_t absent = 0;

    mask_fill(missing, FRAME_MAX_PAGES);
    pagemap_want(&receiver->map, frame_first_page(frame), FRAME_MAX_PAGES,
                 missing, false);
    /* Onto anything at all a slot does not move but by being told. */
    if (mask_count(missing) < FRAME_MAX_PAGES &&
        (!arrival_merges(thread, arrival) ||
         !present_pages(receiver->present, frame->block->hva + frame->offset,
                        FRAME_MAX_PAGES, present)))
        return false;
    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++) {
        there[i] = ~missing[i] | present[i];
        absent |= ~there[i] & ~(arrival->data[i] | arrival->zero[i]);
    }
    return !absent && mask_count(there) <= FRAME_MAX_PAGES - MERGE_MIN_PAGES;
}

/* The slot takes the place of what the guest has of it. Return: 0, or -EAGAIN
 * if its pages are to be copied. */
static int move_slot(struct receive_thread *thread, struct arrival *arrival,
                     const struct placer_slot *slot)
{
    struct receiver *receiver = thread->receiver;
    const struct frame *frame = arrival->frame;
    uint64_t first = frame_first_page(frame), there[PAGESET_MASK_WORDS];
    int ret = -EAGAIN;

    pagemap_enter(&receiver->map, first);
    if (arrival_there(thread, arrival, there))
        ret =
            place_slot(&receiver->target, receiver->placers, own_placer(thread),
                       slot, frame->block, frame->offset, there);
    if (!ret)
        arrival_placed_whole(thread, arrival);
    pagemap_leave(&receiver->map, first);
    return ret;
}

/* A huge page: into a slot of staging in QEMU, and moved there. */
static int receive_through_placer(struct receive_thread *thread,
                                  struct arrival *arrival)
{
    struct placer_pool *placers = thread->receiver->placers;
    unsigned own = own_placer(thread);
    struct placer_fill fill = {
        .data = arrival->data, .buffer = thread->worker.buffer, .fd = -1};
    struct placer_slot slot;
    int ret = fill_slot(thread, arrival, &fill, &slot);

    if (ret == -EAGAIN)
        return place_arrival(thread, arrival, fill.buffer);
    if (ret)
        return ret;
    ret = move_slot(thread, arrival, &slot);
    if (ret == -ESRCH)
        arrival_stuck(arrival, ret);
    if (ret == -EAGAIN)
        ret = placer_read(&slot, &fill)
                  ? lost_within_frame(arrival->error, -ECONNRESET)
                  : place_arrival(thread, arrival, fill.buffer);
    placer_done(placers, own, &slot);
    return ret;
}

/* Is it a huge page, of which nothing is there yet, or not too much? */
static bool arrival_is_whole(const struct receive_thread *thread,
                             const struct arrival *arrival)
{
    const struct frame *frame = arrival->frame;
    unsigned pages = arrival_count(arrival);

    return frame->length == HUGE_BYTES && frame->offset % HUGE_BYTES == 0 &&
           frame->kind != FRAME_ZERO &&
           (pages == FRAME_MAX_PAGES ||
            (pages >= MERGE_MIN_PAGES && arrival_merges(thread, arrival)));
}

/* From the network into the guest: the way that pages go. */
static int receive_range(struct receive_thread *thread,
                         const struct frame *frame, const uint64_t *data,
                         const uint64_t *zero, char *error)
{
    struct receiver *receiver = thread->receiver;
    const struct place_ops *ops =
        place_ops_of(receiver->engines[frame->block->index]);
    struct arrival arrival = {
        .frame = frame, .data = data, .zero = zero, .error = error};

    memcpy(arrival.want_data, data, sizeof(arrival.want_data));
    memcpy(arrival.want_zero, zero, sizeof(arrival.want_zero));
    arrival_want(thread, &arrival, ops->in_place);
    if (ops->in_place)
        return receive_in_place(thread, &arrival);
    if (!ops->huge || !arrival_is_whole(thread, &arrival))
        return receive_pages(thread, &arrival);
    if (ops->staged)
        return receive_into_staging(thread, &arrival);
    return receive_through_placer(thread, &arrival);
}

static int receive_sparse(struct receive_thread *thread,
                          const struct frame *frame, char *error)
{
    struct frame_masks masks;
    struct iovec iov = {&masks, sizeof(masks)};
    uint64_t data[PAGESET_MASK_WORDS], zero[PAGESET_MASK_WORDS];
    int ret = channel_recv_exactly(&thread->channel, &iov);

    if (ret)
        return lost_within_frame(error, ret);
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
    if (receiver->present < 0)
        receiver->present = present_open(pid);
    receiver->target.merges =
        receiver->present >= 0 && placers->takes && probe_frees_page_tables();
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

int receiver_connect(struct receiver *receiver, uint64_t huge_pages)
{
    uint64_t granules =
        MIN(huge_pages, pagemap_left(&receiver->map) / FRAME_MAX_PAGES);
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

void receiver_tick(struct receiver *receiver)
{
    fault_reader_tick(receiver->fault_reader);
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
    if (receiver->present >= 0)
        close(receiver->present);
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
