/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the destination's session does with each message of its QEMU and its
 * peer. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "probe.h"
#include "session_destination.h"
#include "thread.h"
#include "uffdio.h"
#include "wire.h"

#define ACTIVE_TICK_MS 100

/* What bulk sends in one frame: small enough to stay in a core's cache between
 * the socket and the guest, large enough to be few system calls. */
#define GRANULE_BYTES (256u << 10)

/* Slots primed in staging, for engine move in QEMU's: for bulk as many as will
 * come, for each urgent channel a few. What has moved is the guest's; staging
 * of our own counts as our memory until then, and is less. */
#define STAGING_OWN_SLOTS    512
#define STAGING_QEMU_SLOTS   4096
#define STAGING_URGENT_SLOTS 32

/* How often it is looked whether they are primed, and for how long. */
#define PRIME_TICK_MS 5
#define PRIME_MAX_NS  (3 * 1000000000ull)

/* Can this kernel move pages from here into a QEMU, and may it? */
static bool can_remap(const struct session *session)
{
    return (probe_granted() & UFFD_FEATURE_REMAP) &&
           (session->conf->engine == PLACE_REMAP ||
            session->conf->engine == PLACE_ENGINES);
}

/* Of a bulk channel's staging, for its part of what comes; all of them have at
 * most @max. */
static uint32_t bulk_slots(const struct session *session, uint32_t max)
{
    unsigned channels = session->conf->bulk_channels;

    return (uint32_t)MIN(session->destination->huge_pages / channels + 1,
                         max / channels);
}

static bool has_placers(const struct session *session)
{
    return session->destination->placers.count == destination_channels(session);
}

static void destination_init(struct session *session,
                             const struct handoff_hello *hello)
{
    struct session_destination *destination = xcalloc(1, sizeof(*destination));
    struct handoff_welcome welcome = {0};

    session->destination = destination;
    destination->uffd = destination->arriving.uffd = -1;
    destination->huge_pages = be64toh(hello->ram_bytes) / HUGE_BYTES;
    join_init(&destination->join);
    if (session->conf->engine == PLACE_MOVE ||
        (session->conf->engine == PLACE_ENGINES && !can_remap(session))) {
        welcome.hands = htobe32(destination_channels(session));
        welcome.slots = htobe32(bulk_slots(session, STAGING_QEMU_SLOTS));
    }
    session_welcome(session, &welcome);
    if (session->returned)
        destination->left_known = session->keep.record.left_known;
    else
        join_send_ticket(session, hello->address);
}

/* ---- what both are told ---- */

static void update_figures(struct session *session)
{
    struct session_destination *destination = session->destination;

    if (!destination->receiver)
        return;
    session->wire_bytes = receiver_wire_bytes(destination->receiver);
    session->left_pages = receiver_left(destination->receiver);
}

static void send_progress(struct session *session)
{
    const struct histogram *latency = &session->stats.latency;
    Remapd__Progress progress = REMAPD__PROGRESS__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    update_figures(session);
    progress.placed_pages = session->total_pages - session->left_pages;
    progress.left_pages = session->left_pages;
    progress.faults = session->stats.faults;
    progress.latency_p50_ns = histogram_quantile(latency, 0.5);
    progress.latency_p99_ns = histogram_quantile(latency, 0.99);
    progress.latency_max_ns = latency->max_ns;
    message.body_case = REMAPD__MESSAGE__BODY_PROGRESS;
    message.progress = &progress;
    session_send(session, &message);
}

void destination_send_complete(struct session *session)
{
    Remapd__Complete body = REMAPD__COMPLETE__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    send_progress(session);
    message.body_case = REMAPD__MESSAGE__BODY_COMPLETE;
    message.complete = &body;
    session_send(session, &message);
}

/* ---- staging in QEMU ---- */

static void on_placer(struct session *session,
                      const struct handoff_placer *message, int *fd)
{
    struct session_destination *destination = session->destination;
    unsigned index = destination->placers.count;
    uint32_t slots = be32toh(message->slots);

    bool turn = session->returned ? destination->uffd < 0
                                  : session->state < SESSION_PREPARED;

    if (!turn || *fd < 0 || !slots || slots > STAGING_QEMU_SLOTS ||
        index >= destination_channels(session)) {
        session_refuse(session, "QEMU offers a placer out of turn");
        return;
    }
    if (index < session->conf->urgent_channels)
        slots = MIN(slots, STAGING_URGENT_SLOTS);
    destination->placers.placers[index] = placer_new(
        *fd, handoff_pid(session->handoff), be64toh(message->staging), slots);
    destination->placers.takes =
        (!destination->placers.count || destination->placers.takes) &&
        be32toh(message->flags) & HANDOFF_PLACER_TAKES;
    destination->placers.count++;
    *fd = -1;
}

/* ---- both agree on the block table ---- */

static void on_block(struct session *session, const Remapd__Block *body)
{
    struct block block = {
        .index = body->index,
        .length = body->length,
        .page_size = body->page_size,
        .shared = body->shared,
        .fd = -1,
    };
    char error[ERROR_TEXT_BYTES];

    if (session->state != SESSION_JOINED || session->destination->receiver ||
        strlen(body->idstr) >= sizeof(block.idstr)) {
        session_lost(session, "a block out of turn, or with too long a name");
        return;
    }
    strcpy(block.idstr, body->idstr);
    if (block_table_add(&session->table, &block, error))
        session_lost(session, error);
}

/* What bulk sends at once of each block: more where a whole huge page can be
 * placed. */
static uint32_t *granules_of(const struct session *session)
{
    static uint32_t granules[BLOCK_MAX_COUNT];

    for (uint32_t i = 0; i < session->table.count; i++) {
        const struct block *block = &session->table.blocks[i];
        enum place_engine engine =
            block->shared
                ? PLACE_COPY
                : place_engine_for(block, probe_granted(), has_placers(session),
                                   session->conf->engine);

        granules[i] =
            (uint32_t)MAX(GRANULE_BYTES, place_granule(engine, block));
    }
    return granules;
}

/* Return: false if what QEMU keeps has no room for the map. */
static bool new_receiver(struct session *session)
{
    struct keep *keep = &session->keep;
    uint64_t pages = session->table.pages;
    uint64_t *missing = keep_map_words(keep, KEEP_MISSING, pages);
    uint64_t *received = keep_map_words(keep, KEEP_RECEIVED, pages);

    if (!missing || !received)
        return false;
    session->destination->receiver =
        receiver_new(&session->table, missing, received, &session->stats,
                     session->notify_fd);
    return true;
}

/* Have staging primed, for as much as is private. */
static int begin_staging(const struct session *session)
{
    struct session_destination *destination = session->destination;
    struct placer_pool *placers = &destination->placers;
    uint64_t huge_pages = 0;
    uint32_t slots;

    for (uint32_t i = 0; i < session->table.count; i++) {
        const struct block *block = &session->table.blocks[i];

        if (!block->shared && block->page_size == PAGE_BYTES)
            huge_pages += block->length / HUGE_BYTES;
    }
    destination->huge_pages = MIN(destination->huge_pages, huge_pages);
    for (unsigned i = 0; i < placers->count; i++)
        placer_begin(placers->placers[i],
                     bulk_slots(session, STAGING_QEMU_SLOTS));
    if (!huge_pages || !can_remap(session))
        return 0;
    slots = bulk_slots(session, STAGING_OWN_SLOTS);
    return receiver_stage(destination->receiver, session->conf->urgent_channels,
                          MIN(slots, STAGING_URGENT_SLOTS),
                          session->conf->bulk_channels, slots);
}

static void on_prepare(struct session *session, const Remapd__Prepare *body)
{
    struct session_destination *destination = session->destination;
    int ret;

    if (session->state != SESSION_JOINED || destination->receiver ||
        !session->table.count || body->blocks != session->table.count) {
        session_lost(session, "the source prepares out of turn");
        return;
    }
    if (!join_whole(session)) {
        session_lost(session, "the source prepares before it has opened all "
                              "channels");
        return;
    }
    if (!new_receiver(session)) {
        session_lost(session, "the block table has more pages than QEMU has "
                              "memory");
        return;
    }
    session->keep.record.table = block_table_mark(&session->table);
    keep_save(&session->keep);
    if (body->private_bytes)
        destination->huge_pages =
            MAX(body->private_bytes / HUGE_BYTES, STAGING_URGENT_SLOTS);
    join_give_channels(session, destination->receiver);
    destination->prepare_ns = now_ns();
    session_heartbeat(session, PRIME_TICK_MS);
    ret = begin_staging(session);
    if (ret)
        session_fail(session, "staging: %s", strerror(-ret));
}

/* Agree once the staging is primed: then no fault waits for the allocator, and
 * until then the guest runs at the source. */
static void agree_if_primed(struct session *session)
{
    struct session_destination *destination = session->destination;
    bool patient = now_ns() - destination->prepare_ns < PRIME_MAX_NS;
    Remapd__Prepared prepared = REMAPD__PREPARED__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    if (!receiver_staged(destination->receiver) && patient)
        return;
    for (unsigned i = 0; i < destination->placers.count; i++) {
        if (!placer_ready(destination->placers.placers[i]) && patient)
            return;
    }
    prepared.n_granule = session->table.count;
    prepared.granule = granules_of(session);
    message.body_case = REMAPD__MESSAGE__BODY_PREPARED;
    message.prepared = &prepared;
    session_set_state(session, SESSION_PREPARED);
    session_heartbeat(session, 1000);
    session_send(session, &message);
}

/* ---- the switchover ---- */

static void leave_pages(struct session *session, uint64_t first, uint64_t pages)
{
    receiver_expect(session->destination->receiver, first, pages);
}

static void on_left(struct session *session, const Remapd__Left *left)
{
    if (session->state != SESSION_PREPARED || session->destination->left_known)
        session_lost(session, "the source says out of turn what is left");
    else
        wire_take_left(session, left, leave_pages);
}

static void send_start(struct session *session)
{
    Remapd__Start body = REMAPD__START__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    message.body_case = REMAPD__MESSAGE__BODY_START;
    message.start = &body;
    session_send(session, &message);
}

/* Have pages move over the channels that the receiver has. */
static void connect_receiver(struct session *session)
{
    struct session_destination *destination = session->destination;
    int ret = receiver_connect(destination->receiver, destination->huge_pages);

    if (ret) {
        session_pause(session, "starting threads: %s", strerror(-ret));
        return;
    }
    send_start(session);
    session_ops_of(session)->plane(session);
}

/* Answer what can be answered without the source, once all is known. */
static int serve(struct session *session)
{
    struct session_destination *destination = session->destination;
    uint64_t constant;
    int ret;

    if (destination->serving)
        return 0;
    update_figures(session);
    session->map_bytes = receiver_bytes(destination->receiver, &constant);
    session->active_ns = now_ns();
    session_heartbeat(session, ACTIVE_TICK_MS);
    session_log(
        session, LOG_LEVEL_INFO, LOG_EVENT_NONE,
        "%llu pages to come, the map takes %llu bytes, "
        "%.3f a granule of 4 KiB and a constant of %llu, staging %llu",
        (unsigned long long)session->left_pages,
        (unsigned long long)session->map_bytes,
        (double)(session->map_bytes - constant) / (double)session->table.pages,
        (unsigned long long)constant,
        (unsigned long long)destination_channels(session) * FRAME_MAX_BYTES);
    ret = receiver_start(destination->receiver, destination->uffd,
                         handoff_pid(session->handoff), destination->faulters,
                         destination->engines, &destination->placers);
    destination->serving = !ret;
    return ret;
}

/* Every page is there, or serve what is missing, once all is known. */
static void start_if_ready(struct session *session)
{
    struct session_destination *destination = session->destination;
    int ret;

    if (!destination->left_known || destination->uffd < 0)
        return;
    ret = serve(session);
    if (session->state == SESSION_PAUSED)
        return; /* till the source is back */
    session_set_state(session, SESSION_ACTIVE);
    if (ret)
        session_pause(session, "starting threads: %s", strerror(-ret));
    else
        connect_receiver(session);
}

static void on_left_end(struct session *session, const Remapd__LeftEnd *end)
{
    struct session_destination *destination = session->destination;

    if (session->state != SESSION_PREPARED || destination->left_known) {
        session_lost(session, "the source says out of turn what is left");
        return;
    }
    update_figures(session);
    session->total_pages = session->left_pages;
    if (end->pages != session->total_pages) {
        session_lost(session, "the source names another number of pages than "
                              "it has listed");
        return;
    }
    destination->left_known = true;
    session->keep.record.total_pages = session->total_pages;
    session->keep.record.left_known = true;
    keep_save(&session->keep);
    start_if_ready(session);
}

/* Another remapd has had the source's table: QEMU's is the same. */
static int adopt_table(struct session *session, char *error)
{
    const struct block_table *qemu = &session->destination->qemu_table;
    int ret;

    for (uint32_t i = 0; i < qemu->count; i++) {
        struct block block = qemu->blocks[i];

        block.fd = -1;
        ret = block_table_add(&session->table, &block, error);
        if (ret)
            return ret;
    }
    if (block_table_mark(&session->table) != session->keep.record.table ||
        !new_receiver(session)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "what QEMU has kept is of another block table");
        return -EINVAL;
    }
    session->total_pages = session->keep.record.total_pages;
    ret = begin_staging(session);
    if (ret)
        snprintf(error, ERROR_TEXT_BYTES, "staging: %s", strerror(-ret));
    return ret;
}

static void on_attach(struct session *session,
                      const struct handoff_attach *attach, int *fd)
{
    struct session_destination *destination = session->destination;
    struct block_table *table = &session->table;
    char error[ERROR_TEXT_BYTES];

    if ((session->state != SESSION_PREPARED &&
         session->state != SESSION_PAUSED) ||
        destination->uffd >= 0 ||
        be32toh(attach->blocks) != destination->qemu_table.count) {
        session_refuse(session, "QEMU attaches out of turn");
        return;
    }
    if (session->returned && adopt_table(session, error)) {
        session_refuse(session, error);
        return;
    }
    if (probe_uffd(*fd, false, error) ||
        block_table_bind(table, &destination->qemu_table, error) ||
        block_table_map(table, error)) {
        session_refuse(session, error);
        return;
    }
    destination->faulters = faulters_new(&session->stats);
    if (!destination->faulters ||
        faulters_set_qemu(destination->faulters, handoff_pid(session->handoff),
                          *fd, table)) {
        session_refuse(session, "there are too many open files");
        return;
    }
    destination->uffd = *fd;
    *fd = -1;
    destination->uffd_features =
        be64toh(attach->uffd_features) & probe_granted();
    destination->engines = xcalloc(table->count, sizeof(*destination->engines));
    for (uint32_t i = 0; i < table->count; i++) {
        destination->engines[i] =
            place_engine_for(&table->blocks[i], destination->uffd_features,
                             has_placers(session), session->conf->engine);
        session_log(session, LOG_LEVEL_DEBUG, LOG_EVENT_NONE,
                    "block %s, %llu bytes, engine %s", table->blocks[i].idstr,
                    (unsigned long long)table->blocks[i].length,
                    place_ops_of(destination->engines[i])->name);
    }
    handoff_send(session->handoff, HANDOFF_ATTACHED, NULL, 0);
    start_if_ready(session);
    update_figures(session);
}

/* ---- coming back after a pause ---- */

static void destination_disconnect(struct session *session)
{
    struct session_destination *destination = session->destination;

    join_close_channels(&destination->join);
    destination->resuming = false;
    if (destination->receiver)
        receiver_disconnect(destination->receiver);
    update_figures(session);
}

static void send_resumed(struct session *session)
{
    Remapd__Resumed body = REMAPD__RESUMED__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    body.n_granule = session->table.count;
    body.granule = granules_of(session);
    body.left_known = session->destination->left_known;
    message.body_case = REMAPD__MESSAGE__BODY_RESUMED;
    message.resumed = &body;
    session_send(session, &message);
}

/* Go on where it was, once nothing of the last connection is in use. */
static void resume_if_rests(struct session *session)
{
    struct session_destination *destination = session->destination;
    struct receiver *receiver = destination->receiver;

    if (!destination->resuming || !receiver_rests(receiver))
        return;
    destination->resuming = false;
    receiver_again(receiver);
    join_give_channels(session, receiver);
    send_resumed(session);
    update_figures(session);
    if (destination->left_known)
        wire_send_left(session, receiver_wanted(receiver));
    if (!destination->left_known || destination->uffd < 0) {
        session_resume(session, SESSION_PREPARED);
    } else if (serve(session)) {
        session_lost(session, "no more threads can be had");
    } else {
        session_resume(session, SESSION_ACTIVE);
        connect_receiver(session);
    }
}

static void on_resume(struct session *session)
{
    struct session_destination *destination = session->destination;

    if (session->state != SESSION_PAUSED || destination->resuming ||
        !destination->receiver || !join_whole(session)) {
        session_lost(session, "the source comes back before it has opened all "
                              "channels, or out of turn");
        return;
    }
    destination->resuming = true;
    resume_if_rests(session);
}

/* ---- vhost-user back ends ---- */

static void forget_arriving(struct session_destination *destination)
{
    if (destination->arriving.uffd >= 0)
        close(destination->arriving.uffd);
    destination->arriving.uffd = -1;
    free(destination->arriving.regions);
    destination->arriving.regions = NULL;
    destination->arriving.count = 0;
}

/* All that QEMU has to say of a back end is here. */
static void set_faulter(struct session *session)
{
    struct session_destination *destination = session->destination;
    const struct handoff_faulter *message = &destination->arriving.message;
    uint32_t count = destination->arriving.count;
    int ret = faulters_set(destination->faulters, be32toh(message->index),
                           message->name, (pid_t)be32toh(message->pid),
                           destination->arriving.uffd,
                           destination->arriving.regions, count);

    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_NONE,
                "back end %s %s, %u regions", message->name,
                count ? "takes part" : "has gone", count);
    forget_arriving(destination);
    if (ret)
        session_refuse(session, "a back end's userfaultfd cannot be polled");
}

static void on_faulter(struct session *session,
                       const struct handoff_faulter *message, int *fd)
{
    struct session_destination *destination = session->destination;
    uint32_t index = be32toh(message->index);
    uint32_t regions = be32toh(message->regions);
    char error[ERROR_TEXT_BYTES];

    if (destination->uffd < 0 || destination->arriving.regions || !index ||
        index >= HANDOFF_MAX_FAULTERS || regions > HANDOFF_MAX_REGIONS ||
        !memchr(message->name, 0, sizeof(message->name)) || !*message->name) {
        session_refuse(session, "QEMU hands over a back end out of turn");
        return;
    }
    if (regions && probe_uffd(*fd, true, error)) {
        session_refuse(session, error);
        return;
    }
    destination->arriving.message = *message;
    if (!regions) {
        set_faulter(session);
        return;
    }
    destination->arriving.uffd = *fd;
    *fd = -1;
    destination->arriving.regions =
        xcalloc(regions, sizeof(*destination->arriving.regions));
}

static void on_region(struct session *session,
                      const struct handoff_region *message)
{
    struct session_destination *destination = session->destination;
    char error[ERROR_TEXT_BYTES];

    if (!destination->arriving.regions ||
        message->faulter != destination->arriving.message.index) {
        session_refuse(session, "QEMU hands over a region out of turn");
        return;
    }
    if (faulter_region_parse(
            &session->table, message,
            &destination->arriving.regions[destination->arriving.count],
            error)) {
        session_refuse(session, error);
        return;
    }
    if (++destination->arriving.count ==
        be32toh(destination->arriving.message.regions))
        set_faulter(session);
}

/* ---- while pages move ---- */

static void check_stall(struct session *session)
{
    char error[ERROR_TEXT_BYTES];

    if (receiver_stalls(session->destination->receiver,
                        session_patience_ns(session), error))
        session_lost(session, error);
}

static void destination_tick(struct session *session)
{
    struct receiver *receiver = session->destination->receiver;

    if (receiver)
        receiver_tick(receiver);
    if (session->state == SESSION_PAUSED && receiver &&
        receiver_broken(receiver)) {
        /* Whoever reads faults cannot go on. QEMU comes back, as it would to
         * another remapd, and hands over everything anew. */
        session_close(session);
        return;
    }
    if (session->state == SESSION_JOINED && session->destination->receiver) {
        agree_if_primed(session);
    } else if (session->state == SESSION_ACTIVE) {
        send_progress(session);
        check_stall(session);
    }
    wire_keep_alive(session);
}

static void plane_news(struct session *session)
{
    struct receiver *receiver = session->destination->receiver;
    const char *error = receiver_error(receiver);

    if (!receiver_left(receiver)) {
        session->complete_ns = now_ns();
        update_figures(session);
        if (session->state == SESSION_PAUSED)
            session_resume(session, SESSION_COMPLETE);
        else
            session_set_state(session, SESSION_COMPLETE);
        destination_send_complete(session);
    } else if (session->state == SESSION_PAUSED) {
        resume_if_rests(session);
    } else if (error) {
        char reason[ERROR_TEXT_BYTES];

        snprintf(reason, sizeof(reason), "%s", error);
        session_lost(session, reason);
    }
}

/* QEMU is told once no thread can touch its memory any more. */
static void detach_if_ended(struct session *session)
{
    struct session_destination *destination = session->destination;

    if (!session_ops_of(session)->ended(session))
        return;
    close(destination->uffd);
    destination->uffd = -1;
    handoff_send(session->handoff, HANDOFF_DETACHED, NULL, 0);
    if (session->state == SESSION_COMPLETE)
        receiver_collapse(destination->receiver, handoff_pid(session->handoff));
    faulters_free(destination->faulters);
    destination->faulters = NULL;
    session_close(session);
}

static void destination_plane(struct session *session)
{
    if (session->destination->detaching)
        detach_if_ended(session);
    else if (session->state == SESSION_ACTIVE ||
             (session->state == SESSION_PAUSED &&
              session->destination->serving))
        plane_news(session);
    else if (session->state == SESSION_PAUSED)
        resume_if_rests(session);
}

static void control_message(void *owner, const Remapd__Message *message)
{
    struct session *session = owner;

    session->heard_ns = now_ns();
    switch (message->body_case) {
    case REMAPD__MESSAGE__BODY_BLOCK:
        on_block(session, message->block);
        break;
    case REMAPD__MESSAGE__BODY_PREPARE:
        on_prepare(session, message->prepare);
        break;
    case REMAPD__MESSAGE__BODY_LEFT:
        on_left(session, message->left);
        break;
    case REMAPD__MESSAGE__BODY_LEFT_END:
        on_left_end(session, message->left_end);
        break;
    case REMAPD__MESSAGE__BODY_RESUME:
        on_resume(session);
        break;
    default:
        wire_take_common(session, message,
                         "the source sent a message that only a destination "
                         "sends");
    }
}

static void control_closed(void *owner, const char *reason)
{
    wire_closed(owner, reason);
}

static void on_detach(struct session *session)
{
    struct session_destination *destination = session->destination;

    if (session->state == SESSION_ACTIVE) {
        session_pause(session, "QEMU detaches before every page is placed");
    } else if (session->state != SESSION_COMPLETE &&
               session->state != SESSION_PAUSED) {
        session_refuse(session, "QEMU detaches out of turn");
        return;
    }
    session_ops_of(session)->stop(session);
    destination->detaching = true;
    detach_if_ended(session);
}

static void handoff_message(void *owner, enum handoff_type type,
                            const void *body, int *fd)
{
    struct session *session = owner;

    switch (type) {
    case HANDOFF_BLOCK:
        wire_take_block(session, &session->destination->qemu_table, body, fd);
        break;
    case HANDOFF_ATTACH:
        on_attach(session, body, fd);
        break;
    case HANDOFF_PLACER:
        on_placer(session, body, fd);
        break;
    case HANDOFF_FAULTER:
        on_faulter(session, body, fd);
        break;
    case HANDOFF_REGION:
        on_region(session, body);
        break;
    case HANDOFF_DETACH:
        on_detach(session);
        break;
    default:
        session_refuse(session, "the destination's QEMU sent a message that "
                                "only a source's sends");
    }
}

static void handoff_closed(void *owner, const char *reason)
{
    session_qemu_left(owner, reason);
}

static void destination_stop(struct session *session)
{
    struct session_destination *destination = session->destination;

    if (destination->receiver)
        receiver_stop(destination->receiver);
    update_figures(session);
}

static bool destination_ended(const struct session *session)
{
    const struct receiver *receiver = session->destination->receiver;

    return !receiver || receiver_ended(receiver);
}

static void destination_fini(struct session *session)
{
    struct session_destination *destination = session->destination;

    receiver_free(destination->receiver);
    faulters_free(destination->faulters);
    forget_arriving(destination);
    join_close_channels(&destination->join);
    for (unsigned i = 0; i < destination->placers.count; i++)
        placer_free(destination->placers.placers[i]);
    if (destination->uffd >= 0)
        close(destination->uffd);
    block_table_fini(&destination->qemu_table);
    free(destination->engines);
    explicit_bzero(destination, sizeof(*destination));
    free(destination);
}

static enum place_engine destination_engine(const struct session *session,
                                            uint32_t block)
{
    return session->destination->engines ? session->destination->engines[block]
                                         : PLACE_ENGINES;
}

/* Without a userfaultfd its guest has not run yet. */
static const char *destination_qemu_left(const struct session *session)
{
    const struct session_destination *destination = session->destination;

    return session->returned || destination->left_known ||
                   destination->uffd >= 0
               ? PLACE_QEMU_LEFT
               : "the destination's QEMU has left before it had the guest, "
                 "which is at its source";
}

const struct session_ops session_destination_ops = {
    .handoff = {.message = handoff_message, .closed = handoff_closed},
    .control = {.message = control_message, .closed = control_closed},
    .init = destination_init,
    .tick = destination_tick,
    .plane = destination_plane,
    .figures = update_figures,
    .disconnect = destination_disconnect,
    .stop = destination_stop,
    .ended = destination_ended,
    .qemu_left = destination_qemu_left,
    .fini = destination_fini,
    .engine = destination_engine,
};
