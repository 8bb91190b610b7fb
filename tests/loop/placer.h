/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The placer of a QEMU, for the process that stands in for one: staging, and a
 * thread that moves it where remapd says. proto/placer.h has the protocol.
 */
#ifndef GUESTLESS_PLACER_H
#define GUESTLESS_PLACER_H

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "../../daemon/uffdio.h"
#include "../../proto/placer.h"

struct loop_placer {
    int fd; /* this end */
    const int *uffd;
    uint8_t *staging;
    uint32_t slots;
    pthread_t thread;
};

static uint32_t loop_placer_prime(struct loop_placer *placer, uint32_t slot,
                                  uint64_t length)
{
    uint8_t *at = placer->staging + (uint64_t)slot * PLACER_SLOT_BYTES;

    if (madvise(at, length, MADV_DONTNEED) ||
        madvise(at, length, 23 /* MADV_POPULATE_WRITE */))
        return (uint32_t)errno;
    return 0;
}

static uint32_t loop_placer_move(struct loop_placer *placer, uint32_t slot,
                                 uint64_t hva, uint64_t length, uint64_t *done)
{
    struct uffdio_move move = {
        .dst = hva,
        .src = (uintptr_t)placer->staging + (uint64_t)slot * PLACER_SLOT_BYTES,
        .len = length};
    uint32_t error =
        ioctl(*placer->uffd, UFFDIO_MOVE, &move) ? (uint32_t)errno : 0;

    *done = move.move > 0 ? (uint64_t)move.move : 0;
    return error;
}

static void *loop_placer_main(void *opaque)
{
    struct loop_placer *placer = opaque;
    struct placer_command command;

    while (recv(placer->fd, &command, sizeof(command), 0) ==
           sizeof(command)) {
        uint32_t slot = be32toh(command.slot);
        uint64_t length = be64toh(command.length), done = length;
        uint32_t error =
            be32toh(command.op) == PLACER_PRIME
                ? loop_placer_prime(placer, slot, length)
                : loop_placer_move(placer, slot, be64toh(command.hva), length,
                                   &done);
        struct placer_answer answer = {command.op, htobe32(error),
                                       htobe64(done)};

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

/* Wait until remapd has closed its end; what is left of staging goes. */
static void loop_placer_join(struct loop_placer *placer)
{
    pthread_join(placer->thread, NULL);
    close(placer->fd);
    munmap(placer->staging, (size_t)placer->slots * PLACER_SLOT_BYTES);
}

#endif
