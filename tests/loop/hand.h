/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the placers and splicers of a QEMU have in common, for the process that
 * stands in for one. */
#ifndef GUESTLESS_HAND_H
#define GUESTLESS_HAND_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

static bool loop_page_named(const uint8_t *pages, unsigned page)
{
    return pages[page / 8] >> page % 8 & 1;
}

/* The next command, and the socket that comes with it, or -1. */
static bool loop_hand_next(int fd, void *command, size_t bytes, int *stream)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {command, bytes};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};

    *stream = -1;
    if (recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) != (ssize_t)bytes)
        return false;
    if (CMSG_FIRSTHDR(&msg))
        memcpy(stream, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(*stream));
    return true;
}

#endif
