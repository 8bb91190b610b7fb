/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hand-off: connections from the QEMUs of this host. proto/handoff.h has
 * the messages. All in the main thread.
 */
#ifndef REMAPD_HANDOFF_ROOM_H
#define REMAPD_HANDOFF_ROOM_H

#include <event2/event.h>
#include <sys/types.h>

#include "../proto/handoff.h"

struct handoff;
struct handoff_listener;

/* What a connection's owner is told; it may free the connection from within. */
struct handoff_handlers {
    /* A message whose body has the size that its type demands. The owner takes
     * *fd (or -1) by setting it to -1; otherwise it is closed. */
    void (*message)(void *owner, enum handoff_type type, const void *body,
                    int *fd);
    /* HANDOFF_LEFT if the other end has closed. */
    void (*closed)(void *owner, const char *reason);
};

#define HANDOFF_LEFT "connection closed"

/**
 * handoff_listen() - accept QEMUs at @path.
 * @accepted: called with each new connection; must adopt or free it
 *
 * A stale socket at @path is replaced; a live one is an error. Who may connect
 * is decided by the socket's mode and group, and by SO_PEERCRED: root, the
 * daemon's own user, and members of the socket's group.
 * Return: the listener; ends the program where that cannot be had.
 */
struct handoff_listener *handoff_listen(struct event_base *base,
                                        const char *path, mode_t mode,
                                        const char *group,
                                        void (*accepted)(struct handoff *));

/** handoff_unlisten() - close and unlink. */
void handoff_unlisten(struct handoff_listener *listener);

/** handoff_adopt() - from now on @owner is told, through @handlers. */
void handoff_adopt(struct handoff *handoff,
                   const struct handoff_handlers *handlers, void *owner);

/** handoff_send() - send one message with a body of @bytes. A QEMU that does
 * not read is disconnected; but PROGRESS is dropped then, for there is more. */
void handoff_send(struct handoff *handoff, enum handoff_type type,
                  const void *body, size_t bytes);

/** handoff_send_fd() - the same, with a copy of @fd. */
void handoff_send_fd(struct handoff *handoff, enum handoff_type type, int fd);

/** handoff_send_text() - send PAUSED or ERROR. */
void handoff_send_text(struct handoff *handoff, enum handoff_type type,
                       const char *text);

/** handoff_pid() - the process at the other end, as the kernel names it. */
pid_t handoff_pid(const struct handoff *handoff);

/** handoff_free() - close. NULL is fine. */
void handoff_free(struct handoff *handoff);

#endif
