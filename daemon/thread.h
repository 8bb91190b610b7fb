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
    _Atomic unsigned alive; /* threads that have not come to their end */
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    char error[ERROR_TEXT_BYTES]; /* written once, before `failed` is set */
};

/* A page-carrying thread, with the buffer that it works in. */
struct thread {
    struct thread_status *status;
    void (*main)(void *opaque);
    void *opaque;
    pthread_t id;
    uint8_t *buffer; /* FRAME_MAX_BYTES, never dumped or forked */
    bool running;
};

/** thread_start() - allocate the buffer and run @main(@opaque); its end is
 * counted in @status. Main thread. Return: 0 or -errno. */
int thread_start(struct thread *thread, struct thread_status *status,
                 void (*main)(void *opaque), void *opaque);

/**
 * thread_join() - free what a thread had; fine if it never ran.
 *
 * To be called after its end (thread_status_ended()): a thread may hang in the
 * kernel for as long as a QEMU's memory does not answer, and the main thread
 * must not hang with it.
 */
void thread_join(struct thread *thread);

/** thread_status_init() - @notify_fd: an eventfd that wakes the main thread.
 */
void thread_status_init(struct thread_status *status, int notify_fd);

void thread_status_fini(struct thread_status *status);

/** thread_status_stop() - from now on errors are expected and not kept. */
void thread_status_stop(struct thread_status *status);

/** thread_status_again() - forget the error and the wish; once all have ended.
 */
void thread_status_again(struct thread_status *status);

/** thread_status_ended() - have all threads come to their end? The main thread
 * is poked at each one's. */
bool thread_status_ended(const struct thread_status *status);

/** thread_status_stopping() - has thread_status_stop() been called? */
bool thread_status_stopping(const struct thread_status *status);

/** thread_status_sleep() - for @ns nanoseconds, or until thread_status_stop().
 * Any thread. */
void thread_status_sleep(struct thread_status *status, uint64_t ns);

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
