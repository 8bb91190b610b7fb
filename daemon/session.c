/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>

#include "log.h"
#include "metrics.h"

static const char *const state_names[] = {
    [SESSION_WAITING] = "waiting", [SESSION_JOINING] = "joining",
    [SESSION_JOINED] = "joined",   [SESSION_PREPARED] = "prepared",
    [SESSION_ACTIVE] = "active",   [SESSION_COMPLETE] = "complete",
    [SESSION_PAUSED] = "paused",   [SESSION_FAILED] = "failed",
    [SESSION_CLOSED] = "closed",
};

_Static_assert(ARRAY_SIZE(state_names) == SESSION_STATES,
               "a name for every state");

static struct session *sessions, *closing;
static unsigned session_total;

#define SESSION_END_NAPS 100 /* of 10 ms, at the end of the program */

/* The last sessions that ended, oldest first from ended_count on. */
#define SESSION_MAX_ENDED 16
static struct json_object *ended[SESSION_MAX_ENDED];
static unsigned ended_count;

const struct session_ops *session_ops_of(const struct session *session)
{
    return session->role == HANDOFF_SOURCE ? &session_source_ops
                                           : &session_destination_ops;
}

const char *session_role_name(enum handoff_role role)
{
    return role == HANDOFF_SOURCE ? "source" : "destination";
}

const char *session_state_name(enum session_state state)
{
    return state_names[state];
}

static const char *role_name(const struct session *session)
{
    return session_role_name(session->role);
}

void session_log(const struct session *session, enum log_level level,
                 enum log_event event, const char *format, ...)
{
    const struct log_about about = {event, session->id_text, role_name(session),
                                    session->name};
    va_list args;

    va_start(args, format);
    log_about(level, &about, format, args);
    va_end(args);
}

static void session_unlink(struct session **list, struct session *session)
{
    while (*list != session)
        list = &(*list)->next;
    *list = session->next;
}

/* Nobody knows the session any more, and its threads have ended. */
static void session_free(struct session *session)
{
    session_unlink(&closing, session);
    session_total--;
    session_ops_of(session)->fini(session);
    event_free(session->notify);
    close(session->notify_fd);
    block_table_fini(&session->table);
    keep_fini(&session->keep);
    explicit_bzero(session, sizeof(*session));
    free(session);
}

static void session_sample(struct session *session, bool last)
{
    struct timeval distance = {
        .tv_sec = (time_t)(session->series.distance_ns / 1000000000),
        .tv_usec = (suseconds_t)(session->series.distance_ns / 1000 % 1000000)};

    series_note(&session->series, &session->stats.latency, session->left_pages);
    if (last)
        event_del(session->sampler);
    else
        event_add(session->sampler, &distance);
}

static void session_sampled(evutil_socket_t fd, short what, void *opaque)
{
    struct session *session = opaque;

    (void)fd;
    (void)what;
    session_ops_of(session)->figures(session);
    session_sample(session, false);
}

static void session_tick(evutil_socket_t fd, short what, void *opaque)
{
    struct session *session = opaque;

    (void)fd;
    (void)what;
    session_ops_of(session)->tick(session);
}

static void session_notified(evutil_socket_t fd, short what, void *opaque)
{
    struct session *session = opaque;
    eventfd_t value;

    (void)what;
    eventfd_read(fd, &value);
    if (!session->closing)
        session_ops_of(session)->plane(session);
    else if (session_ops_of(session)->ended(session))
        session_free(session);
}

/* Takes @keep over, also if it fails. */
static int session_begin(struct event_base *base, const struct conf *conf,
                         struct handoff *handoff,
                         const struct handoff_hello *hello, struct keep *keep,
                         bool returned, char *error)
{
    int notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct session *session;

    if (notify_fd < 0) {
        int ret = -errno;

        snprintf(error, ERROR_TEXT_BYTES, "remapd is out of descriptors: %s",
                 strerror(-ret));
        keep_fini(keep);
        return ret;
    }
    session = xcalloc(1, sizeof(*session));
    session->base = base;
    session->conf = conf;
    session->role = be32toh(hello->role);
    session->handoff = handoff;
    session->keep = *keep;
    session->returned = returned;
    session->created_ns = session->heard_ns = now_ns();
    snprintf(session->name, sizeof(session->name), "%s", hello->name);
    session_set_id(session, keep->record.session);
    session->notify_fd = notify_fd;
    session->notify = event_new(base, session->notify_fd, EV_READ | EV_PERSIST,
                                session_notified, session);
    session->tick = event_new(base, -1, EV_PERSIST, session_tick, session);
    session->sampler = evtimer_new(base, session_sampled, session);
    if (!session->notify || !session->tick || !session->sampler ||
        event_add(session->notify, NULL))
        abort();
    session_heartbeat(session, 1000);
    session->next = sessions;
    sessions = session;
    session_total++;
    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_BEGINS,
                "%s of %s, QEMU %d%s", role_name(session),
                *session->name ? session->name : "a guest without a name",
                handoff_pid(handoff),
                returned ? ", which was with another remapd before" : "");
    if (returned) {
        session->state = SESSION_PAUSED;
        session->paused_ns = session->created_ns;
        session->pauses = 1;
        snprintf(session->error, sizeof(session->error),
                 "remapd was started anew");
    }
    handoff_adopt(handoff, &session_ops_of(session)->handoff, session);
    session_ops_of(session)->init(session, hello);
    return 0;
}

int session_new(struct event_base *base, const struct conf *conf,
                struct handoff *handoff, const struct handoff_hello *hello,
                char *error)
{
    struct keep keep;
    int ret = keep_init(&keep, be32toh(hello->role), be64toh(hello->ram_bytes));

    if (ret) {
        snprintf(error, ERROR_TEXT_BYTES, "no memory for the map of pages: %s",
                 strerror(-ret));
        return ret;
    }
    if (getrandom(keep.record.session, sizeof(keep.record.session), 0) !=
        sizeof(keep.record.session))
        abort();
    return session_begin(base, conf, handoff, hello, &keep, false, error);
}

/* Its threads may still be writing into the guest. */
static bool session_lingers(const struct session *list, enum handoff_role role,
                            const uint8_t *id)
{
    for (; list; list = list->next) {
        if (list->role == role && !memcmp(list->id, id, sizeof(list->id)))
            return true;
    }
    return false;
}

int session_return(struct event_base *base, const struct conf *conf,
                   struct handoff *handoff, const struct handoff_hello *hello,
                   int fd, char *error)
{
    enum handoff_role role = be32toh(hello->role);
    struct keep keep = {0};
    int ret = keep_load(&keep, fd, role, error);

    if (ret)
        return ret;
    if (session_lingers(sessions, role, keep.record.session) ||
        session_lingers(closing, role, keep.record.session)) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "the session that QEMU left has not ended yet");
        keep_fini(&keep);
        return -EBUSY;
    }
    return session_begin(base, conf, handoff, hello, &keep, true, error);
}

void session_welcome(struct session *session, struct handoff_welcome *welcome)
{
    memcpy(welcome->session, session->id, sizeof(welcome->session));
    handoff_send(session->handoff, HANDOFF_WELCOME, welcome, sizeof(*welcome));
    if (!session->returned)
        handoff_send_fd(session->handoff, HANDOFF_KEEP, session->keep.fd);
}

struct session *session_find(const uint8_t *id, size_t id_bytes)
{
    for (struct session *s = sessions; s && id_bytes == sizeof(s->id);
         s = s->next) {
        if (s->role == HANDOFF_DESTINATION && !memcmp(s->id, id, id_bytes))
            return s;
    }
    return NULL;
}

struct session *session_find_text(const char *text)
{
    struct session *found = NULL;

    for (struct session *s = sessions; s; s = s->next) {
        if (strncmp(s->id_text, text, strlen(text)))
            continue;
        if (found)
            return NULL;
        found = s;
    }
    return found;
}

struct session *session_first(void)
{
    return sessions;
}

unsigned session_count(void)
{
    return session_total;
}

void session_set_id(struct session *session, const uint8_t *id)
{
    memcpy(session->id, id, SESSION_ID_BYTES);
    for (unsigned i = 0; i < SESSION_ID_BYTES; i++)
        snprintf(session->id_text + 2 * i, 3, "%02x", id[i]);
}

void session_set_state(struct session *session, enum session_state state)
{
    session->state = state;
    if (state == SESSION_ACTIVE && !session->series.distance_ns)
        series_begin(&session->series);
    if (state >= SESSION_ACTIVE)
        session_sample(session, state > SESSION_ACTIVE);
    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_STATE, "%s %s",
                role_name(session), state_names[state]);
}

void session_heartbeat(struct session *session, unsigned ms)
{
    struct timeval interval = {ms / 1000, ms % 1000 * 1000};

    event_add(session->tick, &interval);
}

uint64_t session_patience_ns(const struct session *session)
{
    return session->conf->peer_timeout_s * 1000000000ull;
}

void session_send(struct session *session, const Remapd__Message *message)
{
    if (!session->control)
        return;
    session->spoke_ns = now_ns();
    msg_conn_send(session->control, message);
}

/* Tell the peer why, and QEMU, and keep it. */
enum tell { TELL_FAILED, TELL_LEFT, TELL_PAUSED };

static void session_tell(struct session *session, enum tell what,
                         const char *reason)
{
    Remapd__Abort abort_body = REMAPD__ABORT__INIT;
    Remapd__Pause pause_body = REMAPD__PAUSE__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    snprintf(session->error, sizeof(session->error), "%s", reason);
    if (what == TELL_PAUSED) {
        pause_body.reason = session->error;
        message.body_case = REMAPD__MESSAGE__BODY_PAUSE;
        message.pause = &pause_body;
    } else {
        abort_body.reason = session->error;
        abort_body.left = what == TELL_LEFT;
        message.body_case = REMAPD__MESSAGE__BODY_ABORT;
        message.abort = &abort_body;
    }
    session_send(session, &message);
    if (session->handoff)
        handoff_send_text(session->handoff,
                          what == TELL_PAUSED ? HANDOFF_PAUSED : HANDOFF_ERROR,
                          session->error);
}

void session_fail(struct session *session, const char *format, ...)
{
    char reason[ERROR_TEXT_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    session_log(session, LOG_LEVEL_ERROR, LOG_EVENT_FAILED, "%s failed: %s",
                role_name(session), reason);
    session_tell(session, TELL_FAILED, reason);
    session->state = SESSION_FAILED;
    session_close(session);
}

void session_leave(struct session *session, const char *reason)
{
    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_NONE, "%s: %s",
                role_name(session), reason);
    session_tell(session, TELL_LEFT, reason);
    session_close(session);
}

/* Nothing is left of the connection, if there is one. */
static void session_disconnect(struct session *session)
{
    msg_conn_free(session->control);
    session->control = NULL;
    session_ops_of(session)->disconnect(session);
}

void session_pause(struct session *session, const char *format, ...)
{
    char reason[ERROR_TEXT_BYTES];
    va_list args;

    if (session->state == SESSION_PAUSED)
        return;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    session_log(session, LOG_LEVEL_ERROR, LOG_EVENT_PAUSED,
                "%s paused, %llu pages left: %s", role_name(session),
                (unsigned long long)session->left_pages, reason);
    session->loss_said =
        strstr(reason, session_ops_of(session)->qemu_left(session));
    session_tell(session, TELL_PAUSED, reason);
    session_sample(session, true);
    session->state = SESSION_PAUSED;
    session->paused_ns = now_ns();
    session->pauses++;
    session_disconnect(session);
}

void session_lost(struct session *session, const char *reason)
{
    if (session->state == SESSION_ACTIVE) {
        session_pause(session, "%s", reason);
    } else if (session->state == SESSION_PAUSED) {
        bool known = !strcmp(session->hindrance, reason);

        /* Said once, not at each try. */
        session_log(session, known ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO,
                    LOG_EVENT_NONE, "%s cannot go on yet: %s",
                    role_name(session), reason);
        snprintf(session->hindrance, sizeof(session->hindrance), "%s", reason);
        session_disconnect(session);
    } else if (session->state < SESSION_ACTIVE) {
        session_fail(session, "%s", reason);
    }
}

void session_no_channel(struct session *session, const char *peer, int ret)
{
    char reason[ERROR_TEXT_BYTES];

    snprintf(reason, sizeof(reason), "a channel of the %s: %s", peer,
             ret == -EPROTO ? "it spoke too early" : strerror(-ret));
    session_lost(session, reason);
}

void session_refuse(struct session *session, const char *reason)
{
    if (session->state != SESSION_PAUSED) {
        session_lost(session, reason);
        return;
    }
    session_log(session, LOG_LEVEL_WARNING, LOG_EVENT_NONE,
                "%s cannot go on with this QEMU: %s", role_name(session),
                reason);
    handoff_send_text(session->handoff, HANDOFF_ERROR, reason);
    session_close(session);
}

void session_broken(struct session *session, const char *reason)
{
    if (session->role == HANDOFF_DESTINATION &&
        session->state == SESSION_PREPARED)
        session_pause(session, "%s", reason);
    else
        session_lost(session, reason);
}

void session_resume(struct session *session, enum session_state state)
{
    uint64_t now = now_ns();

    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_NONE,
                "%s goes on after %.1f s, %llu pages left", role_name(session),
                (double)(now - session->paused_ns) / 1e9,
                (unsigned long long)session->left_pages);
    session->past_paused_ns += now - session->paused_ns;
    session->error[0] = session->hindrance[0] = 0;
    session_set_state(session, state);
    handoff_send(session->handoff, HANDOFF_RESUMED, NULL, 0);
}

/* Into a file that is there whole, or not at all. */
static void report_write(const char *path, struct json_object *json)
{
    char part[512 + sizeof(".part")];

    snprintf(part, sizeof(part), "%s.part", path);
    if (json_object_to_file_ext(part, json, JSON_C_TO_STRING_PRETTY) < 0)
        log_error("no report: %s: %s", part, strerror(errno));
    else if (rename(part, path))
        log_error("no report: %s: %s", path, strerror(errno));
    else
        return;
    unlink(part);
}

/* Keep what is known of a session that ends: for remapctl, and in a file. */
static void session_remember(const struct session *session)
{
    struct json_object **slot = &ended[ended_count++ % SESSION_MAX_ENDED];
    char path[512];

    json_object_put(*slot);
    *slot = session_json(session);
    json_object_object_add(*slot, "samples", series_json(&session->series));
    if (!session->conf->report_dir)
        return;
    snprintf(path, sizeof(path), "%s/%s-%s.json", session->conf->report_dir,
             session->id_text, role_name(session));
    report_write(path, *slot);
}

struct json_object *session_report(const char *id)
{
    struct json_object *found = NULL;
    const char *found_id = NULL;

    for (unsigned i = 0; i < SESSION_MAX_ENDED && *id; i++) {
        struct json_object *json = ended[i];
        const char *its_id, *role;

        if (!json)
            continue;
        its_id =
            json_object_get_string(json_object_object_get(json, "session"));
        role = json_object_get_string(json_object_object_get(json, "role"));
        if (strncmp(its_id, id, strlen(id)))
            continue;
        if (found && strcmp(found_id, its_id))
            return NULL;
        if (!found || !strcmp(role, "destination")) {
            found = json;
            found_id = its_id;
        }
    }
    return json_object_get(found);
}

static struct json_object *without_samples(struct json_object *json)
{
    struct json_object *copy = json_object_new_object();

    json_object_object_foreach(json, key, value)
    {
        if (strcmp(key, "samples"))
            json_object_object_add(copy, key, json_object_get(value));
    }
    return copy;
}

struct json_object *session_ended_json(void)
{
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < SESSION_MAX_ENDED; i++) {
        struct json_object *json = ended[(ended_count + i) % SESSION_MAX_ENDED];

        if (json)
            json_object_array_add(list, without_samples(json));
    }
    return list;
}

void session_close(struct session *session)
{
    session_ops_of(session)->stop(session);
    if (session->state != SESSION_FAILED && session->state != SESSION_PAUSED &&
        session->state != SESSION_COMPLETE)
        session->state = SESSION_CLOSED;
    if (session->state != SESSION_CLOSED)
        session_remember(session);
    metrics_retire(session);
    session_log(session, LOG_LEVEL_INFO, LOG_EVENT_ENDS, "%s ends, %s",
                role_name(session), state_names[session->state]);
    session_unlink(&sessions, session);
    session->next = closing;
    closing = session;
    session->closing = true;
    handoff_free(session->handoff);
    msg_conn_free(session->control);
    event_free(session->tick);
    event_free(session->sampler);
    if (session_ops_of(session)->ended(session))
        session_free(session);
}

void session_qemu_left(struct session *session, const char *reason)
{
    const char *role = role_name(session);
    const char *lost = session_ops_of(session)->qemu_left(session);

    if (session->state == SESSION_ACTIVE)
        session_pause(session, "%s: %s", lost, reason);
    else if (session->state == SESSION_PAUSED && !session->loss_said)
        session_log(session, LOG_LEVEL_ERROR, LOG_EVENT_NONE, "%s", lost);
    if (session->state >= SESSION_ACTIVE) {
        session_close(session);
    } else if (strcmp(reason, HANDOFF_LEFT)) {
        session_fail(session, "the %s's QEMU is lost before the switchover: %s",
                     role, reason);
    } else if (!session->control) {
        session_log(session, LOG_LEVEL_INFO, LOG_EVENT_NONE, "QEMU left: %s",
                    reason);
        session_close(session);
    } else {
        char left[ERROR_TEXT_BYTES];

        snprintf(left, sizeof(left), "the %s's QEMU left before the switchover",
                 role);
        session_leave(session, left);
    }
}

int session_cancel(struct session *session)
{
    if (session->state >= SESSION_ACTIVE)
        return -EBUSY;
    session_fail(session, "cancelled by the operator");
    return 0;
}

static void add_number(struct json_object *json, const char *key,
                       uint64_t value)
{
    json_object_object_add(json, key, json_object_new_uint64(value));
}

static bool is_utf8(const char *text)
{
    struct json_tokener *tokener = json_tokener_new();
    struct json_object *json = json_object_new_string(text);
    struct json_object *parsed;
    bool good;

    json_tokener_set_flags(tokener, JSON_TOKENER_VALIDATE_UTF8);
    parsed =
        json_tokener_parse_ex(tokener, json_object_to_json_string(json), -1);
    good = parsed;
    json_object_put(parsed);
    json_object_put(json);
    json_tokener_free(tokener);
    return good;
}

/* @value, of which a QEMU or a peer may have said what it liked. */
static void add_text(struct json_object *json, const char *key,
                     const char *value)
{
    AUTO_FREE char *text = strdup(value);
    size_t end;
    bool good;

    if (!text)
        abort();
    good = is_utf8(text);
    end = strlen(text);
    /* Its end may be within a character, of up to four bytes. */
    for (unsigned cut = 0; !good && cut < 4 && end; cut++) {
        text[--end] = 0;
        good = is_utf8(text);
    }
    if (!good) {
        strcpy(text, value);
        for (char *c = text; *c; c++)
            *c = (unsigned char)*c < 0x80 ? *c : '?';
    }
    json_object_object_add(json, key, json_object_new_string(text));
}

/* The engines in use, the one with the most memory first. */
static void add_engines(struct json_object *json, const struct session *session)
{
    uint64_t bytes[PLACE_ENGINES + 1] = {0};
    struct json_object *list = json_object_new_object();
    unsigned most = PLACE_ENGINES;

    for (uint32_t i = 0; i < session->table.count; i++)
        bytes[session_ops_of(session)->engine(session, i)] +=
            session->table.blocks[i].length;
    for (unsigned i = 0; i < PLACE_ENGINES; i++) {
        if (!bytes[i])
            continue;
        add_number(list, place_ops_of(i)->name, bytes[i]);
        if (most == PLACE_ENGINES || bytes[i] > bytes[most])
            most = i;
    }
    add_text(json, "engine",
             most == PLACE_ENGINES ? "" : place_ops_of(most)->name);
    json_object_object_add(json, "engine_bytes", list);
}

static void add_faulters(struct json_object *json, const struct stats *stats)
{
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < STATS_MAX_FAULTERS; i++) {
        const struct stats_faulter *faulter = &stats->faulters[i];
        struct json_object *entry;

        if (!*faulter->name)
            continue;
        entry = json_object_new_object();
        add_text(entry, "name", faulter->name);
        add_number(entry, "faults", faulter->faults);
        add_number(entry, "shown", faulter->shown_pages);
        json_object_array_add(list, entry);
    }
    json_object_object_add(json, "faulters", list);
}

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

static uint64_t session_paused_ns(const struct session *session)
{
    return session->past_paused_ns + (session->state == SESSION_PAUSED
                                          ? now_ns() - session->paused_ns
                                          : 0);
}

struct json_object *session_json(const struct session *session)
{
    const struct stats *stats = &session->stats;
    struct json_object *json = json_object_new_object();
    struct json_object *pages = json_object_new_object();
    struct json_object *latency = json_object_new_object();
    struct json_object *huge = json_object_new_object();
    uint64_t now = session->complete_ns ? session->complete_ns : now_ns();

    add_text(json, "session", session->id_text);
    add_text(json, "name", session->name);
    add_text(json, "role", role_name(session));
    add_text(json, "state", state_names[session->state]);
    add_text(json, "error", session->error);
    add_text(json, "peer",
             session->control ? msg_conn_peer(session->control) : "");
    add_text(json, "cipher", session->cipher ? session->cipher : "");
    add_engines(json, session);
    json_object_object_add(
        json, "seconds",
        json_object_new_double(seconds(session->active_ns, now)));
    add_number(pages, "total", session->total_pages);
    add_number(pages, "left", session->left_pages);
    add_number(pages, "zero", stats->zero_pages);
    add_number(pages, "data", stats->data_pages);
    add_number(pages, "urgent", stats->urgent_pages);
    add_number(pages, "bulk", stats->bulk_pages);
    add_number(pages, "duplicate", stats->duplicate_pages);
    add_number(pages, "present", stats->present_pages);
    add_number(pages, "fallback", stats->fallback_pages);
    add_number(huge, "whole", stats->huge_pages);
    add_number(huge, "pieces", stats->pieces);
    json_object_object_add(json, "huge_pages", huge);
    add_number(pages, "copied_shared", stats->copied_shared_pages);
    add_number(pages, "spliced", stats->spliced_pages);
    json_object_object_add(json, "pages", pages);
    add_number(pages, "resent", session->resent_pages);
    add_number(json, "pauses", session->pauses);
    json_object_object_add(
        json, "paused_seconds",
        json_object_new_double((double)session_paused_ns(session) / 1e9));
    add_number(json, "bytes_on_wire", session->wire_bytes);
    add_number(json, "map_bytes", session->map_bytes);
    add_number(json, "faults", stats->faults);
    add_faulters(json, stats);
    add_number(latency, "p50", histogram_quantile(&stats->latency, 0.5) / 1000);
    add_number(latency, "p99",
               histogram_quantile(&stats->latency, 0.99) / 1000);
    add_number(latency, "max", stats->latency.max_ns / 1000);
    add_number(latency, "count", stats->latency.count);
    add_number(latency, "sum", stats->latency.sum_ns / 1000);
    json_object_object_add(json, "fault_latency_us", latency);
    return json;
}

void session_close_all(void)
{
    while (sessions) {
        struct session *session = sessions;

        if (session->state < SESSION_ACTIVE) {
            session_fail(session, "remapd ends");
            continue;
        }
        if (session->state == SESSION_ACTIVE)
            session_pause(session, "remapd ends");
        session_close(session);
    }
    /* A thread that hangs in a QEMU's memory ends with the process. */
    for (unsigned naps = 0; closing && naps < SESSION_END_NAPS; naps++) {
        struct session *session = closing, *next;

        for (; session; session = next) {
            next = session->next;
            if (session_ops_of(session)->ended(session))
                session_free(session);
        }
        if (closing)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
}
