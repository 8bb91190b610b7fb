/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "handoff.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/util.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "local.h"
#include "log.h"
#include "packet.h"
#include "util.h"

#define HANDOFF_FIRST_SECONDS 5 /* for the first message */

struct handoff {
    int fd;
    struct event *event;
    struct event *deadline; /* of the first message; NULL after it */
    pid_t pid;
    const struct handoff_handlers *handlers;
    void *owner;
    bool busy, dead; /* freeing is put off while a handler runs */
};

/* The body that a message from QEMU must have; -1: the type is not QEMU's. */
static int body_bytes(uint16_t type)
{
    switch (type) {
    case HANDOFF_HELLO:
    case HANDOFF_RETURN:
        return sizeof(struct handoff_hello);
    case HANDOFF_TICKET:
        return sizeof(struct handoff_ticket);
    case HANDOFF_BLOCK:
        return sizeof(struct handoff_block);
    case HANDOFF_PREPARE:
    case HANDOFF_SWITCHOVER:
        return sizeof(struct handoff_prepare);
    case HANDOFF_ATTACH:
        return sizeof(struct handoff_attach);
    case HANDOFF_PLACER:
        return sizeof(struct handoff_placer);
    case HANDOFF_FAULTER:
        return sizeof(struct handoff_faulter);
    case HANDOFF_REGION:
        return sizeof(struct handoff_region);
    case HANDOFF_DETACH:
    case HANDOFF_SPLICER:
        return 0;
    default:
        return -1;
    }
}

static void handoff_closed(struct handoff *handoff, const char *reason)
{
    handoff->busy = true;
    handoff->handlers->closed(handoff->owner, reason);
    handoff->busy = false;
    if (handoff->dead)
        free(handoff);
}

static int handoff_recv(struct handoff *handoff, char *packet, size_t size,
                        int *fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {packet, size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         /* CMSG_SPACE would let two through. */
                         .msg_controllen = CMSG_LEN(sizeof(int))};
    ssize_t got = recvmsg(handoff->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    *fd = -1;
    if (got < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    }
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        /* Of several descriptors one comes; none where there is no room. */
        bool room = *fd >= 0 || msg.msg_flags & MSG_TRUNC;

        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        return room ? -EMSGSIZE : -EMFILE;
    }
    return (int)got;
}

/* Check a packet's header. Return the reason why it is wrong, or NULL. */
static const char *handoff_check(const char *packet, int bytes,
                                 struct handoff_header *header, char *text)
{
    if (bytes < (int)sizeof(*header))
        return "message shorter than its header";
    memcpy(header, packet, sizeof(*header));
    header->magic = ntohl(header->magic);
    header->version = ntohs(header->version);
    header->type = ntohs(header->type);
    if (header->magic != HANDOFF_MAGIC) {
        snprintf(text, ERROR_TEXT_BYTES, "message with wrong magic 0x%08x",
                 header->magic);
    } else if (header->version != HANDOFF_VERSION) {
        snprintf(text, ERROR_TEXT_BYTES,
                 "hand-off version %u, this remapd speaks %u", header->version,
                 HANDOFF_VERSION);
    } else if (body_bytes(header->type) != bytes - (int)sizeof(*header)) {
        snprintf(text, ERROR_TEXT_BYTES,
                 "message of unknown type or wrong size: type %u, %d bytes",
                 header->type, bytes);
    } else {
        return NULL;
    }
    return text;
}

static void handoff_end_deadline(struct handoff *handoff)
{
    if (handoff->deadline)
        event_free(handoff->deadline);
    handoff->deadline = NULL;
}

static void handoff_late(evutil_socket_t socket, short what, void *opaque)
{
    (void)socket;
    (void)what;
    handoff_closed(opaque, "no message in time");
}

static void handoff_readable(evutil_socket_t socket, short what, void *opaque)
{
    struct handoff *handoff = opaque;
    char packet[HANDOFF_MAX_BYTES], text[ERROR_TEXT_BYTES];
    struct handoff_header header;
    const char *wrong;
    int fd, bytes = handoff_recv(handoff, packet, sizeof(packet), &fd);

    (void)socket;
    (void)what;
    handoff_end_deadline(handoff);
    if (bytes == -EAGAIN || bytes == -EINTR)
        return;
    if (bytes <= 0) {
        /* An empty packet looks like the end, but may bring a descriptor. Who
         * leaves without having read all resets the connection. */
        handoff_closed(handoff, bytes && bytes != -ECONNRESET ? strerror(-bytes)
                                                              : HANDOFF_LEFT);
    } else if ((wrong = handoff_check(packet, bytes, &header, text))) {
        handoff_send_text(handoff, HANDOFF_ERROR, wrong);
        handoff_closed(handoff, wrong);
    } else {
        handoff->busy = true;
        handoff->handlers->message(handoff->owner, header.type,
                                   packet + sizeof(header), &fd);
        handoff->busy = false;
        if (handoff->dead)
            free(handoff);
    }
    if (fd >= 0)
        close(fd);
}

static struct handoff *handoff_new(struct event_base *base, int fd, pid_t pid)
{
    struct handoff *handoff = xcalloc(1, sizeof(*handoff));
    const struct timeval timeout = {HANDOFF_FIRST_SECONDS, 0};

    handoff->fd = fd;
    handoff->pid = pid;
    handoff->event =
        event_new(base, fd, EV_READ | EV_PERSIST, handoff_readable, handoff);
    handoff->deadline = evtimer_new(base, handoff_late, handoff);
    if (!handoff->event || event_add(handoff->event, NULL) ||
        !handoff->deadline || evtimer_add(handoff->deadline, &timeout))
        abort();
    return handoff;
}

void handoff_adopt(struct handoff *handoff,
                   const struct handoff_handlers *handlers, void *owner)
{
    handoff->handlers = handlers;
    handoff->owner = owner;
}

static void send_packet(struct handoff *handoff, enum handoff_type type,
                        const void *body, size_t bytes, int fd)
{
    struct handoff_header header = {
        .magic = htonl(HANDOFF_MAGIC),
        .version = htons(HANDOFF_VERSION),
        .type = htons((uint16_t)type),
    };
    struct iovec iov[] = {{&header, sizeof(header)}, {(void *)body, bytes}};
    int ret = packet_send(handoff->fd, iov, 2, fd, MSG_DONTWAIT);

    if (ret && (ret != -EAGAIN || type != HANDOFF_PROGRESS))
        shutdown(handoff->fd, SHUT_RDWR); /* the event tells the owner */
}

void handoff_send(struct handoff *handoff, enum handoff_type type,
                  const void *body, size_t bytes)
{
    send_packet(handoff, type, body, bytes, -1);
}

void handoff_send_fd(struct handoff *handoff, enum handoff_type type, int fd)
{
    send_packet(handoff, type, NULL, 0, fd);
}

void handoff_send_text(struct handoff *handoff, enum handoff_type type,
                       const char *text)
{
    handoff_send(handoff, type, text,
                 strnlen(text, HANDOFF_TEXT_MAX_BYTES - 1) + 1);
}

pid_t handoff_pid(const struct handoff *handoff)
{
    return handoff->pid;
}

void handoff_free(struct handoff *handoff)
{
    if (!handoff || handoff->dead)
        return;
    handoff->dead = true;
    event_free(handoff->event);
    handoff_end_deadline(handoff);
    close(handoff->fd);
    if (!handoff->busy)
        free(handoff);
}

struct handoff_listener {
    struct local_listener *local;
    void (*accepted)(struct handoff *);
};

static void handoff_accepted(struct event_base *base, int fd,
                             const struct ucred *peer, void *opaque)
{
    struct handoff_listener *listener = opaque;

    listener->accepted(handoff_new(base, fd, peer->pid));
}

struct handoff_listener *handoff_listen(struct event_base *base,
                                        const char *path, mode_t mode,
                                        const char *group,
                                        void (*accepted)(struct handoff *))
{
    struct handoff_listener *listener = xcalloc(1, sizeof(*listener));

    listener->accepted = accepted;
    listener->local = local_listen(base, "qemu", path, SOCK_SEQPACKET, mode,
                                   group, handoff_accepted, listener);
    return listener;
}

void handoff_unlisten(struct handoff_listener *listener)
{
    local_unlisten(listener->local);
    free(listener);
}
