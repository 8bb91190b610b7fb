/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What remapd and systemd tell each other, if systemd has started it: sockets
 * that are open already, readiness, the watchdog. Elsewhere all of this does
 * nothing. Main thread. Ref: sd_notify(3), sd_listen_fds(3),
 * sd_watchdog_enabled(3).
 */
#ifndef REMAPD_SERVICE_H
#define REMAPD_SERVICE_H

#include <event2/event.h>

/**
 * service_socket() - the listening socket that systemd has passed as @name,
 * which is the FileDescriptorName= of its unit.
 * Return: the descriptor, non-blocking and close-on-exec, or -1 if there is
 * none; it becomes the caller's.
 */
int service_socket(const char *name);

/** service_ready() - started; and from now on the watchdog hears from @base
 * that its loop still turns. */
void service_ready(struct event_base *base);

/** service_reloading() - reading the configuration again; service_reloaded()
 * follows. */
void service_reloading(void);

/** service_reloaded() - that is done. */
void service_reloaded(void);

/** service_stopping() - ending. Frees what service_ready() made. */
void service_stopping(void);

#endif
