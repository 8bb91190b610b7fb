/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "placer.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "packet.h"
#include "pageset.h"
#include "util.h"

#define PLACER_SLOT_PAGES (PLACER_SLOT_BYTES / PAGE_BYTES)
#define PLACER_ANSWER_MS  10000

/* Slots in one command, before the first use. */
#define PLACER_PRIME_AT_ONCE 8

/* Slots that are being primed at once before the first use, for that waits for
 * them; and that few are left before used ones are primed again, for a fault
 * may wait for that. */
#define PLACER_PRIME_AHEAD 64

/* After each use: the slot that was used, and one that another thread took. */
#define PLACER_PRIME_BEHIND 2

/* The socket is the own thread's, once pages move. */
struct placer {
    int fd;
    pid_t pid;
    uint64_t staging;
    _Atomic bool broken;
    pthread_mutex_t lock;    /* of the ring: other threads take slots, too */
    uint32_t slots, next;    /* the ring of slots; the one to be used next */
    _Atomic uint32_t primed; /* slots from next on that are ready */
    uint32_t asked;          /* slots behind them whose priming is under way */
    uint32_t lent;           /* slots that other threads are using */
    uint32_t early;          /* slots to be primed before the first use */
    bool goes_on;            /* used ones are primed again */
    uint64_t uses;           /* that are still expected */
};

static uint64_t placer_staging(const struct placer *placer, uint32_t slot)
{
    return placer->staging + (uint64_t)slot * PLACER_SLOT_BYTES;
}

/* Send @command, and lend QEMU @fd with it, if that is not -1. One that does
 * not read its few commands is not waited for: the main thread primes, too.
 * Return: whether QEMU gets it. */
static bool placer_command(struct placer *placer,
                           const struct placer_command *command, int fd)
{
    struct iovec iov = {(void *)(uintptr_t)command, sizeof(*command)};

    if (placer->broken || packet_send(placer->fd, &iov, 1, fd, MSG_DONTWAIT)) {
        placer->broken = true;
        return false;
    }
    return true;
}

/* Have up to @max slots primed behind those that are, up to the ring's end; but
 * a slot that another thread is using may be the next one there. Return:
 * whether QEMU was told of any. */
static bool placer_prime(struct placer *placer, bool early, uint32_t max)
{
    struct placer_command command = {.op = htobe32(PLACER_PRIME)};
    uint32_t ahead, slot, count = 0;
    uint64_t enough;

    pthread_mutex_lock(&placer->lock);
    ahead = placer->primed + placer->asked;
    slot = (placer->next + ahead) % placer->slots;
    enough =
        early ? placer->early : MIN(MAX(placer->uses, 1), PLACER_PRIME_AHEAD);
    if (ahead < enough && !placer->lent)
        count = (uint32_t)MIN(MIN(max, enough - ahead),
                              MIN(placer->slots - ahead, placer->slots - slot));
    placer->asked += count;
    pthread_mutex_unlock(&placer->lock);
    if (!count)
        return false;
    command.staging = htobe64(placer_staging(placer, slot));
    command.length = htobe64((uint64_t)count * PLACER_SLOT_BYTES);
    return placer_command(placer, &command, -1);
}

static void placer_prime_early(struct placer *placer)
{
    while (placer->asked < PLACER_PRIME_AHEAD &&
           placer_prime(placer, true, PLACER_PRIME_AT_ONCE))
        ;
}

/* Slots that were asked for are primed; false if they were not. */
static bool placer_primed(struct placer *placer, uint64_t slots)
{
    bool fine;

    pthread_mutex_lock(&placer->lock);
    fine = slots <= placer->asked;
    if (fine) {
        placer->asked -= (uint32_t)slots;
        placer->primed += (uint32_t)slots;
    }
    pthread_mutex_unlock(&placer->lock);
    return fine;
}

/* Take one answer. Return 1 for one to a command that moves, 0 for another, or
 * -EAGAIN if there is none yet; there will be none: -ESRCH if QEMU has left,
 * -EIO otherwise. */
static int placer_answer(struct placer *placer, struct placer_answer *answer,
                         int flags)
{
    ssize_t got;

    do {
        got = recv(placer->fd, answer, sizeof(*answer), flags);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        return -EAGAIN;
    if (got == sizeof(*answer)) {
        answer->op = be32toh(answer->op);
        answer->error = be32toh(answer->error);
        answer->done = be64toh(answer->done);
        answer->received = be64toh(answer->received);
        if (answer->op == PLACER_MOVE || answer->op == PLACER_RECEIVE)
            return 1;
        if (answer->op == PLACER_PRIME && !answer->error &&
            placer_primed(placer, answer->done / PLACER_SLOT_BYTES))
            return 0;
    }
    placer->broken = true; /* gone, no memory for staging, or nonsense */
    return got == 0 || (got < 0 && errno == ECONNRESET) ? -ESRCH : -EIO;
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

/* What has been primed since. */
static void placer_look(struct placer *placer)
{
    struct placer_answer answer;

    while (!placer_answer(placer, &answer, MSG_DONTWAIT))
        ;
}

void placer_begin(struct placer *placer, uint64_t slots)
{
    placer->early = (uint32_t)MIN(slots, placer->slots);
    placer_prime_early(placer);
}

bool placer_ready(struct placer *placer)
{
    placer_look(placer);
    placer_prime_early(placer);
    return placer->broken || !placer->asked;
}

void placer_expect(struct placer *placer, uint64_t uses)
{
    placer->goes_on = true;
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

/* Take a primed slot of @owner's for @user, if there is one. */
static bool placer_take(struct placer *owner, const struct placer *user,
                        struct placer_slot *slot)
{
    *slot = (struct placer_slot){0, owner};
    pthread_mutex_lock(&owner->lock);
    if (owner->primed && !owner->broken) {
        slot->staging = placer_staging(owner, owner->next);
        owner->next = (owner->next + 1) % owner->slots;
        owner->primed--;
        owner->uses -= owner->uses > 0;
        owner->lent += owner != user;
    }
    pthread_mutex_unlock(&owner->lock);
    return slot->staging;
}

/* But a placer that has not answered may still be at the slot: its owner primes
 * none again. */
static void placer_give_back(const struct placer_slot *slot,
                             const struct placer *user)
{
    if (user->broken)
        return;
    pthread_mutex_lock(&slot->owner->lock);
    slot->owner->lent -= slot->owner != user;
    pthread_mutex_unlock(&slot->owner->lock);
}

/* A primed slot: the user's own, or one of who has the most, or the user's own
 * once it has been primed. */
static bool placer_pick(struct placer_pool *pool, struct placer *user,
                        struct placer_slot *slot)
{
    struct placer *best = user;
    struct placer_answer answer;

    if (placer_take(user, user, slot))
        return true;
    for (unsigned i = 0; i < pool->count; i++) {
        if (pool->placers[i]->primed > best->primed)
            best = pool->placers[i];
    }
    if (best != user && placer_take(best, user, slot))
        return true;
    if (user->asked && placer_answer(user, &answer, 0) == -EAGAIN)
        user->broken = true;
    return placer_take(user, user, slot);
}

/* The pages that @fill names between its buffer and the slot, by @copy. */
static int
placer_copy(const struct placer_slot *slot, const struct placer_fill *fill,
            ssize_t (*copy)(pid_t pid, const struct iovec *local,
                            unsigned long locals, const struct iovec *remote,
                            unsigned long remotes, unsigned long flags))
{
    struct iovec local[MASK_MAX_RUNS], remote[MASK_MAX_RUNS];
    unsigned count =
        mask_iovecs(fill->data, PLACER_SLOT_PAGES, fill->buffer, local);

    mask_iovecs(fill->data, PLACER_SLOT_PAGES, (void *)(uintptr_t)slot->staging,
                remote);
    return copy(slot->owner->pid, local, count, remote, count, 0) ==
                   (ssize_t)(mask_count(fill->data) * PAGE_BYTES)
               ? 0
               : -EPIPE;
}

/* Is it the network that one waits for, and not QEMU? QEMU has told the socket
 * how much it waits for (SO_RCVLOWAT), and poll() asks for the same. */
static bool placer_waits_for(int fd)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};

    return fd >= 0 && !poll(&pollfd, 1, 0);
}

/* Wait for the answer to a command, which is waiting itself for the network at
 * @fd, if that is not -1; if it @must come, for as long as QEMU is there,
 * whatever else it says. Return 0, or a positive errno if none comes: ESRCH if
 * QEMU has left, EIO otherwise. */
static int placer_await(struct placer *placer, int fd, bool must,
                        struct placer_answer *answer)
{
    int got;

    while ((got = placer_answer(placer, answer, 0)) != 1) {
        if (got == -EAGAIN && !must && !placer_waits_for(fd))
            placer->broken = true;
        if (got == -ESRCH)
            return ESRCH;
        if (placer->broken && !must)
            return EIO;
    }
    return 0;
}

/* Have QEMU receive into the slot. */
static int placer_receive(struct placer_pool *pool, struct placer *placer,
                          const struct placer_fill *fill,
                          const struct placer_slot *slot)
{
    struct placer_command command = {
        .op = htobe32(PLACER_RECEIVE),
        .staging = htobe64(slot->staging),
        .length = htobe64(PLACER_SLOT_BYTES),
    };
    uint64_t bytes = (uint64_t)mask_count(fill->data) * PAGE_BYTES;
    struct placer_answer answer;
    int lost;

    memcpy(command.pages, fill->data, sizeof(command.pages));
    placer_command(placer, &command, fill->fd);
    lost = placer_await(placer, fill->fd, false, &answer);
    if (lost)
        return lost == ESRCH ? -ESRCH : -EPIPE;
    if (answer.error == EBADF)
        pool->deaf = true;
    if (!answer.error && answer.received == bytes)
        return 0;
    return answer.received ? -EPIPE : -EAGAIN;
}

int placer_fill(struct placer_pool *pool, unsigned own,
                const struct placer_fill *fill, struct placer_slot *slot)
{
    struct placer *placer = pool->placers[own];
    int ret;

    placer_look(placer);
    if (placer->broken || !placer_pick(pool, placer, slot))
        return -EAGAIN;
    if (fill->fd >= 0)
        ret = placer_receive(pool, placer, fill, slot);
    else
        ret = placer_copy(slot, fill, process_vm_writev) ? -EAGAIN : 0;
    if (ret)
        placer_done(pool, own, slot);
    return ret;
}

int placer_move(struct placer_pool *pool, unsigned own,
                const struct placer_slot *slot, uint64_t hva,
                const uint64_t *there)
{
    struct placer *placer = pool->placers[own];
    struct placer_command command = {
        .op = htobe32(PLACER_MOVE),
        .staging = htobe64(slot->staging),
        .hva = htobe64(hva),
        .length = htobe64(PLACER_SLOT_BYTES),
    };
    struct placer_answer answer;
    int lost;

    memcpy(command.pages, there, sizeof(command.pages));
    if (!placer_command(placer, &command, -1))
        return EIO;
    /* A late one would throw away what has been placed there meanwhile. */
    lost = placer_await(placer, -1, mask_count(there), &answer);
    return lost ? lost : (int)answer.error;
}

int placer_read(const struct placer_slot *slot, const struct placer_fill *fill)
{
    return placer_copy(slot, fill, process_vm_readv);
}

void placer_done(struct placer_pool *pool, unsigned own,
                 const struct placer_slot *slot)
{
    placer_give_back(slot, pool->placers[own]);
    if (pool->placers[own]->goes_on)
        placer_prime(pool->placers[own], false, PLACER_PRIME_BEHIND);
}
