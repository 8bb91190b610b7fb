/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The log: one line an event, to stderr, or to systemd's journal with fields
 * where that is what stderr is. */
#ifndef REMAPD_LOG_H
#define REMAPD_LOG_H

#include <stdarg.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG
};

/* Kinds of lines that programs wait for, and for which the journal has an
 * explanation (systemd/remapd.catalog). */
enum log_event {
    LOG_EVENT_NONE,
    LOG_EVENT_BEGINS, /* a session */
    LOG_EVENT_STATE,  /* it has another state */
    LOG_EVENT_PAUSED,
    LOG_EVENT_FAILED,
    LOG_EVENT_ENDS,
    LOG_EVENTS,
};

/* What a line is about. */
struct log_about {
    enum log_event event;
    const char *session, *role, *guest;
};

/** log_set_level() - print lines up to @level. Main thread. */
void log_set_level(enum log_level level);

/** log_line() - print one line. Never pass it guest memory. Any thread. */
void log_line(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** log_about() - log_line() with what it is @about: the line begins with the
 * session, if there is one; in the journal those are the fields MESSAGE_ID,
 * SESSION, ROLE and GUEST. Any thread. Ref: systemd.journal-fields(7). */
void log_about(enum log_level level, const struct log_about *about,
               const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/** die() - print @format as an error and exit 1; only before READY. */
void die(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
