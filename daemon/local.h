/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UNIX sockets for the programs of this host, and who may use them. */
#ifndef REMAPD_LOCAL_H
#define REMAPD_LOCAL_H

#include <event2/event.h>
#include <sys/socket.h>
#include <sys/types.h>

struct local_listener;

/**
 * local_listen() - accept at @path, or at the socket that systemd has passed as
 * @name, which must be at @path too.
 * @type: SOCK_SEQPACKET or SOCK_STREAM
 * @mode: of the socket; @group: its group's name, or NULL for the daemon's
 * @accepted: called with a connected non-blocking fd, which becomes the
 *            callee's, and the peer as the kernel names it
 *
 * A stale socket at @path is replaced. One that systemd has passed keeps its
 * mode, and its group is the one that counts. Peers other than root, the
 * daemon's own user and members of the group are refused with a line in the
 * log. Main thread, before READY: ends the program with a clear line on error.
 */
struct local_listener *
local_listen(struct event_base *base, const char *name, const char *path,
             int type, mode_t mode, const char *group,
             void (*accepted)(struct event_base *base, int fd,
                              const struct ucred *peer, void *opaque),
             void *opaque);

/** local_unlisten() - close, unlink unless systemd has passed it, free. */
void local_unlisten(struct local_listener *listener);

#endif
