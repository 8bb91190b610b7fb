/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "metrics.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stddef.h>
#include <string.h>

#include "listener.h"
#include "log.h"
#include "session.h"
#include "version.h"
#include "wire.h"

#define METRICS_TIMEOUT_S  5
#define METRICS_MAX_HEADER 4096
#define METRICS_BACKLOG    16
#define METRICS_ROLES      2

/* What sessions count: one row of struct stats each. Rows with the same name
 * follow each other and differ by their label. */
static const struct counter_row {
    const char *name, *label, *help;
    size_t offset;
} counters[] = {
    {"remapd_pages", "content=\"zero\"",
     "Pages placed by a destination or sent by a source, by what they hold.",
     offsetof(struct stats, zero_pages)},
    {"remapd_pages", "content=\"data\"", NULL,
     offsetof(struct stats, data_pages)},
    {"remapd_channel_pages", "channel=\"urgent\"",
     "Pages by the kind of connection that carried them.",
     offsetof(struct stats, urgent_pages)},
    {"remapd_channel_pages", "channel=\"bulk\"", NULL,
     offsetof(struct stats, bulk_pages)},
    {"remapd_duplicate_pages", "", "Pages that arrived twice and were dropped.",
     offsetof(struct stats, duplicate_pages)},
    {"remapd_fallback_pages", "",
     "Pages that were copied since the engine could not place them.",
     offsetof(struct stats, fallback_pages)},
    {"remapd_huge_pages", "", "Huge pages placed in one piece.",
     offsetof(struct stats, huge_pages)},
    {"remapd_faults", "", "Faults of guests that needed a page.",
     offsetof(struct stats, faults)},
};

/* Upper ends of the buckets of remapd_fault_latency_seconds. */
static const struct {
    const char *text;
    uint64_t ns;
} buckets[] = {
    {"0.0001", 100000}, {"0.00025", 250000}, {"0.0005", 500000},
    {"0.001", 1000000}, {"0.0025", 2500000}, {"0.005", 5000000},
    {"0.01", 10000000}, {"0.025", 25000000}, {"0.05", 50000000},
    {"0.1", 100000000}, {"0.25", 250000000}, {"0.5", 500000000},
    {"1", 1000000000},  {"2.5", 2500000000}, {"10", 10000000000},
};

/* Sums over sessions of one role. */
struct sums {
    uint64_t counters[ARRAY_SIZE(counters)];
    uint64_t buckets[ARRAY_SIZE(buckets)], latency_count, latency_ns;
    uint64_t wire_bytes;
};

static struct sums ended[METRICS_ROLES]; /* of those that have ended */
static uint64_t ended_sessions[METRICS_ROLES][SESSION_STATES];
static struct evhttp *http;

static const enum handoff_role roles[METRICS_ROLES] = {HANDOFF_SOURCE,
                                                       HANDOFF_DESTINATION};

static unsigned role_index(const struct session *session)
{
    return session->role == HANDOFF_SOURCE ? 0 : 1;
}

static void sums_add(struct sums *sums, const struct session *session)
{
    const struct histogram *latency = &session->stats.latency;

    for (unsigned i = 0; i < ARRAY_SIZE(counters); i++)
        sums->counters[i] +=
            *(const _Atomic uint64_t *)((const char *)&session->stats +
                                        counters[i].offset);
    for (unsigned i = 0; i < ARRAY_SIZE(buckets); i++)
        sums->buckets[i] += histogram_below(latency, buckets[i].ns);
    sums->latency_count += latency->count;
    sums->latency_ns += latency->sum_ns;
    sums->wire_bytes += session->wire_bytes;
}

void metrics_retire(const struct session *session)
{
    sums_add(&ended[role_index(session)], session);
    ended_sessions[role_index(session)][session->state]++;
}

static void head(struct evbuffer *out, const char *name, const char *type,
                 const char *help)
{
    evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name,
                        type);
}

static void put_counters(struct evbuffer *out, const struct sums *sums)
{
    for (unsigned i = 0; i < ARRAY_SIZE(counters); i++) {
        const struct counter_row *row = &counters[i];
        char name[64];

        snprintf(name, sizeof(name), "%s_total", row->name);
        if (row->help)
            head(out, name, "counter", row->help);
        for (unsigned role = 0; role < METRICS_ROLES; role++)
            evbuffer_add_printf(out, "%s{role=\"%s\"%s%s} %llu\n", name,
                                session_role_name(roles[role]),
                                *row->label ? "," : "", row->label,
                                (unsigned long long)sums[role].counters[i]);
    }
    head(out, "remapd_wire_bytes_total", "counter",
         "Bytes of page channels, with the frames' headers.");
    for (unsigned role = 0; role < METRICS_ROLES; role++)
        evbuffer_add_printf(out, "remapd_wire_bytes_total{role=\"%s\"} %llu\n",
                            session_role_name(roles[role]),
                            (unsigned long long)sums[role].wire_bytes);
}

/* A source answers no faults. */
static void put_latency(struct evbuffer *out, const struct sums *sums)
{
    static const char name[] = "remapd_fault_latency_seconds";

    head(out, name, "histogram",
         "From reading a fault to the page being in place, at destinations.");
    for (unsigned i = 0; i < ARRAY_SIZE(buckets); i++)
        evbuffer_add_printf(out, "%s_bucket{le=\"%s\"} %llu\n", name,
                            buckets[i].text,
                            (unsigned long long)sums->buckets[i]);
    evbuffer_add_printf(out,
                        "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9f\n"
                        "%s_count %llu\n",
                        name, (unsigned long long)sums->latency_count, name,
                        (double)sums->latency_ns / 1e9, name,
                        (unsigned long long)sums->latency_count);
}

static void put_states(struct evbuffer *out)
{
    uint64_t running[METRICS_ROLES][SESSION_STATES] = {0};

    for (const struct session *s = session_first(); s; s = s->next)
        running[role_index(s)][s->state]++;
    head(out, "remapd_sessions", "gauge", "Migrations, by state.");
    for (unsigned role = 0; role < METRICS_ROLES; role++) {
        for (unsigned state = 0; state < SESSION_FAILED; state++)
            evbuffer_add_printf(
                out, "remapd_sessions{role=\"%s\",state=\"%s\"} %llu\n",
                session_role_name(roles[role]), session_state_name(state),
                (unsigned long long)running[role][state]);
    }
    head(out, "remapd_sessions_ended_total", "counter",
         "Migrations that have ended, by the state in which.");
    for (unsigned role = 0; role < METRICS_ROLES; role++) {
        for (unsigned state = SESSION_COMPLETE; state < SESSION_STATES; state++)
            evbuffer_add_printf(
                out,
                "remapd_sessions_ended_total{role=\"%s\",state=\"%s\"} "
                "%llu\n",
                session_role_name(roles[role]), session_state_name(state),
                (unsigned long long)ended_sessions[role][state]);
    }
}

/* A label's value: backslash, quote and line feed are escaped. */
static void put_escaped(struct evbuffer *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            evbuffer_add_printf(out, "\\n");
        else if (*text == '\\' || *text == '"')
            evbuffer_add_printf(out, "\\%c", *text);
        else if ((unsigned char)*text < 0x80) /* it must be UTF-8 */
            evbuffer_add(out, text, 1);
        else
            evbuffer_add(out, "?", 1);
    }
}

static void put_session(struct evbuffer *out, const char *name,
                        const struct session *session, uint64_t pages)
{
    evbuffer_add_printf(out, "%s{session=\"%s\",role=\"%s\",guest=\"", name,
                        session->id_text, session_role_name(session->role));
    put_escaped(out, session->name);
    evbuffer_add_printf(out, "\"} %llu\n",
                        (unsigned long long)(pages * PAGE_BYTES));
}

static void put_sessions(struct evbuffer *out)
{
    head(out, "remapd_session_bytes", "gauge",
         "Guest memory that was left at the switchover.");
    for (const struct session *s = session_first(); s; s = s->next)
        put_session(out, "remapd_session_bytes", s, s->total_pages);
    head(out, "remapd_session_left_bytes", "gauge",
         "Guest memory of that which is not yet placed.");
    for (const struct session *s = session_first(); s; s = s->next)
        put_session(out, "remapd_session_left_bytes", s, s->left_pages);
}

static void metrics_answer(struct evhttp_request *request, void *opaque)
{
    struct evbuffer *out = evbuffer_new();
    struct sums sums[METRICS_ROLES];

    (void)opaque;
    if (!out)
        abort();
    memcpy(sums, ended, sizeof(sums));
    for (const struct session *s = session_first(); s; s = s->next)
        sums_add(&sums[role_index(s)], s);
    head(out, "remapd_build_info", "gauge", "1, with the version as a label.");
    evbuffer_add_printf(out, "remapd_build_info{version=\"" REMAPD_VERSION
                             "\"} 1\n");
    put_states(out);
    put_sessions(out);
    put_counters(out, sums);
    put_latency(out, &sums[1]);
    evhttp_add_header(evhttp_request_get_output_headers(request),
                      "Content-Type", "text/plain; version=0.0.4");
    evhttp_send_reply(request, HTTP_OK, "OK", out);
    evbuffer_free(out);
}

void metrics_listen(struct event_base *base, const char *address)
{
    struct sockaddr_storage ss;
    struct evconnlistener *listener;
    socklen_t length;

    if (!address)
        return;
    if (wire_parse(address, &ss, &length))
        die("--metrics: %s is not ADDRESS:PORT with a numeric address",
            address);
    listener = evconnlistener_new_bind(
        base, NULL, NULL,
        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
        METRICS_BACKLOG, (struct sockaddr *)&ss, (int)length);
    if (!listener)
        die("--metrics: %s: %s", address, strerror(errno));
    listener_guard(listener);
    http = evhttp_new(base);
    if (!http || !evhttp_bind_listener(http, listener) ||
        evhttp_set_cb(http, "/metrics", metrics_answer, NULL))
        die("--metrics: no memory");
    evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
    evhttp_set_timeout(http, METRICS_TIMEOUT_S);
    evhttp_set_max_headers_size(http, METRICS_MAX_HEADER);
    evhttp_set_max_body_size(http, 0);
}

void metrics_unlisten(void)
{
    if (http)
        evhttp_free(http);
}
