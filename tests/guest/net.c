/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * net ADDRESS PORT: one TCP connection to who sends everything back; sends
 * numbered words, checks what returns, without end. A line on the serial port
 * tells of it; a wrong word, or the connection's end, is told as FAILED.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK    16384u /* bytes */
#define CHUNKS   1024u  /* each time in another part of the memory */
#define LINE_NS  100000000ull
#define CONNECTS 100

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void fail(const char *what)
{
    printf("REMAPD-GUEST FAILED net: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static int connect_to(const char *address, const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || !inet_aton(address, &to.sin_addr))
        fail(address);
    for (unsigned i = 0; i < CONNECTS; i++) {
        if (!connect(fd, (struct sockaddr *)&to, sizeof(to)))
            return fd;
        usleep(100000);
    }
    fail("cannot connect");
    return -1;
}

static void send_all(int fd, const uint64_t *words)
{
    for (size_t done = 0; done < CHUNK;) {
        ssize_t n = send(fd, (const char *)words + done, CHUNK - done, 0);

        if (n <= 0)
            fail("cannot send");
        done += n;
    }
}

int main(int argc, char **argv)
{
    uint64_t number = 0, chunks = 0, slowest = 0, line_due = now_ns();
    char *memory = mmap(NULL, CHUNK * CHUNKS, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int fd;

    if (argc != 3 || memory == MAP_FAILED)
        fail("start");
    fd = connect_to(argv[1], argv[2]);
    for (;; chunks++) {
        uint64_t *words = (uint64_t *)(memory + random() % CHUNKS * CHUNK);
        uint64_t start = now_ns(), end;

        for (unsigned i = 0; i < CHUNK / sizeof(*words); i++)
            words[i] = number + i;
        send_all(fd, words);
        memset(words, 0, CHUNK);
        if (recv(fd, words, CHUNK, MSG_WAITALL) != CHUNK)
            fail("cannot receive");
        for (unsigned i = 0; i < CHUNK / sizeof(*words); i++) {
            if (words[i] != number++)
                fail("wrong word");
        }
        end = now_ns();
        if (end - start > slowest)
            slowest = end - start;
        if (end >= line_due) {
            printf("REMAPD-GUEST NET chunks=%llu slowest_us=%llu\n",
                   (unsigned long long)chunks,
                   (unsigned long long)slowest / 1000);
            fflush(stdout);
            line_due = end + LINE_NS;
            slowest = 0;
        }
    }
}
