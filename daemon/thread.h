/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the page-carrying threads of one session share with the main thread:
 * the first error, and the wish that they end.
 */
#ifndef REMAPD_THREAD_H
#define REMAPD_THREAD_H

#include <pthread.h>
#include <stdbool.h>

#include "channel.h"
#include "util.h"

#define THREAD_MAX_CHANNELS 16

struct thread_status {
    int notify_fd;
    _Atomic bool stopping, failed;
    pthread_mutex_t lock;
    char error[ERROR_TEXT_BYTES]; /* written once, before `failed` is set */
};

/* A page-carrying thread, with the buffer that it works in. */
struct thread {
    pthread_t id;
    uint8_t *buffer; /* FRAME_MAX_BYTES, never dumped or forked */
    bool running;
};

/** thread_start() - allocate the buffer and run @main(@opaque).
 * Main thread. Return: 0 or -errno. */
int thread_start(struct thread *thread, void *(*main)(void *), void *opaque);

/** thread_join() - wait for its end, free the buffer; fine if it never ran. */
void thread_join(struct thread *thread);

/** thread_status_init() - @notify_fd: an eventfd that wakes the main thread.
 */
void thread_status_init(struct thread_status *status, int notify_fd);

void thread_status_fini(struct thread_status *status);

/** thread_status_stop() - from now on errors are expected and not kept. */
void thread_status_stop(struct thread_status *status);

/** thread_status_stopping() - has thread_status_stop() been called? */
bool thread_status_stopping(const struct thread_status *status);

/** thread_status_poke() - wake the main thread. Any thread. */
void thread_status_poke(const struct thread_status *status);

/** thread_status_fail() - keep @error, if it is the first; wake the main
 * thread. @channel: on which it happened, or NULL. Any thread. */
void thread_status_fail(struct thread_status *status,
                        const struct channel *channel, const char *error);

/** thread_status_error() - the first error, or NULL. Any thread. */
const char *thread_status_error(const struct thread_status *status);

/** thread_begin() - name the calling thread; one that serves an urgent channel
 * (or faults: NULL) is scheduled ahead of bulk. */
void thread_begin(const char *what, const struct channel *channel);

#endif
