/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What remapd makes of a placer's answers: the other end of its socket is here.
 * A slot is in this process: process_vm_readv(2) finds it. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "hand.h"
#include "unit.h"

#include "../../daemon/pageset.h"
#include "../../daemon/placer.h"

#define SLOTS 2

static const uint64_t two_pages[PAGESET_MASK_WORDS] = {1 | 1 << 2};

static struct {
    struct placer_pool pool;
    int end; /* the placer's */
    uint8_t *staging;
    struct placer_answer answer; /* to the next command */
    struct placer_command command;
    bool lent;   /* a descriptor came with it */
    bool leaves; /* instead of answering */
} it;

static void *answer_one(void *opaque)
{
    (void)opaque;
    if (!take_command(it.end, &it.command, sizeof(it.command), &it.lent))
        return NULL;
    if (it.leaves) {
        shutdown(it.end, SHUT_RDWR);
        return NULL;
    }
    it.answer.op = it.command.op;
    send(it.end, &it.answer, sizeof(it.answer), 0);
    return NULL;
}

/* What is asked for is primed. */
static int set_up(void **state)
{
    struct placer_answer primed = {htobe32(PLACER_PRIME), 0,
                                   htobe64(SLOTS * PLACER_SLOT_BYTES), 0};
    int fds[2];

    (void)state;
    memset(&it, 0, sizeof(it));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) ||
        posix_memalign((void **)&it.staging, PLACER_SLOT_BYTES,
                       SLOTS * PLACER_SLOT_BYTES))
        return -1;
    it.end = fds[1];
    it.pool.placers[0] =
        placer_new(fds[0], getpid(), (uintptr_t)it.staging, SLOTS);
    it.pool.count = 1;
    placer_begin(it.pool.placers[0], SLOTS);
    recv(it.end, &it.command, sizeof(it.command), 0);
    assert_int_equal(be64toh(it.command.length), SLOTS * PLACER_SLOT_BYTES);
    send(it.end, &primed, sizeof(primed), 0);
    assert_true(placer_ready(it.pool.placers[0]));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    placer_free(it.pool.placers[0]);
    close(it.end);
    free(it.staging);
    return 0;
}

/* Fill a slot with two pages, from a socket, which has that answered, or not.
 */
static int fill(bool receive, uint32_t error, uint64_t received,
                uint8_t *buffer, struct placer_slot *slot)
{
    struct placer_fill what = {two_pages, buffer, receive ? it.end : -1};
    pthread_t thread;
    int ret;

    if (!receive)
        return placer_fill(&it.pool, 0, &what, slot);
    it.answer.error = htobe32(error);
    it.answer.received = htobe64(received);
    pthread_create(&thread, NULL, answer_one, NULL);
    ret = placer_fill(&it.pool, 0, &what, slot);
    pthread_join(thread, NULL);
    return ret;
}

static int move(const struct placer_slot *slot, uint32_t error,
                const uint64_t *there)
{
    pthread_t thread;
    int ret;

    it.answer.error = htobe32(error);
    pthread_create(&thread, NULL, answer_one, NULL);
    ret = placer_move(&it.pool, 0, slot, PLACER_SLOT_BYTES, there);
    pthread_join(thread, NULL);
    return ret;
}

static const uint64_t none[PAGESET_MASK_WORDS];

static void lends_the_socket(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(true, 0, 2 * PAGE_BYTES, buffer, &slot), 0);
    assert_true(it.lent);
    assert_int_equal(be32toh(it.command.op), PLACER_RECEIVE);
    assert_int_equal(be64toh(it.command.staging), (uintptr_t)it.staging);
    assert_int_equal(it.command.pages[0], 1 | 1 << 2);
}

static void moves_what_it_has_filled(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(true, 0, 2 * PAGE_BYTES, buffer, &slot), 0);
    assert_int_equal(move(&slot, 0, two_pages), 0);
    assert_false(it.lent);
    assert_int_equal(be32toh(it.command.op), PLACER_MOVE);
    assert_int_equal(be64toh(it.command.staging), (uintptr_t)it.staging);
    assert_int_equal(be64toh(it.command.hva), PLACER_SLOT_BYTES);
    assert_int_equal(be64toh(it.command.length), PLACER_SLOT_BYTES);
    assert_int_equal(it.command.pages[0], 1 | 1 << 2);
}

static void brings_back_what_did_not_move(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_fill what = {two_pages, buffer, -1};
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(true, 0, 2 * PAGE_BYTES, buffer, &slot), 0);
    assert_int_equal(move(&slot, EEXIST, none), EEXIST);
    memset(buffer, 1, sizeof(buffer));
    memset(it.staging, 2, 3 * PAGE_BYTES);
    assert_int_equal(placer_read(&slot, &what), 0);
    assert_int_equal(buffer[0], 2);
    assert_int_equal(buffer[PAGE_BYTES], 1);
    assert_int_equal(buffer[2 * PAGE_BYTES], 2);
}

static void a_part_is_a_loss(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(true, ECONNRESET, PAGE_BYTES, buffer, &slot), -EPIPE);
    assert_int_equal(fill(true, 0, PAGE_BYTES, buffer, &slot), -EPIPE);
}

static void nothing_is_none(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(true, ECONNRESET, 0, buffer, &slot), -EAGAIN);
    assert_false(it.pool.deaf);
}

/* What it had taken is lost with it. */
static void says_that_qemu_left(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    it.leaves = true;
    assert_int_equal(fill(true, 0, 0, buffer, &slot), -ESRCH);
    assert_int_equal(tear_down(state), 0);
    assert_int_equal(set_up(state), 0);
    assert_int_equal(fill(false, 0, 0, buffer, &slot), 0);
    it.leaves = true;
    assert_int_equal(move(&slot, 0, none), ESRCH);
}

/* The next bytes are received here, and written into staging. */
static void remembers_who_cannot_use_it(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(true, EBADF, 0, buffer, &slot), -EAGAIN);
    assert_true(it.pool.deaf);
    memset(buffer, 3, sizeof(buffer));
    memset(it.staging, 0, SLOTS * PLACER_SLOT_BYTES);
    assert_int_equal(fill(false, 0, 0, buffer, &slot), 0);
    assert_int_equal(slot.staging, (uintptr_t)it.staging + PLACER_SLOT_BYTES);
    assert_int_equal(it.staging[PLACER_SLOT_BYTES], 3);
    assert_int_equal(it.staging[PLACER_SLOT_BYTES + PAGE_BYTES], 0);
}

/* Every slot is used once: none is left. */
static void no_slot_is_used_twice(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    for (unsigned i = 0; i < SLOTS; i++) {
        assert_int_equal(fill(false, 0, 0, buffer, &slot), 0);
        assert_int_equal(move(&slot, 0, none), 0);
        placer_done(&it.pool, 0, &slot);
    }
    assert_int_equal(fill(false, 0, 0, buffer, &slot), -EAGAIN);
}

/* A slot could not be primed, which is said before the move is answered: one
 * that takes pages is waited for all the same, for it will be done. */
static void waits_for_a_move_that_takes(void **state)
{
    struct placer_answer failed = {htobe32(PLACER_PRIME), htobe32(ENOMEM), 0,
                                   0};
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    assert_int_equal(fill(false, 0, 0, buffer, &slot), 0);
    send(it.end, &failed, sizeof(failed), 0);
    assert_int_equal(move(&slot, 0, two_pages), 0);
    assert_int_equal(be32toh(it.command.op), PLACER_MOVE);
    placer_done(&it.pool, 0, &slot);
    assert_int_equal(fill(false, 0, 0, buffer, &slot), -EAGAIN);
}

/* Take a command, and never answer. */
static void *leave(void *opaque)
{
    int end = *(int *)opaque;

    recv(end, &it.command, sizeof(it.command), 0);
    shutdown(end, SHUT_WR);
    return NULL;
}

/* The slot of the first placer that a second one has taken, and does not say
 * that it is through with, is not primed again. */
static void a_slot_in_doubt_stays_out(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_fill what = {two_pages, buffer, -1};
    struct placer_slot slot;
    struct placer *other;
    pthread_t thread;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    other = placer_new(fds[0], getpid(), 0, 1);
    it.pool.placers[it.pool.count++] = other;
    placer_expect(it.pool.placers[0], 2 * SLOTS);
    assert_int_equal(placer_fill(&it.pool, 1, &what, &slot), 0);
    assert_int_equal(slot.staging, (uintptr_t)it.staging);
    pthread_create(&thread, NULL, leave, &fds[1]);
    assert_int_equal(placer_move(&it.pool, 1, &slot, 0, none), ESRCH);
    pthread_join(thread, NULL);
    placer_done(&it.pool, 1, &slot);
    assert_int_equal(fill(false, 0, 0, buffer, &slot), 0);
    assert_int_equal(slot.staging, (uintptr_t)it.staging + PLACER_SLOT_BYTES);
    placer_done(&it.pool, 0, &slot);
    assert_int_equal(
        recv(it.end, &it.command, sizeof(it.command), MSG_DONTWAIT), -1);
    placer_free(other);
    close(fds[1]);
}

/* How many slots the placer is told to prime, until nothing more is said; said
 * to be done if @answers. */
static uint64_t told_to_prime(int end, bool answers)
{
    struct placer_command command;
    struct placer_answer primed = {htobe32(PLACER_PRIME), 0, 0, 0};
    uint64_t slots = 0;

    while (recv(end, &command, sizeof(command), MSG_DONTWAIT) > 0) {
        assert_int_equal(be32toh(command.op), PLACER_PRIME);
        slots += be64toh(command.length) / PLACER_SLOT_BYTES;
        primed.done = command.length;
        if (answers)
            send(end, &primed, sizeof(primed), 0);
    }
    return slots;
}

/* A fault may come at any time, and would wait for all that is asked for. */
static void primes_a_bit_at_once_and_only_what_is_needed(void **state)
{
    struct placer *placer;
    uint64_t slots;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    placer = placer_new(fds[0], getpid(), PLACER_SLOT_BYTES, 200);
    placer_begin(placer, 150);
    assert_false(placer_ready(placer));
    slots = told_to_prime(fds[1], true);
    assert_int_equal(slots, 64);
    while (!placer_ready(placer))
        slots += told_to_prime(fds[1], true);
    assert_int_equal(slots, 150);
    placer_free(placer);
    close(fds[1]);
}

/* Until then what was primed before is used. */
static void primes_again_when_few_are_left(void **state)
{
    const size_t bytes = 80 * PLACER_SLOT_BYTES;
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_fill what = {two_pages, buffer, -1};
    struct placer_pool pool = {.count = 1};
    struct placer_slot slot;
    unsigned used = 0;
    int fds[2];
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)state;
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    pool.placers[0] = placer_new(fds[0], getpid(), (uintptr_t)map, 80);
    placer_begin(pool.placers[0], 70);
    do
        told_to_prime(fds[1], true);
    while (!placer_ready(pool.placers[0]));
    placer_expect(pool.placers[0], 1000);
    do {
        assert_int_equal(placer_fill(&pool, 0, &what, &slot), 0);
        placer_done(&pool, 0, &slot);
        used++;
    } while (!told_to_prime(fds[1], false));
    assert_int_equal(used, 7);
    placer_free(pool.placers[0]);
    close(fds[1]);
    munmap(map, bytes);
}

/* One at a time, if more are used than were expected. */
static void primes_on_beyond_what_was_expected(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_slot slot;

    (void)state;
    placer_expect(it.pool.placers[0], 1);
    for (unsigned i = 0; i < 3 * SLOTS; i++) {
        assert_int_equal(fill(false, 0, 0, buffer, &slot), 0);
        placer_done(&it.pool, 0, &slot);
        assert_int_equal(told_to_prime(it.end, true), i >= SLOTS - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(primes_on_beyond_what_was_expected,
                                        set_up, tear_down),
        cmocka_unit_test(primes_a_bit_at_once_and_only_what_is_needed),
        cmocka_unit_test(primes_again_when_few_are_left),
        cmocka_unit_test_setup_teardown(lends_the_socket, set_up, tear_down),
        cmocka_unit_test_setup_teardown(moves_what_it_has_filled, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(brings_back_what_did_not_move, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_part_is_a_loss, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_that_qemu_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(remembers_who_cannot_use_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(waits_for_a_move_that_takes, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(no_slot_is_used_twice, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_slot_in_doubt_stays_out, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
