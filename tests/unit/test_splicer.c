/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What remapd makes of a splicer's answers: the other end of its socket is
 * here, and both of the connection that it is lent. */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

#include "hand.h"
#include "unit.h"

#include "../../daemon/pageset.h"
#include "../../daemon/splicer.h"

#define HVA 0x7f0000200000u

static const uint64_t three_pages[PAGESET_MASK_WORDS] = {1 | 1 << 2,
                                                         [7] = 1ull << 63};

static struct {
    struct splicer *splicer;
    int end; /* the splicer's */
    int connection[2];
    struct splicer_command command;
    struct splicer_answer answer; /* to the next command */
    bool lent, leaves, loses;
} it;

static void *answer_one(void *opaque)
{
    (void)opaque;
    if (!take_command(it.end, &it.command, sizeof(it.command), &it.lent))
        return NULL;
    if (it.loses)
        shutdown(it.connection[0], SHUT_RDWR);
    if (it.leaves)
        shutdown(it.end, SHUT_RDWR);
    else if (it.answer.op)
        send(it.end, &it.answer, sizeof(it.answer), 0);
    return NULL;
}

static int set_up(void **state)
{
    int fds[2];

    (void)state;
    memset(&it, 0, sizeof(it));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, it.connection))
        return -1;
    it.splicer = splicer_new(fds[0]);
    it.end = fds[1];
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    splicer_free(it.splicer);
    close(it.end);
    close(it.connection[0]);
    close(it.connection[1]);
    return 0;
}

static bool find_zeros(uint64_t *zero)
{
    pthread_t thread;
    bool found;

    pthread_create(&thread, NULL, answer_one, NULL);
    found = splicer_find_zeros(it.splicer, HVA, three_pages, zero);
    pthread_join(thread, NULL);
    return found;
}

static int send_pages(uint32_t error, uint64_t sent)
{
    pthread_t thread;
    int ret;

    it.answer = (struct splicer_answer){.op = htobe32(SPLICER_SEND),
                                        .error = htobe32(error),
                                        .sent = htobe64(sent)};
    pthread_create(&thread, NULL, answer_one, NULL);
    ret = splicer_send(it.splicer, HVA, three_pages, it.connection[0]);
    pthread_join(thread, NULL);
    return ret;
}

static void says_which_pages_are_zero(void **state)
{
    uint64_t zero[PAGESET_MASK_WORDS];

    (void)state;
    it.answer.op = htobe32(SPLICER_FIND_ZEROS);
    memset(it.answer.zero, 0xff, sizeof(it.answer.zero));
    assert_true(find_zeros(zero));
    assert_memory_equal(zero, three_pages, sizeof(zero));
    assert_int_equal(be32toh(it.command.op), SPLICER_FIND_ZEROS);
    assert_int_equal(be64toh(it.command.hva), HVA);
    assert_int_equal(it.command.pages[0], 1 | 1 << 2);
    assert_int_equal(it.command.pages[63], 1 << 7);
    assert_false(it.lent);
    assert_true(splicer_works(it.splicer));
}

/* An error, another command's answer, none: the daemon reads by itself. */
static void is_not_asked_again(void **state)
{
    static const struct splicer_answer answers[] = {
        {.op = 0},
        {.op = SPLICER_FIND_ZEROS, .error = EFAULT},
        {.op = SPLICER_SEND},
    };
    uint64_t zero[PAGESET_MASK_WORDS];

    for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
        if (i) {
            tear_down(state);
            set_up(state);
        }
        it.answer = answers[i];
        it.answer.op = htobe32(it.answer.op);
        it.answer.error = htobe32(it.answer.error);
        assert_false(find_zeros(zero));
        assert_false(splicer_works(it.splicer));
    }
    assert_false(splicer_works(NULL));
}

static void sends_all(void **state)
{
    (void)state;
    assert_int_equal(send_pages(0, 3 * SPLICER_PAGE_BYTES), 0);
    assert_int_equal(be32toh(it.command.op), SPLICER_SEND);
    assert_true(it.lent);
    assert_true(splicer_works(it.splicer));
}

static void sends_nothing(void **state)
{
    (void)state;
    assert_int_equal(send_pages(EBADF, 0), -EAGAIN);
    assert_false(splicer_works(it.splicer));
}

static void sends_a_part(void **state)
{
    (void)state;
    assert_int_equal(send_pages(EFAULT, SPLICER_PAGE_BYTES), -EPIPE);
    assert_false(splicer_works(it.splicer));
}

static void claims_what_is_wrong(void **state)
{
    (void)state;
    assert_int_equal(send_pages(0, SPLICER_PAGE_BYTES), -EPIPE);
    assert_false(splicer_works(it.splicer));
}

/* It is the connection that is of no use any more. */
static void loses_the_connection(void **state)
{
    (void)state;
    it.loses = true;
    assert_int_equal(send_pages(EPIPE, 0), -EPIPE);
    assert_true(splicer_works(it.splicer));
}

static void leaves_with_some(void **state)
{
    (void)state;
    it.leaves = true;
    assert_int_equal(send_pages(0, 0), -ESRCH);
    assert_false(splicer_works(it.splicer));
}

static void *shut_down_later(void *opaque)
{
    const struct timespec wait = {.tv_sec = 2, .tv_nsec = 500000000};

    (void)opaque;
    nanosleep(&wait, NULL);
    shutdown(it.connection[0], SHUT_RDWR);
    return NULL;
}

/* As long as the peer takes nothing it is not QEMU's fault; once the connection
 * is shut down nobody waits for an answer. */
static void waits_for_the_network(void **state)
{
    uint64_t begin = now_ns();
    int small = 4096;
    char byte = 0;
    pthread_t thread;

    (void)state;
    setsockopt(it.connection[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    while (send(it.connection[0], &byte, 1, MSG_DONTWAIT) == 1)
        ;
    pthread_create(&thread, NULL, shut_down_later, NULL);
    assert_int_equal(splicer_send(it.splicer, HVA, three_pages,
                                  it.connection[0]),
                     -EPIPE);
    pthread_join(thread, NULL);
    assert_in_range(now_ns() - begin, 2500000000u, 8000000000u);
    assert_false(splicer_works(it.splicer));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(says_which_pages_are_zero, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(is_not_asked_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sends_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sends_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sends_a_part, set_up, tear_down),
        cmocka_unit_test_setup_teardown(claims_what_is_wrong, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(loses_the_connection, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(leaves_with_some, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waits_for_the_network, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
