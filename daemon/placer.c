/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "placer.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "util.h"

#define PLACER_MAX_RUNS  256 /* of 512 pages, every second one */
#define PLACER_ANSWER_MS 10000

/* Slots in one command, before the first use. */
#define PLACER_PRIME_AT_ONCE 8

struct placer {
    pthread_mutex_t lock; /* of all that follows, once pages move */
    int fd;
    pid_t pid;
    uint64_t staging;
    uint32_t slots, next;    /* the ring of slots; the one to be used next */
    _Atomic uint32_t primed; /* slots from next on that are ready */
    uint32_t asked;          /* slots behind them whose priming is under way */
    uint64_t uses;           /* that are still expected */
    _Atomic bool broken;
};

static void placer_command(struct placer *placer, enum placer_op op,
                           uint32_t slot, uint64_t hva, uint64_t length)
{
    struct placer_command command = {
        .op = htobe32(op),
        .slot = htobe32(slot),
        .hva = htobe64(hva),
        .length = htobe64(length),
    };

    if (send(placer->fd, &command, sizeof(command), MSG_NOSIGNAL) < 0)
        placer->broken = true;
}

/* Have up to @max slots primed behind those that are, up to the ring's end. */
static void placer_prime(struct placer *placer, uint32_t max)
{
    uint32_t ahead = placer->primed + placer->asked;
    uint32_t slot = (placer->next + ahead) % placer->slots;
    uint32_t count = MIN(max, MIN(placer->slots - ahead, placer->slots - slot));

    if (placer->broken || ahead >= placer->uses || !count)
        return;
    placer_command(placer, PLACER_PRIME, slot, 0,
                   (uint64_t)count * PLACER_SLOT_BYTES);
    placer->asked += count;
}

/* Take one answer. Return true for that to a MOVE. */
static bool placer_answer(struct placer *placer, struct placer_answer *answer,
                          int flags)
{
    ssize_t got = recv(placer->fd, answer, sizeof(*answer), flags);

    if (got != sizeof(*answer)) {
        placer->broken |= got >= 0 || (errno != EAGAIN && errno != EINTR) ||
                          !(flags & MSG_DONTWAIT);
        return false;
    }
    answer->op = be32toh(answer->op);
    answer->error = be32toh(answer->error);
    answer->done = be64toh(answer->done);
    if (answer->op == PLACER_MOVE)
        return true;
    if (answer->op != PLACER_PRIME || answer->error ||
        answer->done / PLACER_SLOT_BYTES > placer->asked) {
        placer->broken = true; /* no memory for staging, or nonsense */
        return false;
    }
    placer->asked -= (uint32_t)(answer->done / PLACER_SLOT_BYTES);
    placer->primed += (uint32_t)(answer->done / PLACER_SLOT_BYTES);
    return false;
}

struct placer *placer_new(int fd, pid_t pid, uint64_t staging, uint32_t slots)
{
    struct timeval timeout = {PLACER_ANSWER_MS / 1000, 0};
    struct placer *placer = xcalloc(1, sizeof(*placer));

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    *placer = (struct placer){
        .fd = fd, .pid = pid, .staging = staging, .slots = slots};
    pthread_mutex_init(&placer->lock, NULL);
    return placer;
}

void placer_begin(struct placer *placer)
{
    placer->uses = placer->slots;
    while (!placer->broken && placer->asked < placer->slots)
        placer_prime(placer, PLACER_PRIME_AT_ONCE);
    placer->uses = 0;
}

bool placer_ready(struct placer *placer)
{
    uint32_t before;
    struct placer_answer answer;

    do {
        before = placer->asked;
        placer_answer(placer, &answer, MSG_DONTWAIT);
    } while (placer->asked < before && !placer->broken);
    return placer->broken || !placer->asked;
}

void placer_expect(struct placer *placer, uint64_t uses)
{
    placer->uses = uses;
}

void placer_free(struct placer *placer)
{
    if (!placer)
        return;
    close(placer->fd);
    pthread_mutex_destroy(&placer->lock);
    free(placer);
}

static bool placer_fill(const struct placer *placer, const uint8_t *from,
                        const struct iovec *iov, unsigned count)
{
    uint64_t slot =
        placer->staging + (uint64_t)placer->next * PLACER_SLOT_BYTES;
    struct iovec remote[PLACER_MAX_RUNS];
    size_t bytes = 0;

    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = (uint64_t)((uint8_t *)iov[i].iov_base - from);

        remote[i].iov_base = (void *)(uintptr_t)(slot + offset);
        remote[i].iov_len = iov[i].iov_len;
        bytes += iov[i].iov_len;
    }
    return process_vm_writev(placer->pid, iov, count, remote, count, 0) ==
           (ssize_t)bytes;
}

/* The placer to use: the thread's own, or the one with the most to give. */
static struct placer *placer_pick(struct placer_pool *pool, unsigned own)
{
    struct placer *best = pool->placers[own];

    if (best->primed && !best->broken)
        return best;
    for (unsigned i = 0; i < pool->count; i++) {
        struct placer *placer = pool->placers[i];

        if (!placer->broken && (best->broken || placer->primed > best->primed))
            best = placer;
    }
    return best;
}

static int placer_use(struct placer *placer, uint64_t hva, const uint8_t *from,
                      const struct iovec *iov, unsigned count, uint64_t length,
                      uint64_t *done)
{
    struct placer_answer answer;
    bool moved = false;

    placer_ready(placer);
    if (!placer->primed && placer->asked && !placer->broken)
        placer_answer(placer, &answer, 0);
    if (placer->broken || !placer->primed)
        return EIO;
    if (!placer_fill(placer, from, iov, count)) {
        placer->broken = true; /* the slot may hold a part: no more zeros */
        return EIO;
    }
    placer_command(placer, PLACER_MOVE, placer->next, hva, length);
    placer->next = (placer->next + 1) % placer->slots;
    placer->primed--;
    placer->uses -= placer->uses > 0;
    placer_prime(placer, 1);
    while (!placer->broken && !moved)
        moved = placer_answer(placer, &answer, 0);
    if (!moved)
        return EIO;
    *done = answer.done;
    return (int)answer.error;
}

int placer_place(struct placer_pool *pool, unsigned own, uint64_t hva,
                 const uint8_t *from, const struct iovec *iov, unsigned count,
                 uint64_t length, uint64_t *done)
{
    struct placer *placer = placer_pick(pool, own);
    int error;

    *done = 0;
    pthread_mutex_lock(&placer->lock);
    error = placer_use(placer, hva, from, iov, count, length, done);
    pthread_mutex_unlock(&placer->lock);
    return error;
}
