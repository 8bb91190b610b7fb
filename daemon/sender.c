/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sender.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "frame.h"
#include "pageset.h"
#include "present.h"
#include "source.h"
#include "splicer.h"
#include "thread.h"

#define SENDER_NO_HINT UINT64_MAX

/* To have QEMU send fewer pages takes longer than to copy them. */
#define SENDER_SPLICE_PAGES 32

struct send_thread {
    struct sender *sender;
    struct channel channel;
    struct splicer *splicer; /* or NULL */
    struct thread worker;    /* its buffer: what was read out of the QEMU */
};

struct sender {
    const struct block_table *table;
    pid_t pid;
    int present; /* of present_open() */
    uint32_t *granule;
    bool *anonymous; /* by block index; see source_find_anonymous() */
    struct stats *stats;
    struct pageset left;    /* what bulk has still to send */
    _Atomic uint64_t hint;  /* page number that was asked for last */
    _Atomic unsigned whole; /* huge pages being sent to who waits for them */
    struct send_thread threads[THREAD_MAX_CHANNELS];
    unsigned count;
    uint64_t past_bytes; /* sent on channels that are gone */
    struct thread_status status;
};

struct sender *sender_new(const struct block_table *table, pid_t pid,
                          struct stats *stats, int notify_fd)
{
    struct sender *sender = xcalloc(1, sizeof(*sender));

    sender->table = table;
    sender->pid = pid;
    sender->present = present_open(pid);
    sender->granule = xcalloc(table->count, sizeof(*sender->granule));
    sender->anonymous = xcalloc(table->count, sizeof(*sender->anonymous));
    source_find_anonymous(pid, table, sender->anonymous);
    sender->stats = stats;
    sender->hint = SENDER_NO_HINT;
    thread_status_init(&sender->status, notify_fd);
    pageset_init(&sender->left, table->pages);
    return sender;
}

void sender_set_granules(struct sender *sender, const uint32_t *granule)
{
    memcpy(sender->granule, granule, sender->table->count * sizeof(*granule));
}

static void sender_drop_channels(struct sender *sender)
{
    for (unsigned i = 0; i < sender->count; i++) {
        thread_join(&sender->threads[i].worker);
        sender->past_bytes += sender->threads[i].channel.sent_bytes;
        channel_fini(&sender->threads[i].channel);
    }
    sender->count = 0;
}

void sender_again(struct sender *sender)
{
    sender_drop_channels(sender);
    thread_status_again(&sender->status);
    sender->hint = SENDER_NO_HINT;
    sender->whole = 0;
}

void sender_forget(struct sender *sender)
{
    pageset_fill(&sender->left, NULL, NULL);
}

void sender_add_channel(struct sender *sender, struct tls_link link,
                        enum channel_kind kind, unsigned index,
                        struct splicer *splicer)
{
    struct send_thread *thread = &sender->threads[sender->count++];

    thread->sender = sender;
    thread->splicer = splicer;
    channel_init(&thread->channel, link, kind, index);
}

void sender_leave(struct sender *sender, uint64_t first, uint64_t pages)
{
    pageset_add(&sender->left, first, pages);
}

const struct pageset *sender_left(const struct sender *sender)
{
    return &sender->left;
}

/* A ZERO frame for each run of the pages of @wanted: what QEMU has no memory
 * for takes none there, as zeros of a SPARSE frame may. */
static int send_hole(struct send_thread *thread, const struct frame *frame,
                     const uint64_t *wanted)
{
    struct frame_header headers[MASK_MAX_RUNS];
    unsigned pages = frame_pages(frame), count = 0, end;
    struct iovec iov = {.iov_base = headers};

    for (unsigned run = mask_run(wanted, pages, 0, &end); run < pages;
         run = mask_run(wanted, pages, end, &end)) {
        struct frame zeros = {.kind = FRAME_ZERO,
                              .block = frame->block,
                              .offset = frame->offset + run * PAGE_BYTES,
                              .length = (end - run) * PAGE_BYTES};

        frame_pack(&zeros, &headers[count++]);
    }
    iov.iov_len = count * sizeof(*headers);
    stats_pages(thread->sender->stats, thread->channel.kind == CHANNEL_URGENT,
                0, mask_count(wanted));
    return channel_send(&thread->channel, &iov, 1);
}

/* The pages of @data, which follow their frame's head. Those that QEMU cannot
 * send, and few, have to be read first. */
static int send_spliced(struct send_thread *thread, const struct frame *frame,
                        const uint64_t *data)
{
    const struct block *block = frame->block;
    struct iovec iov[MASK_MAX_RUNS];
    uint64_t zero[PAGESET_MASK_WORDS];
    unsigned pages = frame_pages(frame), count = mask_count(data);
    int ret = -EAGAIN;

    if (count >= SENDER_SPLICE_PAGES)
        ret = splicer_send(thread->splicer, block->hva + frame->offset, data,
                           channel_lend_out(&thread->channel));
    if (!ret) {
        atomic_fetch_add(&thread->sender->stats->spliced_pages, count);
        channel_sent(&thread->channel, (uint64_t)count * FRAME_PAGE);
    }
    if (ret != -EAGAIN)
        return ret;
    ret = source_read(thread->sender->pid, block, frame->offset, pages, data,
                      thread->worker.buffer, zero);
    count = mask_iovecs(data, pages, thread->worker.buffer, iov);
    return ret ? ret : channel_send(&thread->channel, iov, count);
}

/* One frame: as few bytes as say what the pages of @wanted hold. Zeros alone go
 * as SPARSE: who has a huge page of them here is to have one there, even if it
 * goes in parts. If @spliced, the pages have not been read. */
static int send_frame(struct send_thread *thread, struct frame *frame,
                      const uint64_t *wanted, const uint64_t *zero,
                      bool spliced)
{
    struct iovec iov[2 + MASK_MAX_RUNS];
    unsigned pages = frame_pages(frame), count = 1;
    unsigned zero_pages = mask_count(zero);
    unsigned data_pages = mask_count(wanted) - zero_pages;
    uint64_t data[PAGESET_MASK_WORDS];
    struct frame_header header;
    struct frame_masks masks;
    int ret;

    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        data[i] = wanted[i] & ~zero[i];
    frame->payload = data_pages * FRAME_PAGE;
    if (data_pages == pages) {
        frame->kind = FRAME_DATA;
    } else {
        frame->kind = FRAME_SPARSE;
        frame->payload += sizeof(masks);
        for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++) {
            uint64_t words[] = {htole64(data[i]), htole64(zero[i])};

            memcpy(masks.data + i * 8, &words[0], 8);
            memcpy(masks.zero + i * 8, &words[1], 8);
        }
        iov[count++] = (struct iovec){&masks, sizeof(masks)};
    }
    frame_pack(frame, &header);
    iov[0] = (struct iovec){&header, sizeof(header)};
    stats_pages(thread->sender->stats, thread->channel.kind == CHANNEL_URGENT,
                data_pages, zero_pages);
    if (spliced && data_pages) {
        ret = channel_send_head(&thread->channel, iov, count);
        return ret ? ret : send_spliced(thread, frame, data);
    }
    count += mask_iovecs(data, pages, thread->worker.buffer, &iov[count]);
    return channel_send(&thread->channel, iov, count);
}

/* In a block of larger pages a page is zero only if all of it is. */
static void widen_to_pages(const struct block *block, unsigned pages,
                           uint64_t *zero)
{
    unsigned step = (unsigned)(block->page_size / PAGE_BYTES), end;

    if (step == 1)
        return;
    for (unsigned page = 0; page < pages; page += step) {
        unsigned start = mask_run(zero, pages, page, &end);

        if (start == page && end >= page + step)
            continue;
        for (unsigned i = page; i < page + step; i++)
            zero[i / 64] &= ~(1ull << i % 64);
    }
}

/* Is QEMU to send @wanted? Then it has said which of them are @zero. Of a
 * file's memory it sends none: whoever writes to the file would change what the
 * socket refers to. */
static bool splices(struct send_thread *thread, const struct frame *frame,
                    const uint64_t *wanted, uint64_t *zero)
{
    const struct block *block = frame->block;

    return block->page_size == SPLICER_PAGE_BYTES &&
           thread->sender->anonymous[block->index] &&
           mask_count(wanted) >= SENDER_SPLICE_PAGES &&
           channel_lend_out(&thread->channel) >= 0 &&
           splicer_works(thread->splicer) &&
           splicer_find_zeros(thread->splicer, block->hva + frame->offset,
                              wanted, zero);
}

static int read_range(struct send_thread *thread, const struct frame *frame,
                      const uint64_t *wanted, uint64_t *zero, char *error)
{
    const struct block *block = frame->block;
    int ret =
        source_read(thread->sender->pid, block, frame->offset,
                    frame_pages(frame), wanted, thread->worker.buffer, zero);

    if (ret == -ESRCH)
        snprintf(error, ERROR_TEXT_BYTES, SENDER_QEMU_LEFT);
    else if (ret)
        snprintf(error, ERROR_TEXT_BYTES, "reading block %.80s of QEMU: %s",
                 block->idstr, strerror(-ret));
    return ret;
}

/* Send those of @frame's pages that @wanted names. */
static int send_range(struct send_thread *thread, struct frame *frame,
                      const uint64_t *wanted, char *error)
{
    struct sender *sender = thread->sender;
    const struct block *block = frame->block;
    unsigned pages = frame_pages(frame);
    uint64_t zero[PAGESET_MASK_WORDS];
    int ret;

    if (sender->anonymous[block->index] &&
        source_is_hole(sender->present, block, frame->offset, pages)) {
        ret = send_hole(thread, frame, wanted);
    } else {
        bool spliced = splices(thread, frame, wanted, zero);

        ret = spliced ? 0 : read_range(thread, frame, wanted, zero, error);
        if (ret)
            return ret;
        widen_to_pages(block, pages, zero);
        ret = send_frame(thread, frame, wanted, zero, spliced);
    }
    if (ret == -ESRCH)
        snprintf(error, ERROR_TEXT_BYTES, SENDER_QEMU_LEFT);
    else if (ret)
        snprintf(error, ERROR_TEXT_BYTES, "sending: %s", strerror(-ret));
    return ret;
}

/* What answers @request: the range of @answer, and of it the pages @wanted,
 * which is what is left. Bulk may have sent the page that is waited for, but it
 * may still lie in a queue: then that is sent again, if it need not arrive in
 * one huge page. Return: whether there is anything to send. */
static bool choose_pages(struct sender *sender, const struct frame *request,
                         struct frame *answer, uint64_t *wanted)
{
    const struct block *block = request->block;
    bool again = request->length < HUGE_BYTES || request->again;
    unsigned left;

    *answer = (struct frame){
        .block = block, .offset = request->offset, .length = request->length};
    mask_fill(wanted, frame_pages(answer));
    left = pageset_take(&sender->left, frame_first_page(answer),
                        frame_pages(answer), wanted);
    if (!left && again) {
        answer->offset += align_down((uint64_t)request->wanted * PAGE_BYTES,
                                     block->page_size);
        answer->length = block->page_size;
        mask_fill(wanted, frame_pages(answer));
    } else if (request->length < HUGE_BYTES) {
        mask_add(wanted, request->wanted);
    }
    return left || again;
}

/* Answer one request. */
static int answer_request(struct send_thread *thread, char *error)
{
    struct sender *sender = thread->sender;
    uint64_t wanted[PAGESET_MASK_WORDS];
    struct frame request, answer;
    int ret = frame_recv(&thread->channel, sender->table, &request, error);

    if (ret)
        return ret;
    if (request.kind != FRAME_REQUEST) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "the destination sent a frame of kind %u", request.kind);
        return -EPROTO;
    }
    atomic_fetch_add(&sender->stats->faults, 1);
    if (choose_pages(sender, &request, &answer, wanted)) {
        unsigned whole = answer.length >= HUGE_BYTES;

        sender->whole += whole;
        ret = send_range(thread, &answer, wanted, error);
        sender->whole -= whole;
    }
    sender->hint = frame_first_page(&request);
    return ret;
}

/* Send what is left of the granule around @page. */
static int send_granule(struct send_thread *thread, uint64_t page, char *error)
{
    struct sender *sender = thread->sender;
    const struct block *block = block_table_page(sender->table, page);
    uint64_t granule = sender->granule[block->index];
    uint64_t mask[PAGESET_MASK_WORDS];
    struct frame frame = {.block = block};

    frame.offset = align_down((page - block->first_page) * PAGE_BYTES, granule);
    frame.length = MIN(granule, block->length - frame.offset);
    mask_fill(mask, frame_pages(&frame));
    if (!pageset_take(&sender->left, frame_first_page(&frame),
                      frame_pages(&frame), mask))
        return 0;
    return send_range(thread, &frame, mask, error);
}

static int send_end(struct send_thread *thread, char *error)
{
    struct frame frame = {.kind = FRAME_END};
    struct frame_header header;
    struct iovec iov = {&header, sizeof(header)};
    int ret;

    frame_pack(&frame, &header);
    ret = channel_send(&thread->channel, &iov, 1);
    if (ret)
        snprintf(error, ERROR_TEXT_BYTES, "sending: %s", strerror(-ret));
    return ret;
}

static int send_bulk(struct send_thread *thread, char *error)
{
    const struct timespec nap = {.tv_nsec = 50000};
    struct sender *sender = thread->sender;
    uint64_t page = 0;
    int ret = 0;

    while (!ret && !thread_status_stopping(&sender->status)) {
        uint64_t hint;

        /* A huge page for a fault carries as much as bulk would meanwhile. */
        if (sender->whole) {
            nanosleep(&nap, NULL);
            continue;
        }
        hint = atomic_exchange(&sender->hint, SENDER_NO_HINT);
        page = pageset_next(
            &sender->left,
            hint == SENDER_NO_HINT ? page : align_down(hint, FRAME_MAX_PAGES));
        if (page == sender->left.pages)
            page = pageset_next(&sender->left, 0);
        if (page == sender->left.pages)
            return send_end(thread, error);
        ret = send_granule(thread, page, error);
    }
    return ret;
}

static void send_main(void *opaque)
{
    struct send_thread *thread = opaque;
    char error[ERROR_TEXT_BYTES];
    int ret = 0;

    thread_begin("send", &thread->channel);
    if (thread->channel.kind == CHANNEL_BULK)
        ret = send_bulk(thread, error);
    else
        while (!ret)
            ret = answer_request(thread, error);
    if (ret)
        thread_status_fail(&thread->sender->status, &thread->channel, error);
}

int sender_start(struct sender *sender)
{
    int ret = 0;

    for (unsigned i = 0; i < sender->count && !ret; i++)
        ret = thread_start(&sender->threads[i].worker, &sender->status,
                           send_main, &sender->threads[i]);
    return ret;
}

void sender_stop(struct sender *sender)
{
    thread_status_stop(&sender->status);
    for (unsigned i = 0; i < sender->count; i++)
        channel_shutdown(&sender->threads[i].channel);
}

bool sender_ended(const struct sender *sender)
{
    return thread_status_ended(&sender->status);
}

void sender_free(struct sender *sender)
{
    if (!sender)
        return;
    sender_drop_channels(sender);
    pageset_fini(&sender->left);
    if (sender->present >= 0)
        close(sender->present);
    thread_status_fini(&sender->status);
    free(sender->granule);
    free(sender->anonymous);
    free(sender);
}

uint64_t sender_bytes(const struct sender *sender)
{
    return sizeof(*sender) + pageset_bytes(&sender->left);
}

uint64_t sender_wire_bytes(const struct sender *sender)
{
    uint64_t bytes = sender->past_bytes;

    for (unsigned i = 0; i < sender->count; i++)
        bytes += sender->threads[i].channel.sent_bytes;
    return bytes;
}

const char *sender_error(const struct sender *sender)
{
    return thread_status_error(&sender->status);
}
