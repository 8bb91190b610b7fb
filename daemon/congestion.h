/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The TCP congestion control of connections with other remapd.
 *
 * A control that paces, as BBR does, sends by a timer's beat, at a rate that it
 * has to learn first. A move within a data center is over before, and on a fast
 * link the timer costs more than the bursts that it avoids. Bulk channels bound
 * their queue themselves, see channel.c. So it is Linux's own default, CUBIC,
 * or Reno where that is not allowed, unless somebody asks for another.
 */
#ifndef REMAPD_CONGESTION_H
#define REMAPD_CONGESTION_H

/** congestion_choose() - from now on sockets get the control called @name;
 * NULL: CUBIC or Reno. Once the process has only the rights that it keeps, for
 * some controls take CAP_NET_ADMIN. Main thread.
 * Return: 0, -ENOENT if the kernel has none of that name, -EPERM if this
 * process may not use it, or -errno; then nothing has changed. Never with NULL.
 */
int congestion_choose(const char *name);

/** congestion_set() - give @fd, a TCP socket, the control that has been chosen.
 * It has to be one that is not connected yet: where pacing has begun it stays.
 */
void congestion_set(int fd);

#endif
