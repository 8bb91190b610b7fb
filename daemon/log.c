/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Priorities of syslog, which systemd reads from "<n>" before a line. */
static const struct {
    int priority;
    const char *name;
} levels[] = {
    [LOG_LEVEL_ERROR] = {3, "error: "},
    [LOG_LEVEL_WARNING] = {4, "warning: "},
    [LOG_LEVEL_INFO] = {6, ""},
    [LOG_LEVEL_DEBUG] = {7, "debug: "},
};

static _Atomic enum log_level max_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    max_level = level;
}

static void log_vline(enum log_level level, const char *format, va_list args)
{
    char text[1024];

    vsnprintf(text, sizeof(text), format, args);
    /* Names and reasons come from peers: no line breaks, no escapes. */
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
    if (getenv("JOURNAL_STREAM"))
        fprintf(stderr, "<%d>%s\n", levels[level].priority, text);
    else
        fprintf(stderr, "remapd: %s%s\n", levels[level].name, text);
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list args;

    if (level > max_level)
        return;
    va_start(args, format);
    log_vline(level, format, args);
    va_end(args);
}

void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_vline(LOG_LEVEL_ERROR, format, args);
    va_end(args);
    exit(1);
}
