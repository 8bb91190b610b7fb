/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon's documents as people read them. */
#ifndef REMAPCTL_SHOW_H
#define REMAPCTL_SHOW_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHOW_LINE_BYTES  512
#define SHOW_MAX_COLUMNS 100
#define SHOW_SPEEDS      20
#define SHOW_PAGE_BYTES  4096.0

/** show_number() - the number at @path ("pages.left") in @json, 0 if it is not
 * there. */
int64_t show_number(const struct json_object *json, const char *path);

/** show_real() - the same, with what follows the point. */
double show_real(const struct json_object *json, const char *path);

/** show_text() - the text at @path in @json, "" if it is not there. */
const char *show_text(const struct json_object *json, const char *path);

/** show_json() - print @json: indented, or on one line. */
void show_json(struct json_object *json, bool indented);

/** show_status() - print the answer to `status`. */
void show_status(const struct json_object *status);

/** show_list() - print the answer to `list` as a table. */
void show_list(const struct json_object *list);

/** show_report() - print a session's document as a report. */
void show_report(const struct json_object *session);

/**
 * show_progress() - one line about a session.
 * @line: SHOW_LINE_BYTES
 * @pages_per_second: 0 if it is not known
 */
void show_progress(const struct json_object *session, double pages_per_second,
                   char *line);

/**
 * show_bar() - how much of a session's memory has arrived, drawn.
 * @columns: of the terminal, at most SHOW_MAX_COLUMNS are used
 * @speeds: pages a second at each of the last looks, @count of them
 * @line: SHOW_LINE_BYTES; "" where there is nothing to draw
 */
void show_bar(const struct json_object *session, const double *speeds,
              unsigned count, unsigned columns, char *line);

#endif
