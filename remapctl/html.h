/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A finished migration as a page that a browser shows. */
#ifndef REMAPCTL_HTML_H
#define REMAPCTL_HTML_H

#include <json-c/json.h>

/** html_report() - print a session's document with its samples as one HTML page
 * that needs nothing besides. */
void html_report(const struct json_object *session);

#endif
