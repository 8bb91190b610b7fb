/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Packets of a QEMU, with descriptors. Input: for each packet its size in two
 * bytes, how many descriptors, and what it holds. They come out of memory, for
 * a socket would be most of what an input costs. */
#include <sys/socket.h>

static ssize_t take_packet(struct msghdr *msg);
#define recvmsg(fd, msg, flags) ((void)(fd), take_packet(msg))
#define sendmsg(fd, msg, flags) ((void)(fd), (void)(msg), (void)(flags), 0)
#include "../../daemon/packet.c"
#include "../../daemon/handoff.c"

#include "fuzz.h"

#include <fcntl.h>

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

static const uint8_t *packet; /* the next one */
static size_t packet_bytes;
static unsigned packet_fds;

/* As the kernel: what does not fit is cut off, and descriptors that have no
 * room are not even made. */
static ssize_t take_packet(struct msghdr *msg)
{
    size_t bytes = MIN(packet_bytes, msg->msg_iov->iov_len);
    size_t room = (msg->msg_controllen - CMSG_LEN(0)) / sizeof(int);
    unsigned fds = (unsigned)MIN(packet_fds, room);
    struct cmsghdr *header = msg->msg_control;

    if (bytes)
        memcpy(msg->msg_iov->iov_base, packet, bytes);
    msg->msg_flags = (bytes < packet_bytes ? MSG_TRUNC : 0) |
                     (fds < packet_fds ? MSG_CTRUNC : 0);
    msg->msg_controllen = fds ? CMSG_LEN(fds * sizeof(int)) : 0;
    if (fds) {
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fds * sizeof(int));
    }
    for (unsigned i = 0; i < fds; i++) {
        int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);

        memcpy(CMSG_DATA(header) + i * sizeof(fd), &fd, sizeof(fd));
    }
    return (ssize_t)bytes;
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
    struct handoff *handoff;
    uint16_t bytes;
    int files;

    if (!base)
        base = event_base_new();
    files = open_files();
    handoff = handoff_new(base, -1, getpid());
    handoff_adopt(handoff, &handlers, handoff);
    for (unsigned i = 0; i < MAX_PACKETS && input_take(&input, &bytes, 2);
         i++) {
        unsigned before = messages + closes;

        packet_fds = input_byte(&input) % (MAX_FDS + 1);
        packet = input.data;
        packet_bytes = MIN(bytes % 6000u, input.size);
        input.data += packet_bytes;
        input.size -= packet_bytes;
        handoff_readable(-1, EV_READ, handoff);
        REQUIRE(messages + closes == before + 1);
    }
    handoff_free(handoff);
    REQUIRE(open_files() == files); /* no descriptor is left behind */
    return 0;
}
