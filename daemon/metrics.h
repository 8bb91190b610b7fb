/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Figures for Prometheus, as text over HTTP. Main thread.
 * Ref: https://prometheus.io/docs/instrumenting/exposition_formats/
 */
#ifndef REMAPD_METRICS_H
#define REMAPD_METRICS_H

#include <event2/event.h>

struct session;

/** metrics_listen() - answer GET /metrics at @address, "HOST:PORT" or
 * "[HOST]:PORT"; NULL for not at all. Before READY: ends the program with a
 * clear line on error. */
void metrics_listen(struct event_base *base, const char *address);

/** metrics_unlisten() - end that. */
void metrics_unlisten(void);

/** metrics_retire() - @session ends: keep what it has counted. */
void metrics_retire(const struct session *session);

#endif
