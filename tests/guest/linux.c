/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program under Linux: one thread per vCPU works, the main thread
 * reports. Its input and output are the serial port.
 */
#define _GNU_SOURCE
#include "work.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define REST_NS 10000000 /* how often a thread with a rate rests */

static struct work work;
static pthread_barrier_t filled;

static void fail(const char *what)
{
    printf("REMAPD-GUEST FAILED %s\n", what);
    exit(1);
}

static void put(const char *text, unsigned length)
{
    while (length) {
        ssize_t n = write(STDOUT_FILENO, text, length);

        if (n < 0)
            exit(1);
        text += n;
        length -= n;
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static uint64_t measure_tsc_per_ms(void)
{
    uint64_t ns = now_ns(), tsc = work_tsc();

    usleep(100000);
    return (work_tsc() - tsc) * 1000000 / (now_ns() - ns);
}

static void pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set))
        fail("sched_setaffinity");
}

static void *run(void *argument)
{
    struct work_thread *thread = argument;
    uint64_t rate = work.options.rate;
    uint64_t due, count = 0;

    pin(thread->index);
    work_fill(thread);
    pthread_barrier_wait(&filled);
    pthread_barrier_wait(&filled);
    due = now_ns();
    for (;;) {
        count += work_batch(thread);
        if (rate && count * 1000000000 / rate > REST_NS) {
            struct timespec wake;

            due += count * 1000000000 / rate;
            count = 0;
            wake.tv_sec = due / 1000000000;
            wake.tv_nsec = due % 1000000000;
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
            work_rested(thread);
        }
    }
    return NULL;
}

static void read_options(void)
{
    char line[2048] = "";
    FILE *file = fopen("/proc/cmdline", "r");
    const char *wrong;

    if (!file || !fgets(line, sizeof(line), file))
        fail("/proc/cmdline");
    fclose(file);
    wrong = work_options_read(&work.options, line);
    if (wrong)
        fail(wrong);
}

static void map_memory(void)
{
    struct sysinfo info;
    uint64_t bytes;
    void *memory;

    if (sysinfo(&info))
        fail("sysinfo");
    bytes = (uint64_t)info.totalram * info.mem_unit / 100;
    bytes = bytes * work.options.share & ~(uint64_t)(WORK_PAGE - 1);
    /* Populated, so that the zero pages are the guest's own. */
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    work_init(&work, memory, bytes, get_nprocs());
}

static void open_serial(void)
{
    struct termios raw;

    if (tcgetattr(STDIN_FILENO, &raw))
        fail("tcgetattr");
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST | ONLCR;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    setvbuf(stdout, NULL, _IONBF, 0);
}

static void report(void)
{
    struct pollfd serial = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t due = now_ns();

    for (;;) {
        int64_t wait_ns = due - now_ns();
        char c;

        if (wait_ns <= 0) {
            work_poll(&work);
            due += WORK_LINE_MS * 1000000;
            /* After a long wait one line is enough. */
            if (due < now_ns())
                due = now_ns();
        } else if (poll(&serial, 1, wait_ns / 1000000 + 1) == 1 &&
                   read(STDIN_FILENO, &c, 1) == 1) {
            work_input(&work, c);
        }
    }
}

int main(void)
{
    struct sched_param first = {.sched_priority = 1};

    open_serial();
    read_options();
    work.put = put;
    work.tsc_per_ms = measure_tsc_per_ms();
    map_memory();
    if (work.threads > WORK_MAX_THREADS)
        fail("too many vCPUs");
    pthread_barrier_init(&filled, NULL, work.threads + 1);
    for (unsigned i = 0; i < work.threads; i++) {
        pthread_t id;

        if (pthread_create(&id, NULL, run, &work.thread[i]))
            fail("pthread_create");
    }
    pthread_barrier_wait(&filled);
    /* The lines must come in time whatever the threads do. */
    if (sched_setscheduler(0, SCHED_FIFO, &first))
        fail("sched_setscheduler");
    work_ready(&work);
    pthread_barrier_wait(&filled);
    report();
}
