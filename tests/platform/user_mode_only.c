/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A userfaultfd for user mode only does not see the kernel's faults, and KVM's
 * are the kernel's. */
#include "platform.h"

static int pipe_fds[2];

struct reader {
    pthread_t thread;
    void *to;
    ssize_t got;
    int error;
};

static void *read_main(void *opaque)
{
    struct reader *reader = opaque;

    reader->got = read(pipe_fds[0], reader->to, 1);
    reader->error = errno;
    return NULL;
}

/* Have the kernel write one byte into memory that is missing. */
static struct reader start_read(void *to)
{
    struct reader reader = {.to = to};

    if (write(pipe_fds[1], "k", 1) != 1)
        broken("pipe");
    return reader;
}

int main(void)
{
    uint8_t *memory = memory_new(4 * PAGE), from[PAGE];
    int uffd = uffd_new(UFFD_USER_MODE_ONLY, NULL);
    struct toucher toucher;
    struct reader reader;
    struct uffd_msg msg;

    memset(from, 9, sizeof(from));
    if (pipe(pipe_fds))
        broken("pipe");
    uffd_register(uffd, memory, PAGE, UFFDIO_REGISTER_MODE_MISSING);
    reader = start_read(memory);
    read_main(&reader);
    result(reader.got < 0 && reader.error == EFAULT &&
               read(uffd, &msg, sizeof(msg)) < 0 && errno == EAGAIN,
           "user mode only: the kernel's access fails with EFAULT, unseen");
    touch(&toucher, memory);
    result(await_fault(uffd, &msg) &&
               !copy_elsewhere(uffd, memory, from, PAGE, 0, NULL) &&
               touched(&toucher) == 9,
           "user mode only: a thread's own access is seen");

    uffd = uffd_new(0, NULL);
    uffd_register(uffd, memory + PAGE, PAGE, UFFDIO_REGISTER_MODE_MISSING);
    reader = start_read(memory + PAGE);
    if (pthread_create(&reader.thread, NULL, read_main, &reader))
        broken("pthread_create");
    result(await_fault(uffd, &msg), "full: the kernel's access is seen");
    result(!copy_elsewhere(uffd, memory + PAGE, from, PAGE, 0, NULL) &&
               !pthread_join(reader.thread, NULL) && reader.got == 1 &&
               memory[PAGE] == 'k' && memory[PAGE + 1] == 9,
           "full: and it goes on once the page is there");
    return finish();
}
