/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "congestion.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "util.h"

/* Neither paces. The second every kernel has, and lets everybody use. */
static const char *const defaults[] = {"cubic", "reno"};

static const char *chosen; /* NULL: the host's */

static bool set(int fd, const char *name)
{
    return !setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name,
                       (socklen_t)strlen(name));
}

int congestion_choose(const char *name)
{
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || (name && !set(fd, name)))
        return -errno;
    chosen = name;
    for (unsigned i = 0; i < ARRAY_SIZE(defaults) && !chosen; i++) {
        if (set(fd, defaults[i]))
            chosen = defaults[i];
    }
    return 0;
}

void congestion_set(int fd)
{
    if (chosen)
        set(fd, chosen);
}
