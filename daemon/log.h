/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The log: one line an event, to stderr, where systemd picks it up. */
#ifndef REMAPD_LOG_H
#define REMAPD_LOG_H

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG
};

/** log_set_level() - print lines up to @level. Main thread. */
void log_set_level(enum log_level level);

/** log_line() - print one line. Never pass it guest memory. Any thread. */
void log_line(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** die() - print @format as an error and exit 1; only before READY. */
void die(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
