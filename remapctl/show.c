/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "show.h"

#include <ctype.h>
#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MIB 1048576.0

/* An id's start is enough to name a session: it is random. */
#define ID_SHOWN 8

static struct json_object *member(const struct json_object *json,
                                  const char *path)
{
    const char *dot = strchr(path, '.');
    struct json_object *found = NULL;
    char name[64];

    snprintf(name, sizeof(name), "%.*s",
             dot ? (int)(dot - path) : (int)strlen(path), path);
    if (!json_object_object_get_ex(json, name, &found))
        return NULL;
    return dot ? member(found, dot + 1) : found;
}

int64_t show_number(const struct json_object *json, const char *path)
{
    return json_object_get_int64(member(json, path));
}

double show_real(const struct json_object *json, const char *path)
{
    return json_object_get_double(member(json, path));
}

const char *show_text(const struct json_object *json, const char *path)
{
    struct json_object *found = member(json, path);

    return found ? json_object_get_string(found) : "";
}

static double pages_mib(const struct json_object *json, const char *path)
{
    return (double)show_number(json, path) * SHOW_PAGE_BYTES / MIB;
}

void show_json(struct json_object *json, bool indented)
{
    puts(json_object_to_json_string_ext(
        json, indented ? JSON_C_TO_STRING_PRETTY : JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
}

/* Names come from whoever runs the QEMU: none of their bytes may steer the
 * terminal. */
static const char *cell(const char *text, char *to, size_t size)
{
    size_t i;

    for (i = 0; i < size - 1 && text[i]; i++)
        to[i] = isprint((unsigned char)text[i]) ? text[i] : '?';
    to[i] = 0;
    return i ? to : "-";
}

static const char *microseconds(int64_t value, char *to, size_t size)
{
    if (value < 1000)
        snprintf(to, size, "%lld us", (long long)value);
    else
        snprintf(to, size, "%.1f ms", (double)value / 1000);
    return to;
}

void show_status(const struct json_object *status)
{
    char text[128];

    printf("remapd %s, process %lld\n",
           cell(show_text(status, "version"), text, sizeof(text)),
           (long long)show_number(status, "pid"));
    printf("QEMU at    %s\n",
           cell(show_text(status, "handoff"), text, sizeof(text)));
    printf("peers at   %s\n",
           cell(show_text(status, "listen"), text, sizeof(text)));
    printf("sessions   %lld\n", (long long)show_number(status, "sessions"));
}

#define LIST_COLUMNS 8
#define LIST_CELL    64

static void list_row(const struct json_object *session, char (*row)[LIST_CELL])
{
    static const char *const texts[] = {"session", "name", "role", "state",
                                        "engine"};
    int64_t total = show_number(session, "pages.total");

    for (unsigned i = 0; i < 5; i++) {
        char text[LIST_CELL];

        strcpy(row[i], cell(show_text(session, texts[i]), text,
                            i ? sizeof(text) : ID_SHOWN + 1));
    }
    strcpy(row[5], "-");
    if (total)
        snprintf(row[5], LIST_CELL, "%.1f of %.1f",
                 pages_mib(session, "pages.total") -
                     pages_mib(session, "pages.left"),
                 pages_mib(session, "pages.total"));
    snprintf(row[6], LIST_CELL, "%lld",
             (long long)show_number(session, "faults"));
    if (*show_text(session, "peer"))
        cell(show_text(session, "peer"), row[7], LIST_CELL);
    else
        strcpy(row[7], "-");
}

void show_list(const struct json_object *list)
{
    static const char heads[][LIST_CELL] = {"SESSION", "NAME",   "ROLE",
                                            "STATE",   "ENGINE", "MIB DONE",
                                            "FAULTS",  "PEER"};
    const struct json_object *sessions = member(list, "sessions");
    size_t count = sessions ? json_object_array_length(sessions) : 0;
    int width[LIST_COLUMNS];

    for (unsigned c = 0; c < LIST_COLUMNS; c++)
        width[c] = (int)strlen(heads[c]);
    for (size_t i = 0; i < count; i++) {
        char row[LIST_COLUMNS][LIST_CELL];

        list_row(json_object_array_get_idx(sessions, i), row);
        for (unsigned c = 0; c < LIST_COLUMNS; c++) {
            if ((int)strlen(row[c]) > width[c])
                width[c] = (int)strlen(row[c]);
        }
    }
    for (size_t i = 0; i <= count; i++) {
        char row[LIST_COLUMNS][LIST_CELL];

        if (i)
            list_row(json_object_array_get_idx(sessions, i - 1), row);
        else
            memcpy(row, heads, sizeof(row));
        for (unsigned c = 0; c < LIST_COLUMNS - 1; c++)
            printf("%-*s  ", width[c], row[c]);
        puts(row[LIST_COLUMNS - 1]);
    }
}

/* "1.5 s", or "0:03:20" where that is easier to read. */
static void show_seconds(double seconds, char *to, size_t size)
{
    long whole = (long)seconds;

    if (seconds < 100)
        snprintf(to, size, "%.1f s", seconds);
    else
        snprintf(to, size, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60,
                 whole % 60);
}

/* Behind the state: how far it is. */
static size_t progress_figures(const struct json_object *session,
                               double pages_per_second, char *line, size_t size)
{
    double total = pages_mib(session, "pages.total");
    double left = pages_mib(session, "pages.left");
    double speed = pages_per_second * SHOW_PAGE_BYTES / MIB;
    char p50[24], p99[24], time_left[24];
    size_t used;

    used =
        (size_t)snprintf(line, size, ": %.0f of %.0f MiB", total - left, total);
    if (!strcmp(show_text(session, "state"), "active") && speed > 0) {
        show_seconds(left / speed, time_left, sizeof(time_left));
        used += (size_t)snprintf(line + used, size - used,
                                 ", %.0f MiB/s, %s left", speed, time_left);
    }
    used += (size_t)snprintf(line + used, size - used, ", %lld faults",
                             (long long)show_number(session, "faults"));
    if (show_number(session, "fault_latency_us.count"))
        used += (size_t)snprintf(
            line + used, size - used, ", p50 %s, p99 %s",
            microseconds(show_number(session, "fault_latency_us.p50"), p50,
                         sizeof(p50)),
            microseconds(show_number(session, "fault_latency_us.p99"), p99,
                         sizeof(p99)));
    return used;
}

void show_progress(const struct json_object *session, double pages_per_second,
                   char *line)
{
    char id[ID_SHOWN + 1], name[24], error[256];
    size_t used;

    used = (size_t)snprintf(
        line, SHOW_LINE_BYTES, "%s %s %s %s",
        cell(show_text(session, "session"), id, sizeof(id)),
        cell(show_text(session, "name"), name, sizeof(name)),
        show_text(session, "role"), show_text(session, "state"));
    if (show_number(session, "pages.total"))
        used += progress_figures(session, pages_per_second, line + used,
                                 SHOW_LINE_BYTES - used);
    if (*show_text(session, "error"))
        snprintf(line + used, SHOW_LINE_BYTES - used, ": %s",
                 cell(show_text(session, "error"), error, sizeof(error)));
}

/* Eight heights, as UTF-8; a terminal without it gets digits. */
static void bar_speeds(const double *speeds, unsigned count, char *line)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄",
                                         "▅", "▆", "▇", "█"};
    bool utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
    double max = 1;

    for (unsigned i = 0; i < count; i++)
        max = speeds[i] > max ? speeds[i] : max;
    for (unsigned i = 0; i < count; i++) {
        unsigned height = (unsigned)(speeds[i] / max * 7 + 0.5);
        const char digit[] = {(char)('1' + height), 0};

        strcat(line, utf8 ? blocks[height] : digit);
    }
}

void show_bar(const struct json_object *session, const double *speeds,
              unsigned count, unsigned columns, char *line)
{
    double total = (double)show_number(session, "pages.total");
    double share =
        total > 0 ? 1 - (double)show_number(session, "pages.left") / total : 0;
    unsigned width, full;

    *line = 0;
    if (columns > SHOW_MAX_COLUMNS)
        columns = SHOW_MAX_COLUMNS;
    if (!(total > 0) || columns < SHOW_SPEEDS + 20)
        return;
    width = columns - SHOW_SPEEDS - 12;
    full = (unsigned)(share * width);
    strcpy(line, "  [");
    for (unsigned i = 0; i < width; i++)
        strcat(line, i < full ? "#" : ".");
    snprintf(line + strlen(line), 16, "] %3.0f %% ", floor(share * 100));
    bar_speeds(speeds, count, line);
}

static void report_pages(const struct json_object *session)
{
    static const struct {
        const char *name, *text;
    } rows[] = {
        {"zero", "zero, without payload"},
        {"data", "with data"},
        {"urgent", "on urgent channels"},
        {"bulk", "on bulk channels"},
        {"duplicate", "arrived twice, dropped"},
        {"present", "the guest had already"},
        {"fallback", "copied, could not be moved"},
        {"copied_shared", "of shared memory, copied"},
        {"left", "not placed"},
    };
    long long total = (long long)show_number(session, "pages.total");

    printf("pages          %lld (%.1f MiB)\n", total,
           pages_mib(session, "pages.total"));
    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char path[32];

        snprintf(path, sizeof(path), "pages.%s", rows[i].name);
        printf("  %10lld  %s\n", (long long)show_number(session, path),
               rows[i].text);
    }
}

/* At a destination whose engine moves them. */
static void report_huge_pages(const struct json_object *session)
{
    long long whole = (long long)show_number(session, "huge_pages.whole");
    long long pieces = (long long)show_number(session, "huge_pages.pieces");

    if (whole + pieces > 0)
        printf("huge pages     %lld came whole, %lld in pieces\n", whole,
               pieces);
}

/* Only where others than QEMU fault, too. */
static void report_faulters(const struct json_object *session)
{
    const struct json_object *list = member(session, "faulters");
    size_t count = list ? json_object_array_length(list) : 0;

    for (size_t i = 0; i < count && count > 1; i++) {
        const struct json_object *entry = json_object_array_get_idx(list, i);
        char text[64];

        printf("  %10lld  of %s\n", (long long)show_number(entry, "faults"),
               cell(show_text(entry, "name"), text, sizeof(text)));
    }
}

void show_report(const struct json_object *session)
{
    char text[256], p50[24], p99[24], max[24];
    double seconds = show_real(session, "seconds");
    double done =
        pages_mib(session, "pages.total") - pages_mib(session, "pages.left");

    printf("session        %s\n",
           cell(show_text(session, "session"), text, sizeof(text)));
    printf("guest          %s\n",
           cell(show_text(session, "name"), text, sizeof(text)));
    printf("this host      %s\n",
           cell(show_text(session, "role"), text, sizeof(text)));
    printf("ended          %s\n",
           cell(show_text(session, "state"), text, sizeof(text)));
    if (*show_text(session, "error"))
        printf("because        %s\n",
               cell(show_text(session, "error"), text, sizeof(text)));
    if (*show_text(session, "engine"))
        printf("engine         %s\n",
               cell(show_text(session, "engine"), text, sizeof(text)));
    printf("time           %.3f s from the first page to the last\n", seconds);
    if (seconds > 0)
        printf("speed          %.0f MiB/s of guest memory\n", done / seconds);
    printf("on the wire    %.1f MiB\n",
           (double)show_number(session, "bytes_on_wire") / MIB);
    report_pages(session);
    report_huge_pages(session);
    printf("faults         %lld\n", (long long)show_number(session, "faults"));
    report_faulters(session);
    if (show_number(session, "fault_latency_us.count"))
        printf("  answered in  p50 %s, p99 %s, longest %s\n",
               microseconds(show_number(session, "fault_latency_us.p50"), p50,
                            sizeof(p50)),
               microseconds(show_number(session, "fault_latency_us.p99"), p99,
                            sizeof(p99)),
               microseconds(show_number(session, "fault_latency_us.max"), max,
                            sizeof(max)));
}
