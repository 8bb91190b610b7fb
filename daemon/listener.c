/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "listener.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

#define LISTENER_REST_S 1

static void listener_rested(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    evconnlistener_enable(opaque);
}

static void listener_failed(struct evconnlistener *listener, void *opaque)
{
    const struct timeval rest = {LISTENER_REST_S, 0};

    (void)opaque;
    log_warning("no connection can be accepted for %u s: %s", LISTENER_REST_S,
                strerror(errno));
    evconnlistener_disable(listener);
    if (event_base_once(evconnlistener_get_base(listener), -1, EV_TIMEOUT,
                        listener_rested, listener, &rest))
        abort();
}

void listener_guard(struct evconnlistener *listener)
{
    evconnlistener_set_error_cb(listener, listener_failed);
}
