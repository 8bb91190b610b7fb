/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The placer of a QEMU, for the process that stands in for one: staging, and a
 * thread that moves it where remapd says. proto/placer.h has the protocol.
 */
#ifndef GUESTLESS_PLACER_H
#define GUESTLESS_PLACER_H

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../daemon/uffdio.h"
#include "../../proto/placer.h"
#include "hand.h"

struct loop_placer {
    int fd; /* this end */
    const int *uffd;
    uint8_t *staging;
    uint32_t slots;
    pthread_t thread;
};

static uint32_t loop_placer_prime(uint64_t staging, uint64_t length)
{
    void *at = (void *)(uintptr_t)staging;

    if (madvise(at, length, MADV_DONTNEED) ||
        madvise(at, length, 23 /* MADV_POPULATE_WRITE */))
        return (uint32_t)errno;
    return 0;
}

/* Until it is all there, or either end has gone. */
static uint32_t loop_placer_receive(const struct loop_placer *placer,
                                    int stream, uint64_t staging,
                                    const uint8_t *pages, uint64_t *received)
{
    for (unsigned page = 0; page < PLACER_SLOT_BYTES / PLACER_PAGE_BYTES;
         page++) {
        uint8_t *at = (uint8_t *)(uintptr_t)staging + page * PLACER_PAGE_BYTES;
        size_t left = loop_page_named(pages, page) ? PLACER_PAGE_BYTES : 0;

        while (left) {
            struct pollfd fds[] = {{.fd = stream, .events = POLLIN},
                                   {.fd = placer->fd}};
            ssize_t got;

            if (poll(fds, 2, -1) < 0 || fds[1].revents)
                return ECANCELED;
            got = recv(stream, at, left, 0);
            if (got <= 0)
                return (uint32_t)(got ? errno : ECONNRESET);
            at += got;
            left -= (size_t)got;
            *received += (uint64_t)got;
        }
    }
    return 0;
}

static uint32_t loop_placer_move(struct loop_placer *placer, uint64_t from,
                                 uint64_t to, uint64_t length)
{
    struct uffdio_move move = {.dst = to, .src = from, .len = length};

    return ioctl(*placer->uffd, UFFDIO_MOVE, &move) ? (uint32_t)errno : 0;
}

/* Take a page of the guest's into the slot, by way of registered memory. */
static uint32_t loop_placer_take(struct loop_placer *placer, uint64_t hva,
                                 uint64_t staging)
{
    void *taken = mmap(NULL, PLACER_PAGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register reg = {
        .range = {(uintptr_t)taken, PLACER_PAGE_BYTES},
        .mode = UFFDIO_REGISTER_MODE_MISSING};
    uint32_t error =
        taken == MAP_FAILED || ioctl(*placer->uffd, UFFDIO_REGISTER, &reg)
            ? (uint32_t)errno
            : loop_placer_move(placer, hva, (uintptr_t)taken,
                               PLACER_PAGE_BYTES);

    if (!error)
        memcpy((void *)(uintptr_t)staging, taken, PLACER_PAGE_BYTES);
    munmap(taken, PLACER_PAGE_BYTES);
    return error;
}

/* What has been taken is the guest's again if the slot does not move. */
static uint32_t loop_placer_replace(struct loop_placer *placer,
                                    const struct placer_command *command)
{
    uint64_t hva = be64toh(command->hva), staging = be64toh(command->staging);
    bool taken[PLACER_SLOT_BYTES / PLACER_PAGE_BYTES] = {false}, any = false;
    uint32_t error = 0;

    for (unsigned page = 0; page < PLACER_SLOT_BYTES / PLACER_PAGE_BYTES;
         page++) {
        uint64_t offset = page * PLACER_PAGE_BYTES;

        if (error || !loop_page_named(command->pages, page))
            continue;
        do {
            error = loop_placer_take(placer, hva + offset, staging + offset);
        } while (error == EAGAIN);
        taken[page] = !error;
        any |= taken[page];
    }
    if (any && !error)
        madvise((void *)(uintptr_t)hva, PLACER_SLOT_BYTES, MADV_DONTNEED);
    if (!error)
        error = loop_placer_move(placer, staging, hva, PLACER_SLOT_BYTES);
    for (unsigned page = 0;
         error && page < PLACER_SLOT_BYTES / PLACER_PAGE_BYTES; page++) {
        struct uffdio_copy copy = {.dst = hva + page * PLACER_PAGE_BYTES,
                                   .src = staging + page * PLACER_PAGE_BYTES,
                                   .len = PLACER_PAGE_BYTES};

        if (taken[page] && ioctl(*placer->uffd, UFFDIO_COPY, &copy) &&
            errno != EEXIST)
            abort(); /* the guest has lost it */
    }
    return error;
}

static void *loop_placer_main(void *opaque)
{
    struct loop_placer *placer = opaque;
    struct placer_command command;
    int stream;

    while (loop_hand_next(placer->fd, &command, sizeof(command), &stream)) {
        uint64_t staging = be64toh(command.staging);
        uint64_t length = be64toh(command.length), done = 0, received = 0;
        uint32_t error = 0;

        if (be32toh(command.op) == PLACER_PRIME) {
            error = loop_placer_prime(staging, length);
            done = error ? 0 : length;
        } else if (be32toh(command.op) == PLACER_RECEIVE) {
            error = loop_placer_receive(placer, stream, staging, command.pages,
                                        &received);
        } else {
            error = loop_placer_replace(placer, &command);
            done = error ? 0 : length;
        }
        if (stream >= 0)
            close(stream);
        struct placer_answer answer = {command.op, htobe32(error),
                                       htobe64(done), htobe64(received)};

        if (send(placer->fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
            break;
    }
    return NULL;
}

/* Start one with @slots slots; @uffd may be opened later. Return the end of
 * the socket that remapd gets, or -1. */
static int loop_placer_start(struct loop_placer *placer, const int *uffd,
                             uint32_t slots)
{
    size_t bytes = (size_t)slots * PLACER_SLOT_BYTES;
    int fds[2];
    uint8_t *at = mmap(NULL, bytes + PLACER_SLOT_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
        return -1;
    at = (uint8_t *)(((uintptr_t)at + PLACER_SLOT_BYTES - 1) /
                     PLACER_SLOT_BYTES * PLACER_SLOT_BYTES);
    madvise(at, bytes, MADV_HUGEPAGE);
    *placer = (struct loop_placer){fds[0], uffd, at, slots, 0};
    if (pthread_create(&placer->thread, NULL, loop_placer_main, placer))
        return -1;
    return fds[1];
}

/* Wait until remapd has closed its ends; what is left of staging goes, which
 * each of the threads may have used. */
static void loop_placers_join(struct loop_placer *placers, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        pthread_join(placers[i].thread, NULL);
        close(placers[i].fd);
    }
    for (unsigned i = 0; i < count; i++)
        munmap(placers[i].staging,
               (size_t)placers[i].slots * PLACER_SLOT_BYTES);
}

#endif
