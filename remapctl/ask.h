/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One question to the daemon, one JSON document back; see daemon/control.c. */
#ifndef REMAPCTL_ASK_H
#define REMAPCTL_ASK_H

#include <json-c/json.h>

/* What remapctl ends with; remapctl(1) explains them. */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_REFUSED = 1, /* the daemon said no, or a migration ended paused */
    EXIT_USAGE = 2,
    EXIT_NO_DAEMON = 3,
};

/** complain() - print one line to stderr, behind the program's name. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/**
 * ask() - send @request, a line without its end, to the daemon at @socket_path.
 * @answer: a new object; the caller puts it
 *
 * Return: EXIT_DONE, or EXIT_REFUSED or EXIT_NO_DAEMON after complaining.
 */
enum exit_code ask(const char *socket_path, const char *request,
                   struct json_object **answer);

#endif
