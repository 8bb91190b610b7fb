/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "channel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "util.h"

/* A bulk channel holds what the link carries in a round trip and a bit
 * more: enough to keep it busy, and a page that is asked for meanwhile
 * does not wait behind more than that at the bottleneck. */
#define BULK_QUEUE_US         300
#define BULK_MIN_BUFFER_BYTES (64u << 10)
#define BULK_MAX_BUFFER_BYTES (32u << 20)
#define BULK_NEW_BUFFER_BYTES (256u << 10) /* before anything is known */
#define BULK_TUNE_EVERY_BYTES (1u << 20)

void channel_init(struct channel *channel, struct tls_link link,
                  enum channel_kind kind, unsigned index)
{
    int one = 1, tos = kind == CHANNEL_URGENT ? IPTOS_LOWDELAY : 0;
    int priority = kind == CHANNEL_URGENT ? 6 : 2;
    int buffer = (int)BULK_NEW_BUFFER_BYTES, fd = link.fd;

    *channel = (struct channel){.link = link, .kind = kind, .index = index};
    /* None of these decides about correctness; a refused one costs speed. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
    setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
    setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &priority, sizeof(priority));
    if (kind == CHANNEL_BULK)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
}

void channel_bound_silence(int fd, unsigned seconds)
{
    int ms = (int)seconds * 1000;

    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

void channel_shutdown(struct channel *channel)
{
    shutdown(channel->link.fd, SHUT_RDWR);
}

void channel_fini(struct channel *channel)
{
    tls_link_close(&channel->link);
}

/* Drop @bytes from the front of @iov; return the entries that are used up. */
static unsigned iov_advance(struct iovec *iov, unsigned count, size_t bytes)
{
    unsigned used = 0;

    while (used < count && bytes >= iov[used].iov_len)
        bytes -= iov[used++].iov_len;
    if (used < count) {
        iov[used].iov_base = (char *)iov[used].iov_base + bytes;
        iov[used].iov_len -= bytes;
    }
    return used;
}

static bool channel_info(const struct channel *channel, struct tcp_info *info)
{
    socklen_t length = sizeof(*info);

    return !getsockopt(channel->link.fd, IPPROTO_TCP, TCP_INFO, info, &length);
}

bool channel_bound_queue(int fd, uint64_t bytes, uint64_t link_bytes)
{
    /* The kernel doubles what it is told, for its own needs, which are few. */
    int buffer = (int)(bytes / 2), unlocked = 0, got = 0;
    socklen_t length = sizeof(got);

    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &got, &length) ||
        got >= 2 * buffer || (uint64_t)got * 3 / 4 >= link_bytes)
        return true;
    return setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof(unlocked));
}

static void channel_tune(struct channel *channel)
{
    struct tcp_info info;
    uint64_t sent = channel->sent_bytes, rate, queue;

    if (channel->kind != CHANNEL_BULK || channel->unbound ||
        sent - channel->tuned_at_bytes < BULK_TUNE_EVERY_BYTES)
        return;
    channel->tuned_at_bytes = sent;
    if (!channel_info(channel, &info))
        return;
    rate = info.tcpi_delivery_rate;
    queue = rate * (info.tcpi_min_rtt + BULK_QUEUE_US) / 1000000;
    queue = MIN(MAX(queue, BULK_MIN_BUFFER_BYTES), BULK_MAX_BUFFER_BYTES);
    channel->unbound = !channel_bound_queue(channel->link.fd, queue,
                                            rate * info.tcpi_min_rtt / 1000000);
}

/* Some of @iov, at least a byte. Return: how many bytes, or -errno. */
static ssize_t channel_write(struct channel *channel, struct iovec *iov,
                             unsigned count, int flags)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t sent;

    if (channel->link.tls)
        return tls_writev(channel->link.tls, iov, count);
    do
        sent = sendmsg(channel->link.fd, &msg, MSG_NOSIGNAL | flags);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

/* The same for reading; 0 at the end. */
static ssize_t channel_read(struct channel *channel, struct iovec *iov,
                            unsigned count)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t got;

    if (channel->link.tls)
        return tls_read(channel->link.tls, iov->iov_base, iov->iov_len);
    do
        got = recvmsg(channel->link.fd, &msg, 0);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static int channel_send_all(struct channel *channel, struct iovec *iov,
                            unsigned count, int flags)
{
    while (count) {
        ssize_t sent = channel_write(channel, iov, count, flags);
        unsigned used;

        if (sent < 0)
            return (int)sent;
        channel->sent_bytes += (uint64_t)sent;
        used = iov_advance(iov, count, (size_t)sent);
        iov += used;
        count -= used;
    }
    return 0;
}

int channel_send(struct channel *channel, struct iovec *iov, unsigned count)
{
    int ret = channel_send_all(channel, iov, count, 0);

    if (!ret)
        channel_tune(channel);
    return ret;
}

int channel_send_head(struct channel *channel, struct iovec *iov,
                      unsigned count)
{
    return channel_send_all(channel, iov, count, MSG_MORE);
}

void channel_sent(struct channel *channel, uint64_t bytes)
{
    channel->sent_bytes += bytes;
    channel_tune(channel);
}

int channel_recv_header(struct channel *channel, struct frame_header *header)
{
    while (channel->next_bytes < sizeof(*header)) {
        struct iovec iov = {(char *)&channel->next + channel->next_bytes,
                            sizeof(*header) - channel->next_bytes};
        ssize_t got = channel_read(channel, &iov, 1);

        if (got < 0)
            return (int)got;
        if (!got)
            return channel->next_bytes ? -ECONNRESET : -EPIPE;
        channel->received_bytes += (uint64_t)got;
        channel->next_bytes += (unsigned)got;
    }
    *header = channel->next;
    channel->next_bytes = 0;
    return 0;
}

/* Fill iov[0..need-1]; what stands behind them is read ahead. Return how many
 * entries are full, or -errno. */
static int channel_recv_iov(struct channel *channel, struct iovec *iov,
                            unsigned need, unsigned count)
{
    unsigned at = 0;

    while (at < need) {
        ssize_t got = channel_read(channel, iov + at, count - at);

        if (got < 0)
            return (int)got;
        if (!got)
            return -ECONNRESET;
        channel->received_bytes += (uint64_t)got;
        at += iov_advance(iov + at, count - at, (size_t)got);
    }
    return (int)at;
}

int channel_recv(struct channel *channel, struct iovec *iov, unsigned count)
{
    struct iovec all[count + 1];
    int at;

    memcpy(all, iov, count * sizeof(*iov));
    all[count] = (struct iovec){&channel->next, sizeof(channel->next)};
    at = channel_recv_iov(channel, all, count, count + 1);
    if (at < 0)
        return at;
    channel->next_bytes =
        (unsigned)at > count
            ? (unsigned)sizeof(channel->next)
            : (unsigned)(sizeof(channel->next) - all[count].iov_len);
    return 0;
}

int channel_recv_exactly(struct channel *channel, struct iovec *iov)
{
    int at = channel_recv_iov(channel, iov, 1, 1);

    return MIN(at, 0);
}

int channel_lend_out(const struct channel *channel)
{
    return channel->link.tls ? -1 : channel->link.fd;
}

int channel_lend_in(const struct channel *channel)
{
    return channel->next_bytes ? -1 : channel_lend_out(channel);
}

void channel_lent(struct channel *channel, uint64_t bytes)
{
    channel->received_bytes += bytes;
}

uint64_t channel_heard_bytes(const struct channel *channel)
{
    struct tcp_info info = {0};

    if (!channel_info(channel, &info))
        return channel->received_bytes;
    return info.tcpi_bytes_received;
}
