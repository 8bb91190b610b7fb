/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the source's session does with each message of its QEMU and its peer. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "session.h"
#include "thread.h"
#include "wire.h"

#define CONNECT_TIMEOUT_MS 5000
#define LEFT_CHUNK_PAGES   (8u * (32u << 10)) /* of one Left message */

/* One connection of many that are being opened at once. */
struct source_channel {
    struct session *session;
    struct msg_conn *conn;
    Remapd__Hello__Kind kind;
    uint32_t index;
    int fd; /* once welcomed: the socket, for the sender */
};

struct session_source {
    Remapd__Ticket *ticket;
    size_t address; /* of the ticket's, being tried */
    uint64_t ram_bytes;
    uint8_t key[SESSION_SECRET_BYTES];
    bool preparing; /* the destination has the table, which is whole */
    struct source_channel channels[THREAD_MAX_CHANNELS];
    unsigned channel_count, welcomed;
    struct sender *sender;
};

static void source_init(struct session *session,
                        const struct handoff_hello *hello)
{
    struct handoff_welcome welcome = {0};

    session->source = xcalloc(1, sizeof(*session->source));
    session->source->ram_bytes = be64toh(hello->ram_bytes);
    memcpy(welcome.session, session->id, sizeof(welcome.session));
    handoff_send(session->handoff, HANDOFF_WELCOME, &welcome, sizeof(welcome));
}

static bool ticket_address(const struct session_source *source,
                           struct sockaddr_storage *ss, socklen_t *length)
{
    const Remapd__Ticket *ticket = source->ticket;

    return source->address < ticket->n_address &&
           !wire_address(ticket->address[source->address], ticket->port, ss,
                         length);
}

static void send_hello(struct msg_conn *conn, struct session *session,
                       Remapd__Hello__Kind kind, uint32_t index)
{
    struct session_source *source = session->source;
    Remapd__Hello hello = REMAPD__HELLO__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    hello.magic = WIRE_MAGIC;
    hello.version = WIRE_VERSION;
    hello.kind = kind;
    hello.index = index;
    hello.session = (ProtobufCBinaryData){sizeof(session->id), session->id};
    hello.secret =
        kind == REMAPD__HELLO__KIND__CONTROL
            ? source->ticket->secret
            : (ProtobufCBinaryData){sizeof(source->key), source->key};
    hello.ram_bytes = source->ram_bytes;
    message.body_case = REMAPD__MESSAGE__BODY_HELLO;
    message.hello = &hello;
    msg_conn_send(conn, &message);
}

static void control_connected(void *owner)
{
    struct session *session = owner;

    send_hello(session->control, session, REMAPD__HELLO__KIND__CONTROL, 0);
}

static const struct msg_handlers channel_handlers;

static void open_control(struct session *session)
{
    struct session_source *source = session->source;
    struct sockaddr_storage ss;
    socklen_t length;

    if (!ticket_address(source, &ss, &length)) {
        session_fail(session,
                     "none of the destination's %zu addresses "
                     "answers at port %u",
                     source->ticket->n_address, source->ticket->port);
        return;
    }
    session->heard_ns = now_ns();
    session->control = msg_conn_connect(session->base, (struct sockaddr *)&ss,
                                        length, CONNECT_TIMEOUT_MS,
                                        &session_source_ops.control, session);
}

static void open_channel(struct session *session, Remapd__Hello__Kind kind,
                         uint32_t index)
{
    struct session_source *source = session->source;
    struct source_channel *channel = &source->channels[source->channel_count++];
    struct sockaddr_storage ss;
    socklen_t length;

    ticket_address(source, &ss, &length); /* the one that control uses */
    *channel = (struct source_channel){session, NULL, kind, index, -1};
    channel->conn =
        msg_conn_connect(session->base, (struct sockaddr *)&ss, length,
                         CONNECT_TIMEOUT_MS, &channel_handlers, channel);
}

static void channel_connected(void *owner)
{
    struct source_channel *channel = owner;

    send_hello(channel->conn, channel->session, channel->kind, channel->index);
}

static void channel_message(void *owner, const Remapd__Message *message)
{
    struct source_channel *channel = owner;
    struct session *session = channel->session;
    struct session_source *source = session->source;
    struct msg_conn *conn = channel->conn;

    if (message->body_case != REMAPD__MESSAGE__BODY_WELCOME) {
        session_fail(session, "the destination refused a channel%s%.100s",
                     message->body_case == REMAPD__MESSAGE__BODY_ABORT ? ": "
                                                                       : "",
                     message->body_case == REMAPD__MESSAGE__BODY_ABORT
                         ? message->abort->reason
                         : "");
        return;
    }
    channel->conn = NULL;
    channel->fd = msg_conn_detach(conn);
    if (channel->fd < 0) {
        session_fail(session, "a channel of the destination spoke too early");
        return;
    }
    if (++source->welcomed == source->channel_count) {
        session_set_state(session, SESSION_JOINED);
        handoff_send(session->handoff, HANDOFF_JOINED, NULL, 0);
    }
}

static void channel_closed(void *owner, const char *reason)
{
    struct source_channel *channel = owner;

    session_fail(channel->session, "opening a channel: %s", reason);
}

static const struct msg_handlers channel_handlers = {
    .message = channel_message,
    .closed = channel_closed,
    .connected = channel_connected,
};

static void on_welcome(struct session *session, const Remapd__Welcome *welcome)
{
    struct session_source *source = session->source;

    if (welcome->version != WIRE_VERSION) {
        char reason[80];

        snprintf(reason, sizeof(reason),
                 "the destination speaks version %u, "
                 "this remapd %u",
                 welcome->version, WIRE_VERSION);
        session_lost(session, reason);
        return;
    }
    if (session->state != SESSION_JOINING || source->channel_count ||
        welcome->channel_key.len != sizeof(source->key) || !welcome->urgent ||
        !welcome->bulk || welcome->urgent > THREAD_MAX_CHANNELS ||
        welcome->bulk > THREAD_MAX_CHANNELS ||
        welcome->urgent + welcome->bulk > THREAD_MAX_CHANNELS) {
        session_lost(session, "the destination's welcome makes no sense");
        return;
    }
    memcpy(source->key, welcome->channel_key.data, sizeof(source->key));
    for (uint32_t i = 0; i < welcome->urgent; i++)
        open_channel(session, REMAPD__HELLO__KIND__URGENT, i);
    for (uint32_t i = 0; i < welcome->bulk; i++)
        open_channel(session, REMAPD__HELLO__KIND__BULK, i);
}

static void on_prepared(struct session *session,
                        const Remapd__Prepared *prepared)
{
    struct session_source *source = session->source;
    struct block_table *table = &session->table;
    bool good = session->state == SESSION_JOINED && source->preparing &&
                prepared->n_granule == table->count;

    for (uint32_t i = 0; good && i < table->count; i++)
        good = prepared->granule[i] >= table->blocks[i].page_size &&
               prepared->granule[i] <= FRAME_MAX_BYTES &&
               !(prepared->granule[i] & (prepared->granule[i] - 1));
    if (!good) {
        session_lost(session, "the destination's answer to the block table "
                              "makes no sense");
        return;
    }
    source->sender =
        sender_new(table, handoff_pid(session->handoff), prepared->granule,
                   &session->stats, session->notify_fd);
    for (unsigned i = 0; i < source->channel_count; i++) {
        struct source_channel *channel = &source->channels[i];

        sender_add_channel(source->sender, channel->fd,
                           channel->kind == REMAPD__HELLO__KIND__URGENT
                               ? CHANNEL_URGENT
                               : CHANNEL_BULK,
                           channel->index);
        channel->fd = -1;
    }
    session_set_state(session, SESSION_PREPARED);
    handoff_send(session->handoff, HANDOFF_PREPARED, NULL, 0);
}

static void send_progress(struct session *session, enum handoff_type type)
{
    struct handoff_progress progress = {
        .pages_left = htobe64(session->left_pages),
        .bytes_on_wire = htobe64(session->wire_bytes),
        .faults = htobe64(session->stats.faults),
    };

    handoff_send(session->handoff, type, &progress, sizeof(progress));
}

static void update_figures(struct session *session)
{
    if (session->source->sender)
        session->wire_bytes = sender_wire_bytes(session->source->sender);
}

static void on_progress(struct session *session,
                        const Remapd__Progress *progress)
{
    if (session->state != SESSION_ACTIVE)
        return;
    update_figures(session);
    session->left_pages = progress->left_pages;
    send_progress(session, HANDOFF_PROGRESS);
}

static void on_complete(struct session *session)
{
    if (session->state != SESSION_ACTIVE || !session->active_ns) {
        session_lost(session, "the destination completes what has not begun");
        return;
    }
    update_figures(session);
    session->left_pages = 0;
    session->complete_ns = now_ns();
    session_set_state(session, SESSION_COMPLETE);
    session_ops_of(session)->stop(session);
    send_progress(session, HANDOFF_COMPLETE);
}

static void control_message(void *owner, const Remapd__Message *message)
{
    struct session *session = owner;

    session->heard_ns = now_ns();
    switch (message->body_case) {
    case REMAPD__MESSAGE__BODY_WELCOME:
        on_welcome(session, message->welcome);
        break;
    case REMAPD__MESSAGE__BODY_PREPARED:
        on_prepared(session, message->prepared);
        break;
    case REMAPD__MESSAGE__BODY_START:
        if (session->state != SESSION_ACTIVE || session->active_ns) {
            session_lost(session, "the destination starts out of turn");
            return;
        }
        session->active_ns = now_ns();
        if (sender_start(session->source->sender))
            session_pause(session, "no more threads can be had");
        break;
    case REMAPD__MESSAGE__BODY_PROGRESS:
        on_progress(session, message->progress);
        break;
    case REMAPD__MESSAGE__BODY_COMPLETE:
        on_complete(session);
        break;
    default:
        wire_take_common(session, message,
                         "the destination sent a message that only a source "
                         "sends");
    }
}

static void control_closed(void *owner, const char *reason)
{
    struct session *session = owner;
    struct session_source *source = session->source;

    if (session->state == SESSION_JOINING && !source->channel_count &&
        source->address + 1 < source->ticket->n_address) {
        msg_conn_free(session->control);
        session->control = NULL;
        source->address++;
        open_control(session);
        return;
    }
    wire_closed(session, reason);
}

static void on_ticket(struct session *session,
                      const struct handoff_ticket *message)
{
    struct session_source *source = session->source;
    size_t bytes = be16toh(message->bytes);

    if (session->state != SESSION_WAITING) {
        session_lost(session, "QEMU handed over a second ticket");
        return;
    }
    if (bytes && bytes <= sizeof(message->ticket))
        source->ticket = remapd__ticket__unpack(NULL, bytes, message->ticket);
    if (!source->ticket || source->ticket->version != WIRE_VERSION ||
        source->ticket->session.len != sizeof(session->id)) {
        session_fail(session,
                     "the ticket cannot be read, or is not of "
                     "version %u",
                     WIRE_VERSION);
        return;
    }
    session_set_id(session, source->ticket->session.data);
    session_set_state(session, SESSION_JOINING);
    open_control(session);
}

static void on_prepare(struct session *session,
                       const struct handoff_prepare *prepare)
{
    Remapd__Prepare body = REMAPD__PREPARE__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    if (session->state != SESSION_JOINED || session->source->preparing ||
        be32toh(prepare->blocks) != session->table.count) {
        session_lost(session, "QEMU prepares out of turn");
        return;
    }
    session->source->preparing = true;
    for (uint32_t i = 0; i < session->table.count; i++)
        wire_send_block(session, &session->table.blocks[i]);
    body.blocks = session->table.count;
    message.body_case = REMAPD__MESSAGE__BODY_PREPARE;
    message.prepare = &body;
    session_send(session, &message);
}

static void send_left(struct session *session, const struct block *block,
                      uint64_t first, uint64_t pages, const uint64_t *words)
{
    Remapd__Left left = REMAPD__LEFT__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    left.block = block->index;
    left.first_page = first;
    if (words)
        left.pages = (ProtobufCBinaryData){align_up(pages, 64) / 8,
                                           (uint8_t *)(uintptr_t)words};
    else
        left.run_pages = pages;
    message.body_case = REMAPD__MESSAGE__BODY_LEFT;
    message.left = &left;
    session_send(session, &message);
}

/* One chunk of a block's bitmap: into the sender, and to the destination. */
static void leave_chunk(struct session *session, const struct block *block,
                        uint64_t first, uint64_t pages, uint64_t *words)
{
    uint64_t count = 0;

    if (pages % 64) /* what stands behind the block's end does not count */
        words[pages / 64] &= (1ull << pages % 64) - 1;
    for (uint64_t i = 0; i < (pages + 63) / 64; i++) {
        for (uint64_t bits = words[i]; bits;) {
            unsigned from = (unsigned)__builtin_ctzll(bits);
            uint64_t rest = ~(bits >> from);
            unsigned run = rest ? (unsigned)__builtin_ctzll(rest) : 64;

            run = MIN(run, 64 - from);
            sender_leave(session->source->sender,
                         block->first_page + first + i * 64 + from, run);
            count += run;
            bits &= from + run == 64 ? 0 : ~0ull << (from + run);
        }
    }
    if (count)
        send_left(session, block, first, pages, count == pages ? NULL : words);
}

/* Read the bitmaps that QEMU handed over. They are read, not mapped: nobody
 * can pull them away underneath. */
static int read_left(struct session *session, int fd)
{
    static uint64_t words[LEFT_CHUNK_PAGES / 64];
    off_t at = 0;

    for (uint32_t i = 0; i < session->table.count; i++) {
        const struct block *block = &session->table.blocks[i];
        uint64_t pages = block->length / PAGE_BYTES;

        for (uint64_t first = 0; first < pages; first += LEFT_CHUNK_PAGES) {
            uint64_t chunk = MIN(pages - first, LEFT_CHUNK_PAGES);
            size_t bytes = align_up(chunk, 64) / 8;

            if (pread(fd, words, bytes, at) != (ssize_t)bytes)
                return -EINVAL;
            at += (off_t)bytes;
            leave_chunk(session, block, first, chunk, words);
        }
    }
    return 0;
}

static void on_switchover(struct session *session, int fd)
{
    Remapd__LeftEnd body = REMAPD__LEFT_END__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    if (session->state != SESSION_PREPARED) {
        session_lost(session, "QEMU switches over out of turn");
        return;
    }
    if (read_left(session, fd)) {
        session_fail(session, "QEMU's bitmap of what is left is too short");
        return;
    }
    session->total_pages = session->left_pages =
        sender_left(session->source->sender);
    session->map_bytes = sender_bytes(session->source->sender);
    session_set_state(session, SESSION_ACTIVE);
    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_NONE,
                "source has %llu pages to send, its map takes %llu bytes",
                (unsigned long long)session->total_pages,
                (unsigned long long)session->map_bytes);
    body.pages = session->total_pages;
    message.body_case = REMAPD__MESSAGE__BODY_LEFT_END;
    message.left_end = &body;
    session_send(session, &message);
}

static void handoff_message(void *owner, enum handoff_type type,
                            const void *body, int *fd)
{
    struct session *session = owner;

    switch (type) {
    case HANDOFF_TICKET:
        on_ticket(session, body);
        break;
    case HANDOFF_BLOCK:
        if (session->state == SESSION_JOINED && !session->source->preparing)
            wire_take_block(session, &session->table, body, fd);
        else
            session_lost(session, "QEMU hands over a block out of turn");
        break;
    case HANDOFF_PREPARE:
        on_prepare(session, body);
        break;
    case HANDOFF_SWITCHOVER:
        on_switchover(session, *fd);
        break;
    default:
        session_lost(session, "the source's QEMU sent a message that only a "
                              "destination's sends");
    }
}

/* Without its QEMU there is no memory to send from. */
static void handoff_closed(void *owner, const char *reason)
{
    struct session *session = owner;

    if (session->state >= SESSION_ACTIVE && session->state < SESSION_COMPLETE)
        session_pause(session,
                      "the source's QEMU is gone, and with it the "
                      "pages that are left: %s",
                      reason);
    if (session->state < SESSION_ACTIVE && session->control)
        session_fail(session,
                     "the source's QEMU left before the switchover: "
                     "%s",
                     reason);
    else
        session_end(session, reason);
}

static void source_tick(struct session *session)
{
    update_figures(session);
    wire_keep_alive(session);
}

static void source_plane(struct session *session)
{
    const char *error = sender_error(session->source->sender);

    if (error && session->state == SESSION_ACTIVE) {
        char reason[ERROR_TEXT_BYTES];

        snprintf(reason, sizeof(reason), "%s", error);
        session_lost(session, reason);
    }
}

static void source_stop(struct session *session)
{
    update_figures(session);
    if (session->source->sender)
        sender_stop(session->source->sender);
}

static bool source_ended(const struct session *session)
{
    return !session->source->sender || sender_ended(session->source->sender);
}

static void source_fini(struct session *session)
{
    struct session_source *source = session->source;

    for (unsigned i = 0; i < source->channel_count; i++) {
        msg_conn_free(source->channels[i].conn);
        if (source->channels[i].fd >= 0)
            close(source->channels[i].fd);
    }
    sender_free(source->sender);
    if (source->ticket)
        remapd__ticket__free_unpacked(source->ticket, NULL);
    explicit_bzero(source, sizeof(*source));
    free(source);
}

static enum place_engine source_engine(const struct session *session,
                                       uint32_t block)
{
    (void)session;
    (void)block;
    return PLACE_ENGINES; /* the destination knows */
}

const struct session_ops session_source_ops = {
    .handoff = {.message = handoff_message, .closed = handoff_closed},
    .control = {.message = control_message,
                .closed = control_closed,
                .connected = control_connected},
    .init = source_init,
    .tick = source_tick,
    .plane = source_plane,
    .figures = update_figures,
    .stop = source_stop,
    .ended = source_ended,
    .fini = source_fini,
    .engine = source_engine,
};
