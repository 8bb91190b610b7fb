/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Channels: the TCP connections that carry page frames, encrypted or not.
 *
 * One thread sends on a channel and one thread receives on it; all calls block
 * until the whole is done or the channel is shut down by channel_shutdown(),
 * which any thread may call.
 */
#ifndef REMAPD_CHANNEL_H
#define REMAPD_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "../proto/frame.h"
#include "tls.h"

enum channel_kind { CHANNEL_URGENT, CHANNEL_BULK };

struct channel {
    struct tls_link link;
    enum channel_kind kind;
    unsigned index;           /* among the channels of its kind */
    struct frame_header next; /* read ahead together with the last payload */
    unsigned next_bytes;
    uint64_t tuned_at_bytes;
    bool unbound; /* bulk: the kernel sizes the queue; channel_bound_queue() */
    _Atomic uint64_t sent_bytes, received_bytes;
};

/** channel_init() - take over @link and set its socket's options. Main thread.
 */
void channel_init(struct channel *channel, struct tls_link link,
                  enum channel_kind kind, unsigned index);

/** channel_copies() - is what is received written by the daemon itself? Then
 * memory that another process can pull away is no place for it. */
static inline bool channel_copies(const struct channel *channel)
{
    return channel->link.tls;
}

/** channel_bound_silence() - what @fd, a connected socket, has sent must be
 * acknowledged within @seconds, or it ends with an error. */
void channel_bound_silence(int fd, unsigned seconds);

/** channel_bound_queue() - let @fd, a TCP socket, hold @bytes that the peer has
 * not acknowledged, and no more; less, where less may be asked for
 * (net.core.wmem_max). Any thread.
 * @link_bytes: what the link carries in a round trip
 * Return: true; false if what may be asked for does not fill the link, and the
 * kernel, which may, sizes the queue from now on (Linux 5.15). */
bool channel_bound_queue(int fd, uint64_t bytes, uint64_t link_bytes);

/** channel_shutdown() - end both directions; blocked calls return. */
void channel_shutdown(struct channel *channel);

/** channel_fini() - close; no thread may be using the channel any more. */
void channel_fini(struct channel *channel);

/**
 * channel_send() - send all of @iov, which is used up in place.
 * Return: 0 or -errno.
 */
int channel_send(struct channel *channel, struct iovec *iov, unsigned count);

/**
 * channel_send_head() - the same, of a frame whose other bytes follow at once,
 * sent on channel_lend_out()'s socket by another process. channel_sent() - it
 * has sent @bytes.
 */
int channel_send_head(struct channel *channel, struct iovec *iov,
                      unsigned count);
void channel_sent(struct channel *channel, uint64_t bytes);

/**
 * channel_recv_header() - receive the next frame's header, as it is on the
 * wire. Return: 0, -EPIPE if the peer closed between two frames, -ECONNRESET
 * if it closed within one, or -errno.
 */
int channel_recv_header(struct channel *channel, struct frame_header *header);

/**
 * channel_recv() - fill all of @iov, which is used up in place, with payload,
 * and read ahead into the header that follows.
 * Return: 0, -ECONNRESET if the peer closed before the end, or -errno.
 */
int channel_recv(struct channel *channel, struct iovec *iov, unsigned count);

/** channel_recv_exactly() - the same for one buffer within a payload, without
 * reading ahead. */
int channel_recv_exactly(struct channel *channel, struct iovec *iov);

/**
 * channel_lend_in() - the socket, for another process to take a frame's payload
 * from, as long as nothing of that has been received here. channel_lent() - it
 * has taken @bytes. channel_lend_out() - the socket, for another process to
 * send on.
 * Return: the channel's own descriptor, or -1 if that cannot be.
 */
int channel_lend_in(const struct channel *channel);
int channel_lend_out(const struct channel *channel);
void channel_lent(struct channel *channel, uint64_t bytes);

/** channel_heard_bytes() - what has come from the peer, whoever may receive it;
 * to see whether anything comes. Any thread. */
uint64_t channel_heard_bytes(const struct channel *channel);

#endif
