/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk DEVICE: writes blocks at random, reads all of them in turn, checks what
 * it reads, without end and past the page cache.
 *
 * A block's content is a function of its number and of how often it has been
 * written, its generation, which is kept here. Every operation takes another
 * page of a large buffer: whoever carries the data out is the first to touch
 * that page. A line on the serial port tells of it, and a wrong block is told
 * as FAILED.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BLOCK       4096u
#define WORDS       (BLOCK / sizeof(uint64_t))
#define BUFFERS     8192u /* pages */
#define LINE_NS     100000000ull
#define WRITE_SHARE 3 /* one of so many operations */

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static uint64_t word(uint64_t block, uint64_t generation, unsigned i)
{
    return (block << 32 | generation) * 0x9e3779b97f4a7c15u + i;
}

static void fail(const char *what, uint64_t block)
{
    char line[128];
    int length = snprintf(line, sizeof(line),
                          "REMAPD-GUEST FAILED disk: %s block %llu\n", what,
                          (unsigned long long)block);

    if (write(STDOUT_FILENO, line, length) < 0)
        exit(2);
    exit(1);
}

int main(int argc, char **argv)
{
    int fd = open(argc > 1 ? argv[1] : "", O_RDWR | O_DIRECT);
    uint64_t blocks = fd < 0 ? 0 : lseek(fd, 0, SEEK_END) / BLOCK;
    uint64_t *buffers = mmap(NULL, BUFFERS * BLOCK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    uint32_t *generation = calloc(blocks + 1, sizeof(*generation));
    uint64_t operations = 0, passes = 0, next = 0, slowest = 0;
    uint64_t line_due = now_ns();

    if (!blocks || buffers == MAP_FAILED || !generation)
        fail("no such device of whole blocks", 0);
    for (;; operations++) {
        /* Until the first pass has written all, there is nothing to read. */
        bool writes = !passes || random() % WRITE_SHARE == 0;
        uint64_t block = passes && writes ? random() % blocks : next;
        uint64_t *page = buffers + random() % BUFFERS * WORDS;
        uint64_t start, end;
        ssize_t done;

        if (writes) {
            generation[block]++;
            for (unsigned i = 0; i < WORDS; i++)
                page[i] = word(block, generation[block], i);
        }
        start = now_ns();
        done = writes ? pwrite(fd, page, BLOCK, block * BLOCK)
                      : pread(fd, page, BLOCK, block * BLOCK);
        end = now_ns();
        if (end - start > slowest)
            slowest = end - start;
        if (done != BLOCK)
            fail(writes ? "cannot write" : "cannot read", block);
        for (unsigned i = 0; i < WORDS && !writes; i++)
            if (page[i] != word(block, generation[block], i))
                fail("wrong content of", block);
        if (block == next && ++next == blocks) {
            next = 0;
            passes++;
        }
        if (end >= line_due) {
            char line[128];
            int length = snprintf(
                line, sizeof(line),
                "REMAPD-GUEST DISK ops=%llu passes=%llu slowest_us=%llu\n",
                (unsigned long long)operations, (unsigned long long)passes,
                (unsigned long long)slowest / 1000);

            if (write(STDOUT_FILENO, line, length) < 0)
                exit(2);
            line_due = end + LINE_NS;
            slowest = 0;
        }
    }
}
