/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The other end of a placer's or a splicer's socket. */
#ifndef REMAPD_TESTS_UNIT_HAND_H
#define REMAPD_TESTS_UNIT_HAND_H

#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

/* The next command, of @bytes. @lent: did a descriptor come with it? */
static inline bool take_command(int end, void *command, size_t bytes,
                                bool *lent)
{
    char space[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {command, bytes};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = space,
                         .msg_controllen = sizeof(space)};

    if (recvmsg(end, &msg, 0) != (ssize_t)bytes)
        return false;
    *lent = CMSG_FIRSTHDR(&msg);
    if (*lent)
        close(*(int *)(void *)CMSG_DATA(CMSG_FIRSTHDR(&msg)));
    return true;
}

#endif
