/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "local.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "log.h"
#include "util.h"

#define LOCAL_MAX_GROUPS 64

struct local_listener {
    int fd;
    struct event_base *base;
    struct event *event;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    gid_t gid;
    void (*accepted)(struct event_base *base, int fd, const struct ucred *peer,
                     void *opaque);
    void *opaque;
};

/* The socket's mode decides first; this holds even if the mode is opened up,
 * or the socket is passed on. */
static bool peer_may(const struct local_listener *listener, int fd,
                     const struct ucred *peer)
{
    gid_t groups[LOCAL_MAX_GROUPS];
    socklen_t bytes = sizeof(groups);

    if (peer->uid == 0 || peer->uid == geteuid() || peer->gid == listener->gid)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &bytes))
        return false;
    for (unsigned i = 0; i < bytes / sizeof(*groups); i++) {
        if (groups[i] == listener->gid)
            return true;
    }
    return false;
}

static void local_readable(evutil_socket_t socket, short what, void *opaque)
{
    struct local_listener *listener = opaque;
    int fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred peer;
    socklen_t bytes = sizeof(peer);

    (void)what;
    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes)) {
        close(fd);
        return;
    }
    if (!peer_may(listener, fd, &peer)) {
        log_warning("%s: process %d of user %u has no right to connect",
                    listener->path, peer.pid, peer.uid);
        close(fd);
        return;
    }
    listener->accepted(listener->base, fd, &peer, listener->opaque);
}

/* A socket that nobody answers at is left over from a daemon that was killed.
 */
static void remove_stale(const struct sockaddr_un *address, int type)
{
    AUTO_CLOSE int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)))
        die("%s: another remapd listens there", address->sun_path);
    if (errno == ECONNREFUSED)
        unlink(address->sun_path);
}

struct local_listener *
local_listen(struct event_base *base, const char *path, int type, mode_t mode,
             const char *group,
             void (*accepted)(struct event_base *base, int fd,
                              const struct ucred *peer, void *opaque),
             void *opaque)
{
    struct local_listener *listener = xcalloc(1, sizeof(*listener));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    mode_t mask;
    int ret;

    if (strlen(path) >= sizeof(address.sun_path))
        die("%s: longer than the %zu bytes that a UNIX socket's path may have",
            path, sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    strcpy(listener->path, path);
    listener->base = base;
    listener->accepted = accepted;
    listener->opaque = opaque;
    listener->gid = getegid();
    if (group) {
        struct group *entry = getgrnam(group);

        if (!entry)
            die("%s: there is no group %s; create it, or name another with "
                "--group",
                path, group);
        listener->gid = entry->gr_gid;
    }
    remove_stale(&address, type);
    listener->fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mask = umask(0777 & ~mode);
    ret = listener->fd < 0 ||
          bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) ||
          (group && chown(path, (uid_t)-1, listener->gid)) ||
          listen(listener->fd, 64);
    if (ret)
        die("%s: %s", path, strerror(errno));
    umask(mask);
    listener->event = event_new(base, listener->fd, EV_READ | EV_PERSIST,
                                local_readable, listener);
    if (!listener->event || event_add(listener->event, NULL))
        abort();
    return listener;
}

void local_unlisten(struct local_listener *listener)
{
    event_free(listener->event);
    close(listener->fd);
    unlink(listener->path);
    free(listener);
}
