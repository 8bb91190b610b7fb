/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program: fills memory with a pattern, reads and writes it at
 * random without pause, checks all that it reads.
 *
 * The content of a 4 KiB page is a function of (seed, page, generation); each
 * write gives a page its next generation and generation 0 is all zeros, so a
 * page that is stale, torn, someone else's or lost is seen at its next read.
 * Freestanding: work.c runs as a Linux process (linux.c) and on bare metal
 * (tiny.c), and speaks the same lines on the serial port from both.
 *
 * Lines: "REMAPD-GUEST key=value …", see work_poll(); the READY line says where
 * in memory its id is, and where the threads count their operations. Commands,
 * each a line: "mark" starts a new measurement of the gaps between two
 * operations: the longest, and the distribution of those that are a wait;
 * "verify" checks every page.
 */
#ifndef REMAPD_GUEST_WORK_H
#define REMAPD_GUEST_WORK_H

#include <stdint.h>

#define WORK_PAGE 4096u
#define WORK_MAX_THREADS 64

/* A gap of that many microseconds is a wait: many times what an operation
 * takes, and less than any page takes to come. */
#define WORK_WAIT_US 50
#define WORK_LONG_WAIT_US 5000 /* which a user may notice */

/* Waits are counted by length, four classes to each power of two. */
#define WORK_WAITS 256

enum work_pattern {
    WORK_UNIFORM, /* every page as likely as any other */
    WORK_HOT,     /* seven of eight operations on a tenth of the pages */
    WORK_SCAN,    /* in order of address */
};

/* From the kernel command line, as remapd.NAME=VALUE. */
struct work_options {
    uint64_t seed;
    uint64_t share;  /* of the memory, percent, 1..95 */
    uint64_t zero;   /* of the pages stay zero, percent, 0..90 */
    uint64_t writes; /* of the operations, percent, 0..100 */
    uint64_t rate;   /* operations a second and thread, 0: as fast as can be */
    enum work_pattern pattern;
};

/* Written by its own thread alone, but for the gaps, which the reporter
 * takes. */
struct work_thread {
    struct work *work;
    unsigned index;
    uint64_t random;
    uint64_t position;
    uint64_t last_tsc; /* end of the newest operation */
    uint64_t operations;
    uint64_t writes;
    uint64_t errors;
    uint64_t gap_line_tsc; /* longest since the newest line */
    uint64_t gap_mark_tsc; /* longest since the newest mark */
    uint64_t waits[WORK_WAITS]; /* since the newest mark, by length */
    uint64_t long_waits;
    unsigned verified;     /* the newest request that has been answered */
    uint64_t verified_pages;
    uint64_t verified_zero;
    uint64_t verified_wrong;
} __attribute__((aligned(64)));

struct work {
    struct work_options options;
    uint64_t tsc_per_ms;
    uint64_t start_tsc;
    uint64_t *memory;
    uint32_t *generation;
    uint64_t pages; /* a multiple of threads */
    unsigned threads;
    unsigned verify;   /* requests so far */
    unsigned answered; /* requests answered with a line */
    char input[16];
    unsigned input_length;
    void (*put)(const char *text, unsigned length);
    struct work_thread thread[WORK_MAX_THREADS];
};

/* Takes what `command_line` says, and a default for what it does not. Return:
 * 0, or the name of the option that has a wrong value. */
const char *work_options_read(struct work_options *options,
                              const char *command_line);

/* Divides `bytes` at `memory`, all zero and page-aligned, into pages and their
 * generations. Called once; `work` is all zero but for options, tsc_per_ms
 * and put. */
void work_init(struct work *work, void *memory, uint64_t bytes,
               unsigned threads);

/* Gives every page of this thread its first generation. */
void work_fill(struct work_thread *thread);

/* Says that all threads have filled theirs; the clock starts. */
void work_ready(struct work *work);

/* Does some operations, and a wanted verification. Return: how many. */
unsigned work_batch(struct work_thread *thread);

/* Says that this thread has waited of its own will, so that the pause does not
 * count as a gap. */
void work_rested(struct work_thread *thread);

/* A character from the serial port. Reporter only. */
void work_input(struct work *work, char c);

/* Prints the line that is due every WORK_LINE_MS, and the answer to "verify"
 * once all threads have given theirs. Reporter only. */
void work_poll(struct work *work);

#define WORK_LINE_MS 100

static inline uint64_t work_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

#endif
