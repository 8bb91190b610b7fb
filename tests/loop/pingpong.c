/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor: a bare request and its answer on a link, blocking TCP, nothing
 * else. The answer has the size of a page frame with so many bytes of memory.
 *
 *   pingpong serve ADDRESS PORT          until it is killed; says "ready"
 *   pingpong ping ADDRESS PORT SECONDS BYTES
 *                                        prints p50, p99 in microseconds, JSON
 *   pingpong stream ADDRESS PORT [SECONDS]
 *                                        fills the link until it is killed, or
 *                                        so long; then prints MiB/s, JSON
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEADER_BYTES     32
#define MAX_ANSWER_BYTES (HEADER_BYTES + (2u << 20))
#define STREAM_BYTES     (256 << 10)
#define MAX_PINGS     (1 << 20)

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int all(int fd, char *buffer, size_t bytes, int sending)
{
    while (bytes) {
        ssize_t done = sending ? send(fd, buffer, bytes, MSG_NOSIGNAL)
                               : recv(fd, buffer, bytes, 0);

        if (done <= 0)
            return -1;
        buffer += done;
        bytes -= (size_t)done;
    }
    return 0;
}

static void no_delay(int fd)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* The first byte says which of the two the client wants. */
static void *serve_one(void *opaque)
{
    int fd = (int)(intptr_t)opaque;
    char *buffer = calloc(1, MAX_ANSWER_BYTES), mode;
    uint32_t bytes;

    if (!buffer || all(fd, &mode, 1, 0))
        mode = 0;
    no_delay(fd);
    if (mode == 'p') {
        while (!all(fd, buffer, HEADER_BYTES, 0)) {
            memcpy(&bytes, buffer, sizeof(bytes));
            if (bytes > MAX_ANSWER_BYTES || all(fd, buffer, bytes, 1))
                break;
        }
    } else {
        while (recv(fd, buffer, STREAM_BYTES, 0) > 0)
            ;
    }
    free(buffer);
    close(fd);
    return NULL;
}

static void serve(const struct sockaddr_in *address)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    pthread_t thread;

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (const struct sockaddr *)address, sizeof(*address)) ||
        listen(listener, 8))
        fail("listen");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0 || pthread_create(&thread, NULL, serve_one,
                                     (void *)(intptr_t)fd))
            fail("accept");
        pthread_detach(thread);
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void ping(int fd, double seconds, uint32_t bytes)
{
    uint64_t *took = calloc(MAX_PINGS, sizeof(*took)), now = clock_ns();
    uint64_t end = now + (uint64_t)(seconds * 1e9);
    char request[HEADER_BYTES] = {0}, *answer = calloc(1, MAX_ANSWER_BYTES);
    unsigned count = 0;

    bytes += HEADER_BYTES;
    if (bytes > MAX_ANSWER_BYTES)
        fail("answer too large");
    memcpy(request, &bytes, sizeof(bytes));
    while (took && answer && now < end && count < MAX_PINGS) {
        uint64_t start = now;

        if (all(fd, request, sizeof(request), 1) ||
            all(fd, answer, bytes, 0))
            fail("ping");
        now = clock_ns();
        took[count++] = now - start;
    }
    if (!count)
        fail("no ping");
    qsort(took, count, sizeof(*took), compare);
    printf("{\"count\": %u, \"p50\": %.1f, \"p99\": %.1f}\n", count,
           (double)took[count / 2] / 1000,
           (double)took[(uint64_t)count * 99 / 100] / 1000);
    free(took);
    free(answer);
}

/* For ever, where @seconds is 0. */
static void stream(int fd, double seconds)
{
    uint64_t start = clock_ns(), end = start + (uint64_t)(seconds * 1e9);
    uint64_t now = start, sent = 0;
    char *buffer = calloc(1, STREAM_BYTES);

    while (buffer && (!seconds || now < end) &&
           !all(fd, buffer, STREAM_BYTES, 1)) {
        sent += STREAM_BYTES;
        now = clock_ns();
    }
    free(buffer);
    printf("{\"mib_per_second\": %.1f}\n",
           (double)sent / (1 << 20) / ((double)(now - start) / 1e9));
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    const char *mode = argc > 3 ? argv[1] : "";
    int fd;

    if (argc < 4 || argc > 6 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1 ||
        (!strcmp(mode, "ping") && argc != 6)) {
        fputs("Usage: pingpong serve ADDRESS PORT\n"
              "       pingpong stream ADDRESS PORT [SECONDS]\n"
              "       pingpong ping ADDRESS PORT SECONDS BYTES\n", stderr);
        return 2;
    }
    address.sin_port = htons((uint16_t)atoi(argv[3]));
    if (!strcmp(mode, "serve"))
        serve(&address);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
        fail("connect");
    no_delay(fd);
    if (send(fd, mode, 1, MSG_NOSIGNAL) != 1)
        fail("send");
    if (!strcmp(mode, "ping"))
        ping(fd, atof(argv[4]), (uint32_t)atol(argv[5]));
    else
        stream(fd, argc > 4 ? atof(argv[4]) : 0);
    return 0;
}
