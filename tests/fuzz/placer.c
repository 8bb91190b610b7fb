/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers of a placer. Input: for each step what the placer's owner does and
 * an answer, which may be short, or not come. */
#include <sys/socket.h>
#include <sys/uio.h>

static ssize_t take_answer(void *buffer, size_t bytes);
static ssize_t write_staging(const struct iovec *from, const struct iovec *to,
                             unsigned long count);
#define recv(fd, buffer, bytes, flags)        take_answer(buffer, bytes)
#define send(fd, buffer, bytes, flags)        ((void)(buffer), (ssize_t)(bytes))
#define setsockopt(fd, level, name, value, n) ((void)(value), 0)
#define process_vm_writev(pid, from, n, to, m, flags)                          \
    write_staging(from, to, n)
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
static unsigned answer_count, answers_taken;

static ssize_t take_answer(void *buffer, size_t bytes)
{
    if (answers_taken == answer_count) {
        errno = EAGAIN;
        return -1;
    }
    bytes = MIN(bytes, answers[answers_taken].bytes);
    memcpy(buffer, &answers[answers_taken++].answer, bytes);
    return (ssize_t)bytes;
}

static ssize_t write_staging(const struct iovec *from, const struct iovec *to,
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

static void check(const struct placer *placer)
{
    REQUIRE(placer->broken || placer->primed + placer->asked <= placer->slots);
    REQUIRE(placer->next < placer->slots);
}

static void place(struct placer_pool *pool, uint8_t *page)
{
    struct iovec iov = {page, PAGE_BYTES};
    uint64_t done = UINT64_MAX;

    placer_place(pool, 0, HUGE_BYTES, page, &iov, 1, HUGE_BYTES, &done);
    REQUIRE(done != UINT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t staging[SLOTS * PAGE_BYTES * 512], page[PAGE_BYTES];
    struct input input = {data, size};
    struct placer_pool pool = {.count = 1};

    answer_count = answers_taken = 0;
    pool.placers[0] = placer_new(-1, 0, (uintptr_t)staging, SLOTS);
    placer_begin(pool.placers[0]);
    placer_expect(pool.placers[0], 1 + input_byte(&input) % 64);
    for (unsigned i = 0; i < MAX_STEPS && input.size; i++) {
        unsigned what = input_byte(&input);
        struct placer_answer answer;

        if (what & 1) { /* a good one, so that more than the first is seen */
            answer = (struct placer_answer){
                .op = htobe32(what & 2 ? PLACER_MOVE : PLACER_PRIME),
                .done = htobe64((uint64_t)(what >> 4) * PLACER_SLOT_BYTES)};
        } else {
            input_take(&input, &answer, sizeof(answer));
        }
        answers[answer_count].answer = answer;
        answers[answer_count++].bytes =
            what & 4 ? MIN(what >> 4, sizeof(answer)) : sizeof(answer);
        if (what & 8)
            place(&pool, page);
        else
            placer_ready(pool.placers[0]);
        check(pool.placers[0]);
    }
    placer_free(pool.placers[0]);
    return 0;
}
