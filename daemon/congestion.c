/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "congestion.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"
#include "util.h"

#define CONGESTION_DEFAULT "cubic"

static const char *chosen; /* NULL: the host's */

static bool set(int fd, const char *name)
{
    return !setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name,
                       (socklen_t)strlen(name));
}

int congestion_choose(const char *name)
{
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const char *wanted = name ? name : CONGESTION_DEFAULT;

    if (fd < 0)
        return -errno;
    if (set(fd, wanted))
        chosen = wanted;
    else if (name)
        return -errno;
    else
        log_info("connections have the host's congestion control: %s: %s",
                 wanted, strerror(errno));
    return 0;
}

void congestion_set(int fd)
{
    if (chosen)
        set(fd, chosen);
}
