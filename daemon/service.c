/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "service.h"

#include <string.h>
#include <systemd/sd-daemon.h>

#include "util.h"

static struct event *watchdog;

int service_socket(const char *name)
{
    char **names = NULL;
    int count = sd_listen_fds_with_names(0, &names), found = -1;

    for (int i = 0; i < count; i++) {
        if (found < 0 && !strcmp(names[i], name))
            found = SD_LISTEN_FDS_START + i;
        free(names[i]);
    }
    free(names);
    if (found >= 0)
        evutil_make_socket_nonblocking(found);
    return found;
}

static void watchdog_due(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    (void)opaque;
    sd_notify(0, "WATCHDOG=1");
}

void service_ready(struct event_base *base)
{
    uint64_t limit_us;
    struct timeval interval;

    if (sd_watchdog_enabled(0, &limit_us) > 0) {
        /* Twice within the limit, and once to spare. */
        limit_us /= 3;
        interval.tv_sec = (time_t)(limit_us / 1000000);
        interval.tv_usec = (suseconds_t)(limit_us % 1000000);
        watchdog = event_new(base, -1, EV_PERSIST, watchdog_due, NULL);
        if (!watchdog || event_add(watchdog, &interval))
            abort();
    }
    sd_notify(0, "READY=1");
}

void service_reloading(void)
{
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
               (unsigned long long)now_ns() / 1000);
}

void service_reloaded(void)
{
    sd_notify(0, "READY=1");
}

void service_stopping(void)
{
    sd_notify(0, "STOPPING=1");
    if (watchdog)
        event_free(watchdog);
}
