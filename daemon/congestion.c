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
#define CONGESTION_DEFAULT  "cubic"
#define CONGESTION_FALLBACK "reno"

static const char *chosen = CONGESTION_FALLBACK;

static bool set(int fd, const char *name)
{
    return !setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name,
                       (socklen_t)strlen(name));
}

int congestion_choose(const char *name)
{
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const char *wanted = name ? name : CONGESTION_DEFAULT;

    if (fd >= 0 && set(fd, wanted))
        chosen = wanted;
    else if (name)
        return -errno;
    else
        chosen = CONGESTION_FALLBACK;
    return 0;
}

void congestion_set(int fd)
{
    set(fd, chosen);
}
