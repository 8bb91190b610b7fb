/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "splicer.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "packet.h"
#include "pageset.h"
#include "util.h"

/* A QEMU that is stopped, or swaps, is not waited for long: its memory can be
 * read all the same. But what it may be sending must not be sent twice. */
#define SPLICER_ANSWER_MS 1000
#define SPLICER_SENDS_MS  2000

struct splicer {
    int fd;
    bool broken;
};

struct splicer *splicer_new(int fd)
{
    struct splicer *splicer = xcalloc(1, sizeof(*splicer));

    splicer->fd = fd;
    return splicer;
}

void splicer_free(struct splicer *splicer)
{
    if (!splicer)
        return;
    close(splicer->fd);
    free(splicer);
}

bool splicer_works(const struct splicer *splicer)
{
    return splicer && !splicer->broken;
}

/* Send a command about the @pages from @hva, and lend QEMU @fd with it, if that
 * is not -1. Return: whether QEMU gets it. */
static bool splicer_command(struct splicer *splicer, enum splicer_op op,
                            uint64_t hva, const uint64_t *pages, int fd)
{
    struct splicer_command command = {.op = htobe32(op), .hva = htobe64(hva)};
    struct iovec iov = {&command, sizeof(command)};

    memcpy(command.pages, pages, sizeof(command.pages));
    if (packet_send(splicer->fd, &iov, 1, fd, MSG_DONTWAIT))
        splicer->broken = true;
    return !splicer->broken;
}

/* Is the connection at @fd lost, or shut down? If not, does it @wait for the
 * network? */
static bool connection_lost(int fd, bool *waits)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLOUT};

    *waits = !poll(&pollfd, 1, 0);
    return !*waits && pollfd.revents & (POLLERR | POLLHUP);
}

/* The answer to the one command that is under way, with which @lent was lent,
 * if that is not -1. How long it may take is no matter of the socket's own
 * time-out, which QEMU could change. Return: 0; there will be none: -ESRCH if
 * QEMU has left, -EPROTO otherwise. */
static int splicer_answer(struct splicer *splicer, enum splicer_op op, int lent,
                          struct splicer_answer *answer)
{
    struct pollfd pollfd = {.fd = splicer->fd, .events = POLLIN};
    unsigned silent_ms = 0;
    bool waits = false;
    ssize_t got;
    int ready;

    do {
        while ((ready = poll(&pollfd, 1, SPLICER_ANSWER_MS)) <= 0) {
            bool sends;

            if (ready < 0 && errno == EINTR)
                continue;
            sends = lent >= 0 && !connection_lost(lent, &waits);
            silent_ms = sends && waits ? 0 : silent_ms + SPLICER_ANSWER_MS;
            if (silent_ms >= (sends ? SPLICER_SENDS_MS : SPLICER_ANSWER_MS))
                return -EPROTO;
        }
        got = recv(splicer->fd, answer, sizeof(*answer), MSG_DONTWAIT);
    } while (got < 0 && (errno == EAGAIN || errno == EINTR));
    if (got == 0 || (got < 0 && errno == ECONNRESET))
        return -ESRCH;
    return got == sizeof(*answer) && be32toh(answer->op) == (uint32_t)op
               ? 0
               : -EPROTO;
}

bool splicer_find_zeros(struct splicer *splicer, uint64_t hva,
                        const uint64_t *pages, uint64_t *zero)
{
    struct splicer_answer answer;

    if (!splicer_command(splicer, SPLICER_FIND_ZEROS, hva, pages, -1) ||
        splicer_answer(splicer, SPLICER_FIND_ZEROS, -1, &answer) ||
        answer.error) {
        splicer->broken = true;
        return false;
    }
    memcpy(zero, answer.zero, sizeof(answer.zero));
    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        zero[i] &= pages[i];
    return true;
}

int splicer_send(struct splicer *splicer, uint64_t hva, const uint64_t *pages,
                 int fd)
{
    uint64_t bytes = (uint64_t)mask_count(pages) * SPLICER_PAGE_BYTES;
    struct splicer_answer answer;
    bool waits;
    int ret;

    if (!splicer_command(splicer, SPLICER_SEND, hva, pages, fd))
        return -EAGAIN;
    ret = splicer_answer(splicer, SPLICER_SEND, fd, &answer);
    if (!ret && !answer.error && be64toh(answer.sent) == bytes)
        return 0;
    if (!ret && connection_lost(fd, &waits))
        return -EPIPE;
    splicer->broken = true;
    if (ret == -ESRCH)
        return ret;
    return !ret && answer.error && !answer.sent ? -EAGAIN : -EPIPE;
}
