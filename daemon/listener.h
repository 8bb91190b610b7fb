/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all that listens here does when a connection cannot be accepted. */
#ifndef REMAPD_LISTENER_H
#define REMAPD_LISTENER_H

#include <event2/listener.h>

/**
 * listener_guard() - have @listener rest for a second when a connection cannot
 * be accepted for want of descriptors or memory, and say so. Main thread.
 *
 * It would be tried again at once and for ever otherwise, for the connection
 * stays in the queue.
 */
void listener_guard(struct evconnlistener *listener);

#endif
