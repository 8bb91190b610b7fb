/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "local.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "listener.h"
#include "log.h"
#include "service.h"
#include "util.h"

#define LOCAL_MAX_GROUPS 64

struct local_listener {
    int fd;
    bool passed; /* by systemd, whose it stays */
    struct evconnlistener *connections;
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

static void local_accepted(struct evconnlistener *from, evutil_socket_t fd,
                           struct sockaddr *address, int length, void *opaque)
{
    struct local_listener *listener = opaque;
    struct ucred peer;
    socklen_t bytes = sizeof(peer);

    (void)address;
    (void)length;
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
    listener->accepted(evconnlistener_get_base(from), fd, &peer,
                       listener->opaque);
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

static gid_t group_id(const char *name, const char *path)
{
    struct group *entry = getgrnam(name);

    if (!entry)
        die("%s: there is no group %s; create it, or name another with --group",
            path, name);
    return entry->gr_gid;
}

static void local_bind(struct local_listener *listener, const char *path,
                       int type, mode_t mode, const char *group)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    mode_t mask;
    int ret;

    strcpy(address.sun_path, path);
    listener->gid = group ? group_id(group, path) : getegid();
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
}

static void local_take(struct local_listener *listener, const char *name,
                       const char *path, int type)
{
    struct stat file;

    if (sd_is_socket_unix(listener->fd, type, 1, path, 0) <= 0)
        die("%s: systemd has passed another socket as %s: the option and the "
            "socket unit must name the same path",
            path, name);
    if (stat(path, &file))
        die("%s: %s", path, strerror(errno));
    listener->gid = file.st_gid;
}

struct local_listener *
local_listen(struct event_base *base, const char *name, const char *path,
             int type, mode_t mode, const char *group,
             void (*accepted)(struct event_base *base, int fd,
                              const struct ucred *peer, void *opaque),
             void *opaque)
{
    struct local_listener *listener = xcalloc(1, sizeof(*listener));

    if (strlen(path) >= sizeof(listener->path))
        die("%s: longer than the %zu bytes that a UNIX socket's path may have",
            path, sizeof(listener->path) - 1);
    strcpy(listener->path, path);
    listener->accepted = accepted;
    listener->opaque = opaque;
    listener->fd = service_socket(name);
    listener->passed = listener->fd >= 0;
    if (listener->passed)
        local_take(listener, name, path, type);
    else
        local_bind(listener, path, type, mode, group);
    listener->connections = evconnlistener_new(
        base, local_accepted, listener,
        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, listener->fd);
    if (!listener->connections)
        abort();
    listener_guard(listener->connections);
    return listener;
}

void local_unlisten(struct local_listener *listener)
{
    evconnlistener_free(listener->connections);
    if (!listener->passed)
        unlink(listener->path);
    free(listener);
}
