/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small things that every room uses. */
#ifndef REMAPD_UTIL_H
#define REMAPD_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))

#define PAGE_BYTES 4096ull
#define PAGE_SHIFT 12
#define HUGE_BYTES (2ull << 20)

/* Text that says why a call failed; callers pass it on to a log or a peer. */
#define ERROR_TEXT_BYTES 256

static inline uint64_t align_down(uint64_t value, uint64_t unit)
{
    return value - value % unit;
}

static inline uint64_t align_up(uint64_t value, uint64_t unit)
{
    return align_down(value + unit - 1, unit);
}

/** now_ns() - CLOCK_MONOTONIC in nanoseconds. Any thread. */
static inline uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_free(void *pointer)
{
    free(*(void **)pointer);
}

static inline void cleanup_fclose(FILE **file)
{
    if (*file)
        fclose(*file);
}

#define AUTO_CLOSE  __attribute__((cleanup(cleanup_close)))
#define AUTO_FCLOSE __attribute__((cleanup(cleanup_fclose)))
#define AUTO_FREE   __attribute__((cleanup(cleanup_free)))

/** xcalloc() - zeroed memory or the end of the program; never for a size that
 * a peer chose without a bound. Any thread. */
static inline void *xcalloc(size_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);

    if (!memory)
        abort();
    return memory;
}

#endif
