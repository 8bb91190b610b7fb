/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers of a placer. Input: for each step what the placer's owner does and
 * an answer, which may be short, or not come. */
#include <sys/socket.h>
#include <sys/uio.h>

static ssize_t take_answer(int fd, void *buffer, size_t bytes, int flags);
static ssize_t copy_to(pid_t pid, const struct iovec *local,
                       unsigned long locals, const struct iovec *remote,
                       unsigned long remotes, unsigned long flags);
static ssize_t copy_from(pid_t pid, const struct iovec *local,
                         unsigned long locals, const struct iovec *remote,
                         unsigned long remotes, unsigned long flags);
#define recv                                  take_answer
#define sendmsg(fd, msg, flags)               ((void)(fd), (void)(msg), (void)(flags), 0)
#define setsockopt(fd, level, name, value, n) ((void)(value), 0)
#define process_vm_writev                     copy_to
#define process_vm_readv                      copy_from
#include "../../daemon/packet.c"
#include "../../daemon/placer.c"

#include "fuzz.h"

#include <errno.h>

#define SLOTS     4
#define MAX_STEPS 32

/* Those that have not been taken; one that has not come never comes. */
static struct {
    struct placer_answer answer;
    size_t bytes;
} answers[MAX_STEPS];
static unsigned answer_count, answers_taken, overdue;

static ssize_t take_answer(int fd, void *buffer, size_t bytes, int flags)
{
    (void)fd;
    if (flags & MSG_PEEK) /* the network has something: QEMU does nothing */
        return 1;
    if (answers_taken == answer_count) {
        if (overdue++) /* QEMU leaves */
            return 0;
        errno = EAGAIN;
        return -1;
    }
    bytes = MIN(bytes, answers[answers_taken].bytes);
    memcpy(buffer, &answers[answers_taken++].answer, bytes);
    return (ssize_t)bytes;
}

static ssize_t copy(const struct iovec *from, const struct iovec *to,
                    unsigned long count)
{
    ssize_t bytes = 0;

    for (unsigned long i = 0; i < count; i++) {
        REQUIRE(from[i].iov_len == to[i].iov_len);
        memcpy(to[i].iov_base, from[i].iov_base, from[i].iov_len);
        bytes += (ssize_t)from[i].iov_len;
    }
    return bytes;
}

static ssize_t copy_to(pid_t pid, const struct iovec *local,
                       unsigned long locals, const struct iovec *remote,
                       unsigned long remotes, unsigned long flags)
{
    (void)pid, (void)flags;
    REQUIRE(locals == remotes);
    return copy(local, remote, locals);
}

static ssize_t copy_from(pid_t pid, const struct iovec *local,
                         unsigned long locals, const struct iovec *remote,
                         unsigned long remotes, unsigned long flags)
{
    (void)pid, (void)flags;
    REQUIRE(locals == remotes);
    return copy(remote, local, locals);
}

static void check(const struct placer *placer)
{
    REQUIRE(placer->broken || placer->primed + placer->asked <= placer->slots);
    REQUIRE(placer->next < placer->slots && !placer->lent);
}

/* One page, out of the buffer or from a socket, that the guest has or not. */
static void place(struct placer_pool *pool, uint8_t *page, bool receive,
                  bool there)
{
    const uint64_t one[PAGESET_MASK_WORDS] = {1},
                   none[PAGESET_MASK_WORDS] = {0};
    struct placer_fill fill = {one, page, receive ? 0 : -1};
    struct placer_slot slot;
    int ret = placer_fill(pool, 0, &fill, &slot);

    REQUIRE(receive || !ret || ret == -EAGAIN);
    if (ret)
        return;
    ret = placer_move(pool, 0, &slot, HUGE_BYTES, there ? one : none);
    REQUIRE(ret >= 0);
    if (ret)
        REQUIRE(!placer_read(&slot, &fill));
    placer_done(pool, 0, &slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t staging[SLOTS * PAGE_BYTES * 512], page[PAGE_BYTES];
    struct input input = {data, size};
    struct placer_pool pool = {.count = 1};

    answer_count = answers_taken = overdue = 0;
    pool.placers[0] = placer_new(-1, 0, (uintptr_t)staging, SLOTS);
    placer_begin(pool.placers[0], UINT64_MAX);
    placer_expect(pool.placers[0], 1 + input_byte(&input) % 64);
    for (unsigned i = 0; i < MAX_STEPS && input.size; i++) {
        unsigned what = input_byte(&input);
        struct placer_answer answer;

        if (what & 1) { /* a good one, so that more than the first is seen */
            answer = (struct placer_answer){
                .op = htobe32(what & 2 ? PLACER_RECEIVE : PLACER_PRIME),
                .error = htobe32(what & 32 ? EEXIST : 0),
                .done = htobe64((uint64_t)(what >> 6) * PLACER_SLOT_BYTES),
                .received = htobe64(what & 16 ? PAGE_BYTES : 0)};
        } else {
            input_take(&input, &answer, sizeof(answer));
        }
        answers[answer_count].answer = answer;
        answers[answer_count++].bytes =
            what & 4 ? MIN(what >> 4, sizeof(answer)) : sizeof(answer);
        if (what & 8)
            place(&pool, page, what & 2, what & 64);
        else
            placer_ready(pool.placers[0]);
        check(pool.placers[0]);
    }
    placer_free(pool.placers[0]);
    return 0;
}
