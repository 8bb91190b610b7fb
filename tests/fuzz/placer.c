/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers of a placer. Input: for each step what the placer's owner does and
 * an answer, which may be short, or not come. */
#include "../../daemon/placer.c"

#include "fuzz.h"

#define SLOTS     4
#define MAX_STEPS 32

/* Instead of the C library's: an answer that has not come never comes. */
ssize_t recv(int fd, void *buffer, size_t bytes, int flags)
{
    return recvfrom(fd, buffer, bytes, flags | MSG_DONTWAIT, NULL, NULL);
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
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
        abort();
    pool.placers[0] =
        placer_new(pair[0], getpid(), (uintptr_t)staging, SLOTS);
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
        send(pair[1], &answer, what & 4 ? what >> 4 : sizeof(answer),
             MSG_DONTWAIT | MSG_NOSIGNAL);
        if (what & 8)
            place(&pool, page);
        else
            placer_ready(pool.placers[0]);
        check(pool.placers[0]);
    }
    placer_free(pool.placers[0]);
    close(pair[1]);
    return 0;
}
