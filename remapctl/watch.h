/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Migrations as they go on. */
#ifndef REMAPCTL_WATCH_H
#define REMAPCTL_WATCH_H

#include "ask.h"

#include <stdbool.h>

struct watch_options {
    const char *socket_path;
    const char *id;  /* the start of a session's id; "" for all */
    double interval; /* seconds between two looks */
    bool json, wait; /* wait: until there is something to watch */
};

/**
 * watch() - print how the sessions that options->id names go on, until all of
 * them have ended.
 * Return: EXIT_DONE, or EXIT_REFUSED if one of them ended while it was paused.
 */
enum exit_code watch(const struct watch_options *options);

#endif
