/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "util.h"

#define LOG_TEXT_BYTES 1024

/* Priorities of syslog. */
static const struct {
    int priority;
    const char *name;
} levels[] = {
    [LOG_LEVEL_ERROR] = {3, "error: "},
    [LOG_LEVEL_WARNING] = {4, "warning: "},
    [LOG_LEVEL_INFO] = {6, ""},
    [LOG_LEVEL_DEBUG] = {7, "debug: "},
};

/* Made once by systemd-id128 new; they must never change. */
static const char *const event_ids[] = {
    [LOG_EVENT_NONE] = NULL,
    [LOG_EVENT_BEGINS] = "c4d0e2b0252f4568ad02f12d986e98fc",
    [LOG_EVENT_STATE] = "5246bc73398443439f8b404a31fab07d",
    [LOG_EVENT_PAUSED] = "d724d28906f24c2a923efc1d7b964035",
    [LOG_EVENT_FAILED] = "772b0387159b40c1af04b8d54ede51b3",
    [LOG_EVENT_ENDS] = "440a9c8f64734a51bb76b0b93389cd25",
};

_Static_assert(ARRAY_SIZE(event_ids) == LOG_EVENTS, "an id for every event");

static _Atomic enum log_level max_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    max_level = level;
}

/* Whether stderr is the journal. Ref: JOURNAL_STREAM in systemd.exec(5). */
static bool is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat file;

    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           !fstat(STDERR_FILENO, &file) && file.st_dev == device &&
           file.st_ino == inode;
}

static int send_to_journal(enum log_level level, const struct log_about *about,
                           const char *text)
{
    const char *const names[] = {"MESSAGE",    "PRIORITY", "SYSLOG_IDENTIFIER",
                                 "MESSAGE_ID", "SESSION",  "ROLE",
                                 "GUEST"};
    const char priority[] = {(char)('0' + levels[level].priority), 0};
    const char *const values[] = {
        text,           priority,    "remapd",    event_ids[about->event],
        about->session, about->role, about->guest};
    char fields[ARRAY_SIZE(names)][LOG_TEXT_BYTES + 32];
    struct iovec iov[ARRAY_SIZE(names)];
    int count = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (!values[i])
            continue;
        iov[count].iov_base = fields[i];
        iov[count++].iov_len = (size_t)snprintf(fields[i], sizeof(fields[i]),
                                                "%s=%s", names[i], values[i]);
    }
    return sd_journal_sendv(iov, count);
}

void log_about(enum log_level level, const struct log_about *about,
               const char *format, va_list args)
{
    char text[LOG_TEXT_BYTES];
    int used = 0;

    if (level > max_level)
        return;
    if (about->session)
        used = snprintf(text, sizeof(text), "session %.64s: ", about->session);
    vsnprintf(text + used, sizeof(text) - (size_t)used, format, args);
    /* Names and reasons come from peers: no line breaks, no escapes. */
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
    if (!is_journal() || send_to_journal(level, about, text) < 0)
        fprintf(stderr, "remapd: %s%s\n", levels[level].name, text);
}

void log_line(enum log_level level, const char *format, ...)
{
    static const struct log_about nothing;
    va_list args;

    va_start(args, format);
    log_about(level, &nothing, format, args);
    va_end(args);
}

void die(const char *format, ...)
{
    static const struct log_about nothing;
    va_list args;

    va_start(args, format);
    log_about(LOG_LEVEL_ERROR, &nothing, format, args);
    va_end(args);
    exit(1);
}
