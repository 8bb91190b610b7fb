/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The splicer of a QEMU, for the process that stands in for one: a thread that
 * sends its memory where remapd says. proto/splicer.h has the protocol.
 */
#ifndef GUESTLESS_SPLICER_H
#define GUESTLESS_SPLICER_H

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../proto/splicer.h"
#include "hand.h"

/* What goes wrong, from the third command of a kind on */
#define SPLICER_GOOD_COMMANDS 2

struct loop_splicer {
    int fd; /* this end */
    const char *how;
    unsigned commands; /* of those that go wrong */
    pthread_t thread;
};

/* Is it time to do @wrong? */
static bool loop_splicer_does(struct loop_splicer *splicer, const char *wrong)
{
    return !strcmp(splicer->how, wrong) &&
           splicer->commands++ >= SPLICER_GOOD_COMMANDS;
}

static void loop_splicer_find_zeros(const struct splicer_command *command,
                                    struct splicer_answer *answer)
{
    static const uint8_t zeros[SPLICER_PAGE_BYTES];
    const uint8_t *first = (void *)(uintptr_t)be64toh(command->hva);

    for (unsigned page = 0; page < SPLICER_PAGES; page++) {
        if (loop_page_named(command->pages, page) &&
            !memcmp(first + page * SPLICER_PAGE_BYTES, zeros, sizeof(zeros)))
            answer->zero[page / 8] |= (uint8_t)(1 << page % 8);
    }
}

/* All of @length, by reference. */
static uint32_t loop_splicer_refer(const int *pipe, int stream, uint8_t *at,
                                   size_t length, uint64_t *sent)
{
    while (length) {
        struct iovec iov = {at, length};
        ssize_t held = vmsplice(pipe[1], &iov, 1, 0);

        if (held < 0)
            return (uint32_t)errno;
        at += held;
        length -= (size_t)held;
        while (held) {
            ssize_t taken =
                splice(pipe[0], NULL, stream, NULL, (size_t)held, 0);

            if (taken <= 0)
                return (uint32_t)(taken ? errno : EPIPE);
            held -= taken;
            *sent += (uint64_t)taken;
        }
    }
    return 0;
}

static uint32_t loop_splicer_send(struct loop_splicer *splicer, int stream,
                                  const struct splicer_command *command,
                                  uint64_t *sent)
{
    uint8_t *first = (void *)(uintptr_t)be64toh(command->hva);
    bool half = loop_splicer_does(splicer, "half") ||
                loop_splicer_does(splicer, "stuck");
    uint32_t error = 0;
    int ends[2];

    if (loop_splicer_does(splicer, "fails"))
        return EPERM;
    if (pipe2(ends, O_CLOEXEC))
        return (uint32_t)errno;
    for (unsigned page = 0; !error && page < SPLICER_PAGES; page++) {
        if (loop_page_named(command->pages, page))
            error = loop_splicer_refer(ends, stream,
                                       first + page * SPLICER_PAGE_BYTES,
                                       SPLICER_PAGE_BYTES, sent);
        if (half && *sent)
            error = EIO;
    }
    close(ends[0]);
    close(ends[1]);
    return error;
}

static void *loop_splicer_main(void *opaque)
{
    struct loop_splicer *splicer = opaque;
    struct splicer_command command;
    int stream;

    while (loop_hand_next(splicer->fd, &command, sizeof(command), &stream)) {
        struct splicer_answer answer = {.op = command.op};
        uint64_t sent = 0;
        bool send_it = be32toh(command.op) == SPLICER_SEND;

        if (!send_it && loop_splicer_does(splicer, "leaves")) {
            shutdown(splicer->fd, SHUT_RDWR);
            break;
        }
        if (send_it)
            answer.error =
                htobe32(loop_splicer_send(splicer, stream, &command, &sent));
        else
            loop_splicer_find_zeros(&command, &answer);
        answer.sent = htobe64(sent);
        if (stream >= 0)
            close(stream);
        if ((!send_it && loop_splicer_does(splicer, "mute")) ||
            (answer.error && !strcmp(splicer->how, "stuck")))
            continue;
        if (send(splicer->fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
            break;
    }
    return NULL;
}

/* Start one. Return the end of the socket that remapd gets, or -1. */
static int loop_splicer_start(struct loop_splicer *splicer, const char *how)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
        return -1;
    *splicer = (struct loop_splicer){.fd = fds[0], .how = how};
    if (pthread_create(&splicer->thread, NULL, loop_splicer_main, splicer))
        return -1;
    return fds[1];
}

/* Wait until remapd has closed its ends. */
static void loop_splicers_join(struct loop_splicer *splicers, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        pthread_join(splicers[i].thread, NULL);
        close(splicers[i].fd);
    }
}

#endif
