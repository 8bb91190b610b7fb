/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What remapd makes of a placer's answers: the other end of its socket is here.
 * A slot is in this process: process_vm_readv(2) finds it. */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

#include "unit.h"

#include "../../daemon/pageset.h"
#include "../../daemon/placer.h"

#define SLOTS 2

static const uint64_t two_pages[PAGESET_MASK_WORDS] = {1 | 1 << 2};

static struct {
    struct placer_pool pool;
    int end; /* the placer's */
    uint8_t *staging;
    struct placer_answer answer; /* to the next command that moves */
    struct placer_command command;
    bool lent;   /* a descriptor came with it */
    bool leaves; /* instead of answering */
} it;

static void *answer_one(void *opaque)
{
    char space[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&it.command, sizeof(it.command)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = space,
                         .msg_controllen = sizeof(space)};

    (void)opaque;
    if (recvmsg(it.end, &msg, 0) != sizeof(it.command))
        return NULL;
    it.lent = CMSG_FIRSTHDR(&msg);
    if (it.lent)
        close(*(int *)(void *)CMSG_DATA(CMSG_FIRSTHDR(&msg)));
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
    placer_begin(it.pool.placers[0]);
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

/* Place two pages, from a socket or not, and have that answered. */
static int place(bool receive, uint32_t error, uint64_t received,
                 uint8_t *buffer, bool *taken)
{
    struct placer_fill fill = {two_pages, buffer, receive ? it.end : -1, false};
    uint64_t done;
    pthread_t thread;
    int ret;

    it.answer.error = htobe32(error);
    it.answer.received = htobe64(received);
    pthread_create(&thread, NULL, answer_one, NULL);
    ret = placer_place(&it.pool, 0, PLACER_SLOT_BYTES, &fill, &done);
    pthread_join(thread, NULL);
    *taken = fill.taken;
    return ret;
}

static void lends_the_socket(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    bool taken;

    (void)state;
    assert_int_equal(place(true, 0, 2 * PAGE_BYTES, buffer, &taken), 0);
    assert_true(taken && it.lent);
    assert_int_equal(be32toh(it.command.op), PLACER_RECEIVE);
    assert_int_equal(be64toh(it.command.staging), (uintptr_t)it.staging);
    assert_int_equal(it.command.pages[0], 1 | 1 << 2);
}

static void brings_back_what_did_not_move(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    bool taken;

    (void)state;
    memset(buffer, 1, sizeof(buffer));
    memset(it.staging, 2, 3 * PAGE_BYTES);
    assert_int_equal(place(true, EEXIST, 2 * PAGE_BYTES, buffer, &taken),
                     EEXIST);
    assert_true(taken);
    assert_int_equal(buffer[0], 2);
    assert_int_equal(buffer[PAGE_BYTES], 1);
    assert_int_equal(buffer[2 * PAGE_BYTES], 2);
}

static void a_part_is_a_loss(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    bool taken;

    (void)state;
    assert_int_equal(place(true, ECONNRESET, PAGE_BYTES, buffer, &taken),
                     EPIPE);
    assert_false(taken);
}

static void nothing_is_none(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    bool taken;

    (void)state;
    assert_int_equal(place(true, ECONNRESET, 0, buffer, &taken), ECONNRESET);
    assert_false(taken || it.pool.deaf);
}

/* What it had taken is lost with it; what is here is not. */
static void says_that_qemu_left(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    bool taken;

    it.leaves = true;
    assert_int_equal(place(true, 0, 0, buffer, &taken), ESRCH);
    assert_false(taken);
    assert_int_equal(tear_down(state), 0);
    assert_int_equal(set_up(state), 0);
    it.leaves = true;
    assert_int_equal(place(false, 0, 0, buffer, &taken), EIO);
}

/* The next bytes are received here, and written into staging. */
static void remembers_who_cannot_use_it(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    bool taken;

    (void)state;
    assert_int_equal(place(true, EBADF, 0, buffer, &taken), EBADF);
    assert_true(it.pool.deaf && !taken);
    memset(buffer, 3, sizeof(buffer));
    memset(it.staging, 0, SLOTS * PLACER_SLOT_BYTES);
    assert_int_equal(place(false, 0, 0, buffer, &taken), 0);
    assert_int_equal(be32toh(it.command.op), PLACER_MOVE);
    assert_int_equal(be64toh(it.command.staging),
                     (uintptr_t)it.staging + PLACER_SLOT_BYTES);
    assert_false(it.lent);
    assert_int_equal(it.staging[PLACER_SLOT_BYTES], 3);
    assert_int_equal(it.staging[PLACER_SLOT_BYTES + PAGE_BYTES], 0);
}

/* Every slot is used once: none is left. */
static void no_slot_is_used_twice(void **state)
{
    uint8_t buffer[3 * PAGE_BYTES];
    struct placer_fill fill = {two_pages, buffer, -1, false};
    uint64_t done;
    bool taken;

    (void)state;
    for (unsigned i = 0; i < SLOTS; i++)
        assert_int_equal(place(false, 0, 0, buffer, &taken), 0);
    assert_int_equal(placer_place(&it.pool, 0, 0, &fill, &done), EIO);
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
    struct placer_fill fill = {two_pages, buffer, -1, false};
    struct placer *other;
    pthread_t thread;
    uint64_t done;
    bool taken;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    other = placer_new(fds[0], getpid(), 0, 1);
    it.pool.placers[it.pool.count++] = other;
    placer_expect(it.pool.placers[0], 2 * SLOTS);
    pthread_create(&thread, NULL, leave, &fds[1]);
    assert_int_equal(placer_place(&it.pool, 1, 0, &fill, &done), EIO);
    pthread_join(thread, NULL);
    assert_int_equal(be64toh(it.command.staging), (uintptr_t)it.staging);
    assert_int_equal(place(false, 0, 0, buffer, &taken), 0);
    assert_int_equal(be64toh(it.command.staging),
                     (uintptr_t)it.staging + PLACER_SLOT_BYTES);
    assert_int_equal(recv(it.end, &it.command, sizeof(it.command),
                          MSG_DONTWAIT), -1);
    placer_free(other);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lends_the_socket, set_up, tear_down),
        cmocka_unit_test_setup_teardown(brings_back_what_did_not_move, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_part_is_a_loss, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_that_qemu_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(remembers_who_cannot_use_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(no_slot_is_used_twice, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_slot_in_doubt_stays_out, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
