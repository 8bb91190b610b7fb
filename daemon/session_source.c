/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the source's session does with each message of its QEMU and its peer. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "present.h"
#include "session.h"
#include "source.h"
#include "thread.h"
#include "wire.h"

#define CONNECT_TIMEOUT_MS 5000
#define READ_PAGES         (256u << 10) /* of a bitmap at once */
#define RETRY_MIN_MS       100          /* between two tries to come back */

/* One connection of many that are being opened at once. */
struct source_channel {
    struct session *session;
    struct msg_conn *conn;
    Remapd__Hello__Kind kind;
    uint32_t index;
    struct tls_link link; /* once welcomed, for the sender */
};

struct session_source {
    uint8_t secret[SESSION_SECRET_BYTES]; /* of the ticket; once */
    uint32_t address; /* of the destination's, being tried */
    uint64_t ram_bytes;
    uint8_t key[SESSION_SECRET_BYTES];
    bool preparing; /* the destination has the table, which is whole */
    struct source_channel channels[THREAD_MAX_CHANNELS];
    unsigned channel_count, welcomed;
    uint64_t opened_ns; /* since when the channels are being opened */
    struct splicer *splicers[THREAD_MAX_CHANNELS]; /* as the channels */
    unsigned splicer_count;
    struct sender *sender;
    bool started; /* Start has come since the last Welcome */
    /* Coming back. */
    struct event *retry;
    unsigned retry_ms;
    uint64_t hopeless_pages; /* left at the pause: fewer mean it was no use */
    bool resumed, told;      /* Resumed is there; with Left behind it */
    bool forgotten;          /* what was unsent when the pause began: */
    uint64_t unsent_pages;
};

static void retry_now(evutil_socket_t fd, short what, void *opaque);

/* As many as there will be channels, if the destination is set up like this
 * host. */
static uint32_t source_hands(const struct session *session)
{
    return MIN(session->conf->urgent_channels + session->conf->bulk_channels,
               THREAD_MAX_CHANNELS);
}

static void source_init(struct session *session,
                        const struct handoff_hello *hello)
{
    struct session_source *source = xcalloc(1, sizeof(*source));
    struct handoff_welcome welcome = {.hands = htobe32(source_hands(session))};

    session->source = source;
    source->ram_bytes = be64toh(hello->ram_bytes);
    source->retry = evtimer_new(session->base, retry_now, session);
    if (!source->retry)
        abort();
    session_welcome(session, &welcome);
}

static bool source_address(const struct session *session,
                           struct sockaddr_storage *ss, socklen_t *length)
{
    const struct keep_record *record = &session->keep.record;
    uint32_t address = session->source->address;

    return address < record->addresses &&
           !wire_address(record->address[address], record->port, ss, length);
}

static void send_hello(struct msg_conn *conn, struct session *session,
                       Remapd__Hello__Kind kind, uint32_t index)
{
    struct session_source *source = session->source;
    struct keep_record *record = &session->keep.record;
    bool control = kind == REMAPD__HELLO__KIND__CONTROL;
    Remapd__Hello hello = REMAPD__HELLO__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    hello.magic = WIRE_MAGIC;
    hello.version = WIRE_VERSION;
    hello.kind = kind;
    hello.index = index;
    hello.session = (ProtobufCBinaryData){sizeof(session->id), session->id};
    hello.secret.len = SESSION_SECRET_BYTES;
    hello.secret.data = !control         ? source->key
                        : record->joined ? record->resume_key
                                         : source->secret;
    hello.attempt = control ? record->attempt : 0;
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

/* For a connection to @ss, which is the address being tried. Return: false if
 * there is none to be had. */
static bool source_tls(const struct session *session,
                       const struct sockaddr_storage *ss, struct tls **tls)
{
    const struct keep_record *record = &session->keep.record;

    *tls = NULL;
    if (!tls_wanted(session->conf->tls, (const struct sockaddr *)ss))
        return true;
    *tls = tls_connect(record->address[session->source->address],
                       record->tls_name);
    return *tls;
}

static void open_control(struct session *session)
{
    struct sockaddr_storage ss;
    struct tls *tls;
    socklen_t length;

    if (!source_address(session, &ss, &length)) {
        char reason[80];

        snprintf(reason, sizeof(reason),
                 "none of the destination's %u addresses answers at port %u",
                 session->keep.record.addresses, session->keep.record.port);
        session_lost(session, reason);
        return;
    }
    if (!source_tls(session, &ss, &tls)) {
        session_lost(session, TLS_NO_CERTIFICATES);
        return;
    }
    session->heard_ns = now_ns();
    session->control = msg_conn_connect(session->base, (struct sockaddr *)&ss,
                                        length, tls, CONNECT_TIMEOUT_MS,
                                        &session_source_ops.control, session);
}

static void open_channel(struct session *session, Remapd__Hello__Kind kind,
                         uint32_t index)
{
    struct session_source *source = session->source;
    struct source_channel *channel = &source->channels[source->channel_count++];
    struct sockaddr_storage ss;
    struct tls *tls;
    socklen_t length;

    /* As control has done it. */
    source_address(session, &ss, &length);
    source_tls(session, &ss, &tls);
    *channel = (struct source_channel){session, NULL, kind, index, {-1, NULL}};
    channel->conn =
        msg_conn_connect(session->base, (struct sockaddr *)&ss, length, tls,
                         CONNECT_TIMEOUT_MS, &channel_handlers, channel);
}

static void channel_connected(void *owner)
{
    struct source_channel *channel = owner;

    send_hello(channel->conn, channel->session, channel->kind, channel->index);
}

static void close_channels(struct session *session)
{
    struct session_source *source = session->source;

    for (unsigned i = 0; i < source->channel_count; i++) {
        msg_conn_free(source->channels[i].conn);
        tls_link_close(&source->channels[i].link);
    }
    source->channel_count = source->welcomed = 0;
}

static void send_resume(struct session *session)
{
    Remapd__Resume body = REMAPD__RESUME__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    message.body_case = REMAPD__MESSAGE__BODY_RESUME;
    message.resume = &body;
    session_send(session, &message);
}

static void channel_message(void *owner, const Remapd__Message *message)
{
    struct source_channel *channel = owner;
    struct session *session = channel->session;
    struct session_source *source = session->source;
    struct msg_conn *conn = channel->conn;
    char reason[ERROR_TEXT_BYTES];
    int ret;

    if (message->body_case != REMAPD__MESSAGE__BODY_WELCOME) {
        bool said = message->body_case == REMAPD__MESSAGE__BODY_ABORT;

        snprintf(reason, sizeof(reason),
                 "the destination refused a channel%s%.100s", said ? ": " : "",
                 said ? message->abort->reason : "");
        session_lost(session, reason);
        return;
    }
    channel->conn = NULL;
    ret = msg_conn_detach(conn, &channel->link);
    if (ret) {
        session_no_channel(session, "destination", ret);
        return;
    }
    if (++source->welcomed < source->channel_count)
        return;
    if (session->state == SESSION_PAUSED) {
        send_resume(session);
    } else {
        session_set_state(session, SESSION_JOINED);
        handoff_send(session->handoff, HANDOFF_JOINED, NULL, 0);
    }
}

static void channel_closed(void *owner, const char *reason)
{
    struct source_channel *channel = owner;
    char text[ERROR_TEXT_BYTES];

    snprintf(text, sizeof(text), "opening a channel: %.200s", reason);
    session_lost(channel->session, text);
}

static const struct msg_handlers channel_handlers = {
    .message = channel_message,
    .closed = channel_closed,
    .connected = channel_connected,
};

static void on_welcome(struct session *session, const Remapd__Welcome *welcome)
{
    struct session_source *source = session->source;
    struct keep_record *record = &session->keep.record;

    if (welcome->version != WIRE_VERSION) {
        char reason[80];

        snprintf(reason, sizeof(reason),
                 "the destination speaks version %u, "
                 "this remapd %u",
                 welcome->version, WIRE_VERSION);
        session_lost(session, reason);
        return;
    }
    if ((session->state != SESSION_JOINING &&
         session->state != SESSION_PAUSED) ||
        source->channel_count ||
        (!record->joined &&
         welcome->resume_key.len != sizeof(record->resume_key)) ||
        welcome->channel_key.len != sizeof(source->key) || !welcome->urgent ||
        !welcome->bulk || welcome->urgent > THREAD_MAX_CHANNELS ||
        welcome->bulk > THREAD_MAX_CHANNELS ||
        welcome->urgent + welcome->bulk > THREAD_MAX_CHANNELS) {
        session_lost(session, "the destination's welcome makes no sense");
        return;
    }
    session->cipher = msg_conn_cipher(session->control);
    memcpy(source->key, welcome->channel_key.data, sizeof(source->key));
    if (!record->joined) {
        memcpy(record->resume_key, welcome->resume_key.data,
               sizeof(record->resume_key));
        record->joined = true;
        keep_save(&session->keep);
    }
    source->opened_ns = now_ns();
    for (uint32_t i = 0; i < welcome->urgent; i++)
        open_channel(session, REMAPD__HELLO__KIND__URGENT, i);
    for (uint32_t i = 0; i < welcome->bulk; i++)
        open_channel(session, REMAPD__HELLO__KIND__BULK, i);
}

/* What bulk sends in one frame, of each block, as the destination wants it. */
static bool take_granules(struct session *session, const uint32_t *granule,
                          size_t count)
{
    const struct block_table *table = &session->table;
    bool good = count == table->count;

    for (uint32_t i = 0; good && i < table->count; i++)
        good = granule[i] >= table->blocks[i].page_size &&
               granule[i] <= FRAME_MAX_BYTES &&
               !(granule[i] & (granule[i] - 1));
    if (!good) {
        session_lost(session, "the destination's answer to the block table "
                              "makes no sense");
        return false;
    }
    sender_set_granules(session->source->sender, granule);
    return true;
}

/* The channels are the sender's from here on. */
static void give_channels(struct session *session)
{
    struct session_source *source = session->source;

    for (unsigned i = 0; i < source->channel_count; i++) {
        struct source_channel *channel = &source->channels[i];

        channel_bound_silence(channel->link.fd, session->conf->peer_timeout_s);
        sender_add_channel(source->sender, channel->link,
                           channel->kind == REMAPD__HELLO__KIND__URGENT
                               ? CHANNEL_URGENT
                               : CHANNEL_BULK,
                           channel->index, source->splicers[i]);
        channel->link = (struct tls_link){-1, NULL};
    }
}

static void new_sender(struct session *session)
{
    session->source->sender =
        sender_new(&session->table, handoff_pid(session->handoff),
                   &session->stats, session->notify_fd);
}

static void on_prepared(struct session *session,
                        const Remapd__Prepared *prepared)
{
    if (session->state != SESSION_JOINED || !session->source->preparing) {
        session_lost(session, "the destination is prepared out of turn");
        return;
    }
    session->keep.record.table = block_table_mark(&session->table);
    keep_save(&session->keep);
    new_sender(session);
    if (!take_granules(session, prepared->granule, prepared->n_granule))
        return;
    give_channels(session);
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
    struct session_source *source = session->source;

    if (session->state != SESSION_ACTIVE)
        return;
    update_figures(session);
    session->left_pages = progress->left_pages;
    if (session->left_pages < source->hopeless_pages)
        source->retry_ms = 0;
    send_progress(session, HANDOFF_PROGRESS);
}

static void on_complete(struct session *session)
{
    struct session_source *source = session->source;
    bool back = session->state == SESSION_PAUSED;

    if (!back && (session->state != SESSION_ACTIVE || !source->started)) {
        session_lost(session, "the destination completes what has not begun");
        return;
    }
    update_figures(session);
    session->left_pages = 0;
    session->complete_ns = now_ns();
    if (back)
        session_resume(session, SESSION_COMPLETE);
    else
        session_set_state(session, SESSION_COMPLETE);
    session_ops_of(session)->stop(session);
    send_progress(session, HANDOFF_COMPLETE);
}

/* ---- coming back after a pause ---- */

static void retry_in(struct session *session, unsigned ms)
{
    struct timeval wait = {ms / 1000, ms % 1000 * 1000};

    evtimer_add(session->source->retry, &wait);
}

static void source_disconnect(struct session *session)
{
    struct session_source *source = session->source;

    /* What did not even answer may have another address. */
    if (!source->channel_count && source->retry_ms)
        source->address =
            (source->address + 1) % MAX(session->keep.record.addresses, 1);
    close_channels(session);
    update_figures(session);
    if (source->sender)
        sender_stop(source->sender);
    if (!source->retry_ms)
        source->hopeless_pages = session->left_pages;
    if (!source->sender)
        return; /* QEMU, which has come back, has not handed over all yet */
    retry_in(session, source->retry_ms);
    source->retry_ms = MIN(MAX(2 * source->retry_ms, RETRY_MIN_MS),
                           session->conf->reconnect_interval_s * 1000);
}

static void retry_now(evutil_socket_t fd, short what, void *opaque)
{
    struct session *session = opaque;
    struct session_source *source = session->source;

    (void)fd;
    (void)what;
    if (!sender_ended(source->sender)) {
        retry_in(session, RETRY_MIN_MS);
        return;
    }
    sender_again(source->sender);
    source->started = source->resumed = source->told = false;
    session->keep.record.attempt++;
    keep_save(&session->keep);
    open_control(session);
}

static void on_resumed(struct session *session, const Remapd__Resumed *resumed)
{
    struct session_source *source = session->source;

    if (session->state != SESSION_PAUSED || source->resumed ||
        !source->channel_count || source->welcomed != source->channel_count) {
        session_lost(session, "the destination resumes out of turn");
        return;
    }
    if (!take_granules(session, resumed->granule, resumed->n_granule))
        return;
    source->resumed = true;
    give_channels(session);
    source->told = resumed->left_known;
    if (!source->told) {
        wire_send_left(session, sender_left(source->sender));
        return;
    }
    if (!source->forgotten)
        source->unsent_pages = pageset_count(sender_left(source->sender));
    source->forgotten = true;
    sender_forget(source->sender);
}

static void leave_pages(struct session *session, uint64_t first, uint64_t pages)
{
    sender_leave(session->source->sender, first, pages);
}

static void on_left(struct session *session, const Remapd__Left *left)
{
    if (session->state != SESSION_PAUSED || !session->source->told)
        session_lost(session, "the destination says out of turn what is left");
    else
        wire_take_left(session, left, leave_pages);
}

static void on_left_end(struct session *session, const Remapd__LeftEnd *end)
{
    struct session_source *source = session->source;
    uint64_t pages =
        source->sender ? pageset_count(sender_left(source->sender)) : 0;

    if (session->state != SESSION_PAUSED || !source->told ||
        end->pages != pages) {
        session_lost(session, "the destination names another number of pages "
                              "than it has listed");
        return;
    }
    source->told = false;
    session->left_pages = pages;
    if (pages > source->unsent_pages)
        session->resent_pages += pages - source->unsent_pages;
}

static void on_start(struct session *session)
{
    struct session_source *source = session->source;
    bool back = session->state == SESSION_PAUSED;

    if (source->started || (back ? !source->resumed || source->told
                                 : session->state != SESSION_ACTIVE)) {
        session_lost(session, "the destination starts out of turn");
        return;
    }
    source->started = true;
    source->forgotten = false;
    if (!session->active_ns)
        session->active_ns = now_ns();
    if (back)
        session_resume(session, SESSION_ACTIVE);
    if (sender_start(source->sender))
        session_pause(session, "no more threads can be had");
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
        on_start(session);
        break;
    case REMAPD__MESSAGE__BODY_RESUMED:
        on_resumed(session, message->resumed);
        break;
    case REMAPD__MESSAGE__BODY_LEFT:
        on_left(session, message->left);
        break;
    case REMAPD__MESSAGE__BODY_LEFT_END:
        on_left_end(session, message->left_end);
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
        source->address + 1 < session->keep.record.addresses) {
        session_log(session, LOG_LEVEL_WARNING, LOG_EVENT_NONE,
                    "%s: %s; there are other addresses",
                    msg_conn_peer(session->control), reason);
        msg_conn_free(session->control);
        session->control = NULL;
        source->address++;
        open_control(session);
        return;
    }
    wire_closed(session, reason);
}

/* Keep what the ticket says. */
static bool take_ticket(struct session *session, const Remapd__Ticket *ticket)
{
    struct keep_record *record = &session->keep.record;

    if (ticket->version != WIRE_VERSION ||
        ticket->session.len != sizeof(session->id) ||
        ticket->secret.len != SESSION_SECRET_BYTES ||
        ticket->n_address > KEEP_MAX_ADDRESSES ||
        strlen(ticket->tls_name) >= sizeof(record->tls_name))
        return false;
    for (size_t i = 0; i < ticket->n_address; i++) {
        if (strlen(ticket->address[i]) >= KEEP_ADDRESS_BYTES)
            return false;
        strcpy(record->address[i], ticket->address[i]);
    }
    record->addresses = (uint32_t)ticket->n_address;
    record->port = ticket->port;
    strcpy(record->tls_name, ticket->tls_name);
    memcpy(record->session, ticket->session.data, sizeof(record->session));
    memcpy(session->source->secret, ticket->secret.data,
           sizeof(session->source->secret));
    keep_save(&session->keep);
    return true;
}

static void on_ticket(struct session *session,
                      const struct handoff_ticket *message)
{
    size_t bytes = be16toh(message->bytes);
    Remapd__Ticket *ticket = NULL;
    bool good;

    if (session->state != SESSION_WAITING) {
        session_refuse(session, "QEMU handed over a second ticket");
        return;
    }
    if (bytes && bytes <= sizeof(message->ticket))
        ticket = remapd__ticket__unpack(NULL, bytes, message->ticket);
    good = ticket && take_ticket(session, ticket);
    if (ticket)
        remapd__ticket__free_unpacked(ticket, NULL);
    if (!good) {
        session_fail(session,
                     "the ticket cannot be read, or is not of "
                     "version %u",
                     WIRE_VERSION);
        return;
    }
    session_set_id(session, session->keep.record.session);
    session_set_state(session, SESSION_JOINING);
    open_control(session);
}

/* Can all of it be read, while it is not too late? */
static int check_memory(const struct session *session)
{
    for (uint32_t i = 0; i < session->table.count; i++) {
        if (session->table.blocks[i].fd < 0)
            return source_check(handoff_pid(session->handoff));
    }
    return 0;
}

static void on_prepare(struct session *session,
                       const struct handoff_prepare *prepare)
{
    Remapd__Prepare body = REMAPD__PREPARE__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;
    int error;

    if (session->state != SESSION_JOINED || session->source->preparing ||
        be32toh(prepare->blocks) != session->table.count) {
        session_refuse(session, "QEMU prepares out of turn");
        return;
    }
    error = check_memory(session);
    if (error) {
        session_fail(session,
                     "may not read the memory of QEMU %d: %s (CAP_SYS_PTRACE, "
                     "kernel.yama.ptrace_scope)",
                     handoff_pid(session->handoff), strerror(-error));
        return;
    }
    session->source->preparing = true;
    for (uint32_t i = 0; i < session->table.count; i++)
        wire_send_block(session, &session->table.blocks[i]);
    body.blocks = session->table.count;
    body.private_bytes = present_private(handoff_pid(session->handoff));
    message.body_case = REMAPD__MESSAGE__BODY_PREPARE;
    message.prepare = &body;
    session_send(session, &message);
}

/* Those of a chunk of a block's bitmap are left. */
static void leave_chunk(struct session *session, const struct block *block,
                        uint64_t first, uint64_t pages, uint64_t *words)
{
    if (pages % 64) /* what stands behind the block's end does not count */
        words[pages / 64] &= (1ull << pages % 64) - 1;
    for (uint64_t i = 0; i < (pages + 63) / 64; i++) {
        for (uint64_t bits = words[i]; bits;) {
            unsigned from = (unsigned)__builtin_ctzll(bits);
            uint64_t rest = ~(bits >> from);
            unsigned run = rest ? (unsigned)__builtin_ctzll(rest) : 64;

            run = MIN(run, 64 - from);
            leave_pages(session, block->first_page + first + i * 64 + from,
                        run);
            bits &= from + run == 64 ? 0 : ~0ull << (from + run);
        }
    }
}

/* Read the bitmaps that QEMU handed over. They are read, not mapped: nobody
 * can pull them away underneath. */
static int read_left(struct session *session, int fd)
{
    static uint64_t words[READ_PAGES / 64];
    off_t at = 0;

    for (uint32_t i = 0; i < session->table.count; i++) {
        const struct block *block = &session->table.blocks[i];
        uint64_t pages = block->length / PAGE_BYTES;

        for (uint64_t first = 0; first < pages; first += READ_PAGES) {
            uint64_t chunk = MIN(pages - first, READ_PAGES);
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
    bool back = session->state == SESSION_PAUSED && session->returned &&
                !session->source->sender && session->table.count;

    if (session->state != SESSION_PREPARED && !back) {
        session_refuse(session, "QEMU switches over out of turn");
        return;
    }
    if (back &&
        block_table_mark(&session->table) != session->keep.record.table) {
        session_refuse(session, "what QEMU has kept is of another block table");
        return;
    }
    if (!wire_reads_at_once(fd)) {
        session_refuse(session, "QEMU's bitmap of what is left is no memfd");
        return;
    }
    if (back)
        new_sender(session);
    if (read_left(session, fd)) {
        session_refuse(session, "QEMU's bitmap of what is left is too short");
        return;
    }
    session->total_pages = session->left_pages =
        pageset_count(sender_left(session->source->sender));
    session->map_bytes = sender_bytes(session->source->sender);
    if (back) {
        session->active_ns = now_ns();
        source_disconnect(session);
        return;
    }
    session_set_state(session, SESSION_ACTIVE);
    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_NONE,
                "source has %llu pages to send, its map takes %llu bytes",
                (unsigned long long)session->total_pages,
                (unsigned long long)session->map_bytes);
    wire_send_left(session, sender_left(session->source->sender));
}

/* Is it QEMU's turn to say what there is to send? */
static bool hands_over(const struct session *session)
{
    return session->state == SESSION_PAUSED
               ? session->returned && !session->source->sender
               : session->state == SESSION_JOINED &&
                     !session->source->preparing;
}

static void on_splicer(struct session *session, int *fd)
{
    struct session_source *source = session->source;

    if (*fd < 0 || !hands_over(session) ||
        source->splicer_count == source_hands(session)) {
        session_refuse(session, "QEMU offers a splicer out of turn");
        return;
    }
    source->splicers[source->splicer_count++] = splicer_new(*fd);
    *fd = -1;
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
        if (hands_over(session))
            wire_take_block(session, &session->table, body, fd);
        else
            session_refuse(session, "QEMU hands over a block out of turn");
        break;
    case HANDOFF_SPLICER:
        on_splicer(session, fd);
        break;
    case HANDOFF_PREPARE:
        on_prepare(session, body);
        break;
    case HANDOFF_SWITCHOVER:
        on_switchover(session, *fd);
        break;
    default:
        session_refuse(session, "the source's QEMU sent a message that only a "
                                "destination's sends");
    }
}

static void handoff_closed(void *owner, const char *reason)
{
    session_qemu_left(owner, reason);
}

static void source_tick(struct session *session)
{
    const struct session_source *source = session->source;

    update_figures(session);
    /* Its connection may have been lost on its own, and none but us speaks. */
    if (source->welcomed < source->channel_count &&
        now_ns() - source->opened_ns > session_patience_ns(session))
        session_lost(session, "opening a channel: no answer in time");
    else
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
    struct session_source *source = session->source;

    evtimer_del(source->retry);
    close_channels(session);
    update_figures(session);
    if (source->sender)
        sender_stop(source->sender);
}

static bool source_ended(const struct session *session)
{
    return !session->source->sender || sender_ended(session->source->sender);
}

static void source_fini(struct session *session)
{
    struct session_source *source = session->source;

    sender_free(source->sender);
    for (unsigned i = 0; i < source->splicer_count; i++)
        splicer_free(source->splicers[i]);
    event_free(source->retry);
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

static const char *source_qemu_left(const struct session *session)
{
    (void)session;
    return SENDER_QEMU_LEFT;
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
    .disconnect = source_disconnect,
    .stop = source_stop,
    .ended = source_ended,
    .qemu_left = source_qemu_left,
    .fini = source_fini,
    .engine = source_engine,
};
