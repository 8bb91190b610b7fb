/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * net ADDRESS PORT ROUTER: one TCP connection to who sends everything back;
 * sends numbered words, checks what returns, without end. A line on the serial
 * port tells of it; a wrong word, or the connection's end, is told as FAILED.
 *
 * TCP waits for its own timers when packets are lost. How long the network did
 * is what another process finds, which asks the router for an echo all the
 * time; "PING" tells for how long there was none. "NET" tells of the
 * slowest exchange how often something was sent again, and how much of it was
 * the other side's wait: all that was sent had been acknowledged, and nothing
 * came.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
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
#define PING_US  10000
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

static struct tcp_info tcp_info(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
        fail("TCP_INFO");
    return info;
}

/* Return: how much of it, in us, was the other side's wait. */
static uint64_t receive_all(int fd, uint64_t *words)
{
    uint64_t waited = 0, last = now_ns();

    for (size_t done = 0; done < CHUNK;) {
        ssize_t n = recv(fd, (char *)words + done, CHUNK - done, 0);
        uint64_t now = now_ns();

        if (n > 0)
            done += n;
        else if (!n || errno != EAGAIN)
            fail("cannot receive");
        else if (!tcp_info(fd).tcpi_unacked)
            waited += (now - last) / 1000;
        last = now;
    }
    return waited;
}

/* So that all of it, with the sum in it, adds up to nothing. */
static uint16_t icmp_sum(const struct icmphdr *echo)
{
    const uint16_t *words = (const uint16_t *)echo;
    uint32_t sum = 0;

    for (unsigned i = 0; i < sizeof(*echo) / sizeof(*words); i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return ~(sum + (sum >> 16));
}

static void ping(const char *router)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct timeval patience = {.tv_usec = PING_US};
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    uint64_t answers = 0, longest = 0, last = now_ns(), line_due = last;
    char packet[128];

    if (fd < 0 || !inet_aton(router, &to.sin_addr) ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
        fail(router);
    for (uint16_t number = 0;; number++) {
        struct icmphdr echo = {.type = ICMP_ECHO,
                               .un.echo.sequence = htons(number)};
        uint64_t now;

        echo.checksum = icmp_sum(&echo);
        /* What cannot be sent now is not answered either. */
        (void)!sendto(fd, &echo, sizeof(echo), 0, (struct sockaddr *)&to,
                      sizeof(to));
        while (recv(fd, packet, sizeof(packet), 0) > 0) {
            const struct icmphdr *answer =
                (const struct icmphdr *)(packet + sizeof(struct iphdr));

            if (answer->type != ICMP_ECHOREPLY)
                continue;
            answers++;
            now = now_ns();
            if (now - last > longest)
                longest = now - last;
            last = now;
            usleep(PING_US);
            break;
        }
        if (now_ns() >= line_due) {
            printf("REMAPD-GUEST PING answers=%llu slowest_us=%llu\n",
                   (unsigned long long)answers,
                   (unsigned long long)longest / 1000);
            fflush(stdout);
            line_due = now_ns() + LINE_NS;
            longest = 0;
        }
    }
}

int main(int argc, char **argv)
{
    uint64_t number = 0, chunks = 0, slowest = 0, line_due = now_ns();
    struct timeval look = {.tv_usec = PING_US};
    uint64_t slowest_theirs = 0;
    unsigned resent, slowest_resent = 0;
    char *memory = mmap(NULL, CHUNK * CHUNKS, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int fd;

    if (argc != 4 || memory == MAP_FAILED)
        fail("start");
    if (!fork())
        ping(argv[3]);
    fd = connect_to(argv[1], argv[2]);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof(look)))
        fail("SO_RCVTIMEO");
    for (;; chunks++) {
        uint64_t *words = (uint64_t *)(memory + random() % CHUNKS * CHUNK);
        uint64_t start = now_ns(), end, waited;

        for (unsigned i = 0; i < CHUNK / sizeof(*words); i++)
            words[i] = number + i;
        resent = tcp_info(fd).tcpi_total_retrans;
        send_all(fd, words);
        memset(words, 0, CHUNK);
        waited = receive_all(fd, words);
        for (unsigned i = 0; i < CHUNK / sizeof(*words); i++) {
            if (words[i] != number++)
                fail("wrong word");
        }
        end = now_ns();
        if (end - start > slowest) {
            slowest = end - start;
            slowest_theirs = waited;
            slowest_resent = tcp_info(fd).tcpi_total_retrans - resent;
        }
        if (end >= line_due) {
            printf("REMAPD-GUEST NET chunks=%llu slowest_us=%llu resent=%u "
                   "theirs_us=%llu\n",
                   (unsigned long long)chunks,
                   (unsigned long long)slowest / 1000, slowest_resent,
                   (unsigned long long)slowest_theirs);
            fflush(stdout);
            line_due = end + LINE_NS;
            slowest = 0;
        }
    }
}
