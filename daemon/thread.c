/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* Urgent threads sleep nearly always; when they wake, a guest waits. A short
 * slice lets them in at once where longer ones are running (Linux 6.12). */
#define THREAD_URGENT_NICE     (-15)
#define THREAD_URGENT_SLICE_NS 100000

static void *thread_entry(void *opaque)
{
    struct thread *thread = opaque;

    thread->main(thread->opaque);
    atomic_fetch_sub(&thread->status->alive, 1);
    thread_status_poke(thread->status);
    return NULL;
}

int thread_start(struct thread *thread, struct thread_status *status,
                 void (*main)(void *opaque), void *opaque)
{
    void *buffer = mmap(NULL, FRAME_MAX_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ret;

    if (buffer == MAP_FAILED)
        return -errno;
    madvise(buffer, FRAME_MAX_BYTES, MADV_DONTFORK);
    madvise(buffer, FRAME_MAX_BYTES, MADV_DONTDUMP);
    /* Engine remap takes single pages out of it. */
    madvise(buffer, FRAME_MAX_BYTES, MADV_NOHUGEPAGE);
    *thread = (struct thread){
        .status = status, .main = main, .opaque = opaque, .buffer = buffer};
    atomic_fetch_add(&status->alive, 1);
    ret = pthread_create(&thread->id, NULL, thread_entry, thread);
    if (ret) {
        atomic_fetch_sub(&status->alive, 1);
        munmap(buffer, FRAME_MAX_BYTES);
        return -ret;
    }
    thread->running = true;
    return 0;
}

void thread_join(struct thread *thread)
{
    if (!thread->running)
        return;
    pthread_join(thread->id, NULL);
    munmap(thread->buffer, FRAME_MAX_BYTES);
    thread->running = false;
}

void thread_status_init(struct thread_status *status, int notify_fd)
{
    *status = (struct thread_status){.notify_fd = notify_fd};
    pthread_mutex_init(&status->lock, NULL);
    pthread_cond_init(&status->stopped, NULL);
}

void thread_status_fini(struct thread_status *status)
{
    pthread_cond_destroy(&status->stopped);
    pthread_mutex_destroy(&status->lock);
}

void thread_status_stop(struct thread_status *status)
{
    pthread_mutex_lock(&status->lock);
    status->stopping = true;
    pthread_cond_broadcast(&status->stopped);
    pthread_mutex_unlock(&status->lock);
}

void thread_status_again(struct thread_status *status)
{
    status->stopping = status->failed = false;
}

bool thread_status_ended(const struct thread_status *status)
{
    return !status->alive;
}

bool thread_status_stopping(const struct thread_status *status)
{
    return status->stopping;
}

void thread_status_sleep(struct thread_status *status, uint64_t ns)
{
    uint64_t end = now_ns() + ns;
    const struct timespec time = {.tv_sec = (time_t)(end / 1000000000),
                                  .tv_nsec = (long)(end % 1000000000)};

    pthread_mutex_lock(&status->lock);
    while (!status->stopping &&
           !pthread_cond_clockwait(&status->stopped, &status->lock,
                                   CLOCK_MONOTONIC, &time))
        ;
    pthread_mutex_unlock(&status->lock);
}

void thread_status_poke(const struct thread_status *status)
{
    uint64_t one = 1;
    ssize_t ignored = write(status->notify_fd, &one, sizeof(one));

    (void)ignored; /* a full counter has woken the reader already */
}

void thread_status_fail(struct thread_status *status,
                        const struct channel *channel, const char *error)
{
    if (status->stopping)
        return;
    pthread_mutex_lock(&status->lock);
    if (!status->failed) {
        if (channel)
            snprintf(status->error, sizeof(status->error),
                     "%s channel %u: %.200s",
                     channel->kind == CHANNEL_URGENT ? "urgent" : "bulk",
                     channel->index, error);
        else
            snprintf(status->error, sizeof(status->error), "%s", error);
        status->failed = true;
    }
    pthread_mutex_unlock(&status->lock);
    thread_status_poke(status);
}

const char *thread_status_error(const struct thread_status *status)
{
    return status->failed ? status->error : NULL;
}

static void thread_hurry(void)
{
    /* linux/sched/types.h clashes with sched.h. Ref: sched_setattr(2). */
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = {
        .size = sizeof(attr),
        .policy = SCHED_OTHER,
        .nice = THREAD_URGENT_NICE,
        .runtime = THREAD_URGENT_SLICE_NS,
    };

    /* Without the right to it (CAP_SYS_NICE) faults are served, only later. */
    syscall(SYS_sched_setattr, 0, &attr, 0);
}

void thread_begin(const char *what, const struct channel *channel)
{
    bool bulk = channel && channel->kind == CHANNEL_BULK;
    char name[16];
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    snprintf(name, sizeof(name), "%s-%s%u", what, bulk ? "bulk" : "urgent",
             channel ? channel->index : 0);
    pthread_setname_np(pthread_self(), name);
    if (!bulk)
        thread_hurry();
}
