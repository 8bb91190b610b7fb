/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Packets of a QEMU, with descriptors. Input: for each packet its size in two
 * bytes, how many descriptors, and what it holds. */
#include "../../daemon/handoff.c"

#include "fuzz.h"

#include <fcntl.h>
#include <sys/uio.h>

#define MAX_PACKETS 16
#define MAX_FDS     3

static unsigned messages, closes;

static void on_message(void *owner, enum handoff_type type, const void *body,
                       int *fd)
{
    const uint8_t *bytes = body;
    int size = body_bytes((uint16_t)type);
    uint8_t sum = 0;

    (void)owner;
    REQUIRE(size >= 0);
    REQUIRE(*fd == -1 || fcntl(*fd, F_GETFD) == FD_CLOEXEC);
    for (int i = 0; i < size; i++)
        sum ^= bytes[i];
    /* As a session does: some keep the descriptor. */
    if (sum & 1 && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    messages++;
}

static void on_closed(void *owner, const char *reason)
{
    (void)owner;
    REQUIRE(*reason);
    closes++;
}

static const struct handoff_handlers handlers = {.message = on_message,
                                                 .closed = on_closed};

static void put(int socket, const uint8_t *packet, size_t bytes, unsigned fds)
{
    int all[MAX_FDS] = {0, 0, 0};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(all))];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)packet, bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fds) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(fds * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(fds * sizeof(int));
        memcpy(CMSG_DATA(&control.header), all, fds * sizeof(int));
    }
    sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int open_files(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct event_base *base;
    struct input input = {data, size};
    int pair[2], files;
    struct handoff *handoff;
    uint16_t bytes;

    if (!base)
        base = event_base_new();
    files = open_files();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                   pair))
        abort();
    handoff = handoff_new(base, pair[0], getpid());
    handoff_adopt(handoff, &handlers, handoff);
    for (unsigned i = 0; i < MAX_PACKETS && input_take(&input, &bytes, 2);
         i++) {
        unsigned fds = input_byte(&input) % (MAX_FDS + 1);
        size_t length = MIN(bytes % 6000u, input.size);
        unsigned before = messages + closes;

        put(pair[1], input.data, length, fds);
        input.data += length;
        input.size -= length;
        handoff_readable(pair[0], EV_READ, handoff);
        REQUIRE(messages + closes == before + 1);
    }
    handoff_free(handoff);
    close(pair[1]);
    REQUIRE(open_files() == files); /* no descriptor is left behind */
    return 0;
}
