/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Packets over a UNIX socket of SOCK_SEQPACKET, and descriptors with them. */
#ifndef REMAPD_PACKET_H
#define REMAPD_PACKET_H

#include <sys/uio.h>

/**
 * packet_send() - one packet of @count pieces.
 * @passed: a descriptor that goes with it; -1: none
 * @flags: of sendmsg(2); MSG_NOSIGNAL goes without saying
 *
 * Any thread. Return: 0 or -errno.
 */
int packet_send(int fd, struct iovec *iov, unsigned count, int passed,
                int flags);

#endif
