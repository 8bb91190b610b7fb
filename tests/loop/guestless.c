/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration without a guest: two processes stand in for the two QEMUs, speak
 * the hand-off to two real daemons, and threads of the destination touch the
 * memory while it arrives, as vCPUs would.
 *
 * Every page holds a pattern of its own; each touch checks the page, writes a
 * new generation into it, and a later touch or the final pass over all memory
 * finds any page that was lost, overwritten or misplaced. When a daemon goes
 * after the switchover, its process hands everything over again to the next one
 * at the same socket. Prints one line of JSON; exits 0 only if every byte was
 * right.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../daemon/keep.h"
#include "../../proto/handoff.h"
#include "placer.h"
#include "splicer.h"

#define PAGE       4096ul
#define HUGE       (2ul << 20)
#define MAX_BLOCKS 16
#define MAX_HANDS  16
#define TIMEOUT_S  600
#define STAYED     3 /* exit code: the guest has not left its source */

static struct {
    const char *source, *destination, *kind, *name, *address;
    unsigned long mib, zero_percent, hole_percent, left_percent, threads;
    unsigned long blocks, seed;
    unsigned long every; /* that many pages one is touched and checked */
    unsigned long keep_version; /* written into what is kept; SIGUSR1: undone */
    unsigned long spoil; /* that often a userfaultfd is handed over again that
                            blocks */
    unsigned long scramble; /* seed: bytes of what is kept are changed each time;
                               SIGUSR1: undone */
    bool odd; /* blocks that are no multiple of a huge page */
    bool chaos; /* anything may be lost, also before the switchover */
    const char *hold; /* where a process stops itself, by SIGSTOP */
    const char *splicer; /* what its splicers do; "none": there are none */
    /* At the first message of this type of this role's hand-off, sent or
     * received, its daemon is killed. */
    enum handoff_role kill_role;
    enum handoff_type kill_type;
} options = {.kind = "anon", .name = "guestless", .address = "127.0.0.1",
             .mib = 64, .zero_percent = 15, .left_percent = 100, .threads = 1,
             .blocks = 2, .seed = 1, .every = 1, .hold = "",
             .splicer = "works"};

static enum handoff_role own_role;
static int destination_uffd = -1;
static volatile sig_atomic_t undo;
static int kept = -1; /* what the daemon has given to be kept */
static unsigned pauses, returns;

static void fail(const char *what)
{
    fprintf(stderr, "guestless: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#include "memory.h"

/* ---- the hand-off ---- */

/* Return -1 if nobody listens there. */
static int handoff_try(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {TIMEOUT_S, 0};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        close(fd);
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    return fd;
}

static int handoff_connect(const char *path)
{
    int fd = handoff_try(path);

    if (fd < 0)
        fail(path);
    return fd;
}

static void kill_daemon_at(int socket, enum handoff_type type)
{
    struct ucred daemon;
    socklen_t bytes = sizeof(daemon);

    if (own_role != options.kill_role || type != options.kill_type)
        return;
    options.kill_role = 0;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &daemon, &bytes) ||
        kill(daemon.pid, SIGKILL))
        fail("kill");
}

/* Return false if the daemon is gone. */
static bool handoff_put(int socket, enum handoff_type type, const void *body,
                        size_t bytes, int fd)
{
    struct handoff_header header = {htonl(HANDOFF_MAGIC),
                                    htons(HANDOFF_VERSION),
                                    htons((uint16_t)type)};
    struct iovec iov[] = {{&header, sizeof(header)}, {(void *)body, bytes}};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

    if (fd >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    if (sendmsg(socket, &msg, MSG_NOSIGNAL) < 0)
        return false;
    kill_daemon_at(socket, type);
    return true;
}

/* One message: its type, or 0 if the daemon is gone. KEEP's descriptor is
 * kept. */
static enum handoff_type handoff_take(int socket, char *packet, char **body)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {packet, HANDOFF_MAX_BYTES};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    struct handoff_header header;
    struct cmsghdr *cmsg;
    ssize_t got;

    /* With a timeout set, even SIGCONT interrupts it. */
    do
        got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (!got || (got < 0 && errno == ECONNRESET))
        return 0;
    if (got < (ssize_t)sizeof(header))
        fail("hand-off receive");
    memcpy(&header, packet, sizeof(header));
    *body = packet + sizeof(header);
    cmsg = CMSG_FIRSTHDR(&msg);
    if (cmsg && ntohs(header.type) == HANDOFF_KEEP)
        memcpy(&kept, CMSG_DATA(cmsg), sizeof(kept));
    pauses += ntohs(header.type) == HANDOFF_PAUSED;
    kill_daemon_at(socket, ntohs(header.type));
    return ntohs(header.type);
}

/* Wait for @wanted; what needs no answer may come before. Return false if the
 * daemon is gone, or, coming back to it, refuses. */
static bool handoff_await(int socket, enum handoff_type wanted, void *result,
                          size_t size)
{
    char packet[HANDOFF_MAX_BYTES], *body;
    enum handoff_type type;

    do
        type = handoff_take(socket, packet, &body);
    while (type != wanted &&
           (type == HANDOFF_PROGRESS || type == HANDOFF_KEEP ||
            type == HANDOFF_PAUSED || type == HANDOFF_RESUMED));
    if (!type || (type == HANDOFF_ERROR && (returns || options.chaos)))
        return false;
    if (type != wanted) {
        fprintf(stderr, "guestless: expected message %d, got %d: %.200s\n",
                wanted, type,
                type == HANDOFF_ERROR ? body : "");
        exit(1);
    }
    if (result)
        memcpy(result, body, size);
    return true;
}

/* The same before the switchover: nobody comes back then. */
static void handoff_need(int socket, enum handoff_type wanted, void *result,
                         size_t size)
{
    if (!handoff_await(socket, wanted, result, size))
        fail("the daemon is gone");
}

static bool handoff_greet(int socket, enum handoff_type type,
                          enum handoff_role role,
                          struct handoff_welcome *welcome)
{
    struct handoff_hello hello = {
        .role = htonl(role),
        .pid = htonl((uint32_t)getpid()),
        .ram_bytes = htobe64(total_pages * PAGE),
    };

    snprintf(hello.name, sizeof(hello.name), "%s", options.name);
    snprintf(hello.address, sizeof(hello.address), "%s", options.address);
    return handoff_put(socket, type, &hello, sizeof(hello),
                       type == HANDOFF_RETURN ? kept : -1) &&
           handoff_await(socket, HANDOFF_WELCOME, welcome, sizeof(*welcome));
}

/* In what is kept the version follows the magic. */
static void keep_spoil(void)
{
    static uint32_t version;
    uint32_t spoilt = (uint32_t)options.keep_version;

    if (!spoilt)
        return;
    if (!version && pread(kept, &version, 4, 4) != 4)
        fail("what is kept");
    if (pwrite(kept, undo ? &version : &spoilt, 4, 4) != 4)
        fail("what is kept");
}

/* Some bytes of the record, but for what would be believed: whether the maps
 * hold at all, and how often the source has come back. */
static void keep_scramble(void)
{
    static struct keep_record good;
    static uint64_t random;
    struct keep_record bad;

    if (!options.scramble)
        return;
    if (!random && pread(kept, &good, sizeof(good), 0) != sizeof(good))
        fail("what is kept");
    if (!random)
        random = options.scramble;
    bad = good;
    for (unsigned i = 0; i < 3 && !undo; i++) {
        random = mix(random + 1);
        ((uint8_t *)&bad)[random % offsetof(struct keep_record, address[1])] ^=
            (uint8_t)(random >> 32);
    }
    bad.left_known = good.left_known;
    bad.attempt = good.attempt;
    if (pwrite(kept, &bad, sizeof(bad), 0) != sizeof(bad))
        fail("what is kept");
}

/* The daemon is gone: go to the next one, again and again. */
static int handoff_return(const char *path, int socket, enum handoff_role role,
                          struct handoff_welcome *welcome)
{
    const struct timespec nap = {.tv_nsec = 20000000};

    returns++;
    for (unsigned tries = 0; tries < TIMEOUT_S * 50; tries++) {
        close(socket);
        keep_spoil();
        keep_scramble();
        socket = handoff_try(path);
        if (socket >= 0 &&
            handoff_greet(socket, HANDOFF_RETURN, role, welcome))
            return socket;
        nanosleep(&nap, NULL);
    }
    fail("nobody takes the migration up again");
    return -1;
}

static bool handoff_blocks(int socket)
{
    bool sent = true;

    for (unsigned i = 0; i < options.blocks; i++) {
        const struct memory *memory = &memories[i];
        struct handoff_block block = {
            .index = htonl(i),
            .flags = htonl(memory->shared
                               ? HANDOFF_BLOCK_SHARED | HANDOFF_BLOCK_FD
                               : 0),
            .hva = htobe64((uintptr_t)memory->base),
            .length = htobe64(memory->bytes),
            .page_size = htobe64(memory->page_bytes),
        };

        snprintf(block.idstr, sizeof(block.idstr), "ram%u", i);
        sent = sent && handoff_put(socket, HANDOFF_BLOCK, &block,
                                   sizeof(block), memory->fd);
    }
    return sent;
}

/* For whoever wants to do something just there. */
static void hold(const char *where)
{
    if (!strcmp(options.hold, where))
        raise(SIGSTOP);
}

/* ---- the source ---- */

static int left_bitmap(void)
{
    int fd = memfd_create("left", 0);
    unsigned long page = 0;

    for (unsigned i = 0; i < options.blocks; i++) {
        unsigned long pages = memories[i].bytes / PAGE;
        unsigned long words = (pages + 63) / 64;
        uint64_t *bits = calloc(words, 8);

        for (unsigned long at = 0; at < pages; at++, page++) {
            if (page_is_left(page))
                bits[at / 64] |= 1ull << at % 64;
        }
        if (write(fd, bits, words * 8) != (ssize_t)(words * 8))
            fail("left bitmap");
        free(bits);
    }
    return fd;
}

static void pass_byte(int fd)
{
    if (write(fd, "x", 1) != 1)
        fail("pipe");
}

/* The guest has not left: it must be as it was. */
static void stay(void)
{
    unsigned long wrong = 0;

    for (unsigned long page = 0; page < total_pages; page++)
        wrong += !page_good(page_at(page), page, 0);
    printf("{\"stayed\": true, \"wrong\": %lu}\n", wrong);
    exit(wrong ? 1 : STAYED);
}

/* The same for the source before the switchover: without a daemon, or with one
 * that fails, the guest stays where it is. */
static void source_need(int socket, enum handoff_type wanted)
{
    if (!options.chaos)
        handoff_need(socket, wanted, NULL, 0);
    else if (!handoff_await(socket, wanted, NULL, 0))
        stay();
}

static void await_byte(int fd)
{
    char byte;

    if (read(fd, &byte, 1) != 1)
        exit(1); /* the other process has said why */
}

static struct loop_splicer splicers[MAX_HANDS];
static unsigned splicer_count;

/* Offer the splicers that remapd asks for. */
static void start_splicers(int socket, const struct handoff_welcome *welcome)
{
    unsigned count = ntohl(welcome->hands);

    if (!strcmp(options.splicer, "none") || count > MAX_HANDS)
        return;
    for (; splicer_count < count; splicer_count++) {
        int fd = loop_splicer_start(&splicers[splicer_count], options.splicer);

        if (fd < 0)
            fail("splicer");
        handoff_put(socket, HANDOFF_SPLICER, NULL, 0, fd);
        close(fd);
    }
}

static void join_splicers(void)
{
    loop_splicers_join(splicers, splicer_count);
    splicer_count = 0;
}

static int run_source(int from_destination, int to_destination)
{
    struct handoff_prepare prepare = {htonl((uint32_t)options.blocks)};
    struct handoff_progress progress;
    struct handoff_welcome welcome;
    struct handoff_ticket ticket;
    int left = left_bitmap(), socket;

    own_role = HANDOFF_SOURCE;
    huge_pages_on();
    for (unsigned long page = 0; page < total_pages; page++) {
        if (!page_is_zero(page))
            page_write(page_at(page), page, 0);
    }
    memory_from_files();
    socket = options.chaos ? handoff_try(options.source)
                           : handoff_connect(options.source);
    if (socket < 0 ||
        !handoff_greet(socket, HANDOFF_HELLO, HANDOFF_SOURCE, &welcome)) {
        if (options.chaos)
            stay();
        fail("no welcome");
    }
    hold("greeted");
    if (read(from_destination, &ticket, sizeof(ticket)) != sizeof(ticket)) {
        if (options.chaos)
            stay();
        return 1;
    }
    handoff_put(socket, HANDOFF_TICKET, &ticket, sizeof(ticket), -1);
    source_need(socket, HANDOFF_JOINED);
    hold("joined");
    handoff_blocks(socket);
    start_splicers(socket, &welcome);
    handoff_put(socket, HANDOFF_PREPARE, &prepare, sizeof(prepare), -1);
    source_need(socket, HANDOFF_PREPARED);
    hold("prepared");
    if (options.chaos && write(to_destination, "x", 1) != 1)
        stay();
    else if (!options.chaos)
        pass_byte(to_destination);
    while (!handoff_put(socket, HANDOFF_SWITCHOVER, &prepare, sizeof(prepare),
                        left) ||
           !handoff_await(socket, HANDOFF_COMPLETE, &progress,
                          sizeof(progress))) {
        join_splicers();
        socket = handoff_return(options.source, socket, HANDOFF_SOURCE,
                                &welcome);
        handoff_blocks(socket);
        start_splicers(socket, &welcome);
    }
    if (progress.pages_left) {
        fprintf(stderr, "guestless: complete with pages left\n");
        return 1;
    }
    pass_byte(to_destination);
    if (write(to_destination, &returns, sizeof(returns)) != sizeof(returns))
        fail("pipe");
    return 0;
}

/* ---- the destination ---- */

struct toucher {
    pthread_t thread;
    unsigned index;
    unsigned long operations, wrong;
    uint64_t longest_ns;
};

static atomic_bool touching = true;
static unsigned long *generations; /* of each page; a toucher owns its share */

static void *touch(void *opaque)
{
    struct toucher *toucher = opaque;
    uint64_t random = mix(options.seed + toucher->index + 99);
    uint64_t last = clock_ns();
    unsigned long share = total_pages / options.threads;

    while (touching) {
        unsigned long page;
        uint64_t *words, now;

        random = mix(random + 0x9e3779b97f4a7c15u);
        page = random % share / options.every * options.every +
               toucher->index * share;
        words = page_at(page);
        /* At once: if the session pauses nobody comes to the sum. */
        if (!page_good(words, page, generations[page])) {
            fprintf(stderr, "guestless: page %lu is wrong\n", page);
            toucher->wrong++;
        }
        page_write(words, page, ++generations[page]);
        toucher->operations++;
        now = clock_ns();
        if (now - last > toucher->longest_ns)
            toucher->longest_ns = now - last;
        last = now;
    }
    return NULL;
}

/* As QEMU does: from the device where there is one, which may be open to users
 * without privileges. */
static int open_uffd(int flags)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int uffd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, flags)
                           : (int)syscall(SYS_userfaultfd, flags);

    if (device >= 0)
        close(device);
    return uffd;
}

static int make_uffd(uint64_t *features)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS};
    int uffd = open_uffd(O_CLOEXEC | O_NONBLOCK);

    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
        fail("userfaultfd");
    *features = api.features;
    for (unsigned i = 0; i < options.blocks; i++) {
        struct uffdio_register reg = {
            .range = {(uintptr_t)memories[i].base, memories[i].bytes},
            .mode = UFFDIO_REGISTER_MODE_MISSING |
                    (memories[i].shared ? UFFDIO_REGISTER_MODE_MINOR : 0)};

        if (ioctl(uffd, UFFDIO_REGISTER, &reg))
            fail("UFFDIO_REGISTER");
    }
    huge_pages_on();
    return uffd;
}

static unsigned long huge_kib(void)
{
    unsigned long kib = 0, value;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "AnonHugePages: %lu", &value) == 1)
            kib = value;
    }
    if (file)
        fclose(file);
    return kib;
}

/* Offer the placers that remapd asks for, if the kernel can move pages. */
static unsigned start_placers(int socket, const struct handoff_welcome *welcome,
                              struct loop_placer *placers)
{
    struct uffdio_api api = {.api = UFFD_API};
    int probe = open_uffd(O_CLOEXEC);
    uint32_t slots = ntohl(welcome->slots);
    unsigned count = ntohl(welcome->hands);

    if (probe < 0 || ioctl(probe, UFFDIO_API, &api))
        fail("userfaultfd");
    close(probe);
    if (!(api.features & 1ull << 16) || count > MAX_HANDS)
        return 0;
    for (unsigned i = 0; i < count; i++) {
        int fd = loop_placer_start(&placers[i], &destination_uffd, slots);
        struct handoff_placer placer = {
            .flags = htonl(HANDOFF_PLACER_TAKES),
            .staging = htobe64((uintptr_t)placers[i].staging),
            .slots = htonl(slots)};

        if (fd < 0)
            fail("placer");
        handoff_put(socket, HANDOFF_PLACER, &placer, sizeof(placer), fd);
        close(fd);
    }
    return count;
}

static void join_placers(struct loop_placer *placers, unsigned *count)
{
    loop_placers_join(placers, *count);
    *count = 0;
}

static void uffd_block(bool blocks)
{
    fcntl(destination_uffd, F_SETFL, blocks ? 0 : O_NONBLOCK);
}

/* The daemon can wait for this userfaultfd no more, until it gets it anew. */
static void on_break(int number)
{
    (void)number;
    uffd_block(true);
}

/* Hand everything over; again, if the daemon goes meanwhile. */
static int attach_somewhere(int socket, struct loop_placer *placers,
                            unsigned *placer_count,
                            const struct handoff_attach *attach)
{
    static unsigned long spoilt;
    struct handoff_welcome welcome;

    while (uffd_block(returns && spoilt++ < options.spoil),
           !handoff_blocks(socket) ||
           !handoff_put(socket, HANDOFF_ATTACH, attach, sizeof(*attach),
                        destination_uffd) ||
           !handoff_await(socket, HANDOFF_ATTACHED, NULL, 0)) {
        socket = handoff_return(options.destination, socket,
                                HANDOFF_DESTINATION, &welcome);
        join_placers(placers, placer_count);
        *placer_count = start_placers(socket, &welcome, placers);
    }
    return socket;
}

/* Until the source says that all is there. */
static int serve_until_complete(int socket, int from_source,
                                struct loop_placer *placers,
                                unsigned *placer_count,
                                const struct handoff_attach *attach)
{
    char packet[HANDOFF_MAX_BYTES], *body;

    for (;;) {
        struct pollfd fds[] = {{.fd = from_source, .events = POLLIN},
                               {.fd = socket, .events = POLLIN}};
        struct handoff_welcome welcome;

        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            fail("poll");
        if (fds[0].revents) {
            await_byte(from_source);
            return socket;
        }
        if (!fds[1].revents || handoff_take(socket, packet, &body))
            continue;
        socket = handoff_return(options.destination, socket,
                                HANDOFF_DESTINATION, &welcome);
        join_placers(placers, placer_count);
        *placer_count = start_placers(socket, &welcome, placers);
        socket = attach_somewhere(socket, placers, placer_count, attach);
    }
}

static int run_destination(int to_source, int from_source)
{
    int socket = handoff_connect(options.destination);
    struct loop_placer placers[MAX_HANDS];
    struct handoff_welcome welcome;
    unsigned placer_count;
    struct handoff_attach attach = {htonl((uint32_t)options.blocks), 0};
    struct toucher touchers[64] = {0};
    unsigned long operations = 0, wrong = 0, left = 0, left_data = 0;
    struct handoff_ticket ticket;
    uint64_t longest = 0, begin, end, features;
    unsigned source_returns;

    own_role = HANDOFF_DESTINATION;
    signal(SIGUSR2, on_break);
    generations = calloc(total_pages, sizeof(*generations));
    if (!handoff_greet(socket, HANDOFF_HELLO, HANDOFF_DESTINATION, &welcome))
        fail("no welcome");
    placer_count = start_placers(socket, &welcome, placers);
    handoff_need(socket, HANDOFF_TICKET, &ticket, sizeof(ticket));
    if (write(to_source, &ticket, sizeof(ticket)) != sizeof(ticket))
        fail("pipe");
    /* What pre-copy has brought: everything that is not left. */
    for (unsigned long page = 0; page < total_pages; page++) {
        if (!page_is_left(page)) {
            page_write(page_at(page), page, 0);
            continue;
        }
        left++;
        left_data += !page_is_zero(page);
    }
    await_byte(from_source);
    hold("attaching");
    destination_uffd = make_uffd(&features);
    attach.uffd_features = htobe64(features);
    begin = clock_ns();
    socket = attach_somewhere(socket, placers, &placer_count, &attach);
    for (unsigned i = 0; i < options.threads; i++) {
        touchers[i].index = i;
        if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]))
            fail("pthread_create");
    }
    socket = serve_until_complete(socket, from_source, placers, &placer_count,
                                  &attach);
    end = clock_ns();
    if (read(from_source, &source_returns, sizeof(source_returns)) !=
        sizeof(source_returns))
        return 1;
    touching = false;
    for (unsigned i = 0; i < options.threads; i++) {
        pthread_join(touchers[i].thread, NULL);
        operations += touchers[i].operations;
        wrong += touchers[i].wrong;
        if (touchers[i].longest_ns > longest)
            longest = touchers[i].longest_ns;
    }
    hold("complete");
    /* Without a daemon nothing is attached: all is there all the same. */
    if (handoff_put(socket, HANDOFF_DETACH, NULL, 0, -1))
        handoff_await(socket, HANDOFF_DETACHED, NULL, 0);
    close(socket);
    for (unsigned i = 0; i < options.blocks; i++) {
        struct uffdio_range range = {(uintptr_t)memories[i].base,
                                     memories[i].bytes};

        if (ioctl(destination_uffd, UFFDIO_UNREGISTER, &range))
            fail("UFFDIO_UNREGISTER");
    }
    close(destination_uffd);
    join_placers(placers, &placer_count);
    for (unsigned long page = 0; page < total_pages; page += options.every) {
        if (!page_good(page_at(page), page, generations[page]))
            wrong++;
    }
    printf("{\"kind\": \"%s\", \"mib\": %lu, \"pages\": %lu, \"left\": %lu, "
           "\"left_data\": %lu, \"wrong\": %lu, \"seconds\": %.4f, \"mib_per_second\": %.0f, "
           "\"operations\": %lu, \"longest_stall_us\": %lu, "
           "\"huge_kib\": %lu, \"pauses\": %u, \"returns\": %u, "
           "\"source_returns\": %u}\n",
           options.kind, options.mib, total_pages, left, left_data, wrong,
           (double)(end - begin) / 1e9,
           (double)options.mib / ((double)(end - begin) / 1e9), operations,
           (unsigned long)(longest / 1000), huge_kib(),
           pauses, returns, source_returns);
    return wrong ? 1 : 0;
}

static void on_signal(int number)
{
    (void)number;
    undo = 1;
}

static void usage(void)
{
    fputs("Usage: guestless --source SOCKET --destination SOCKET\n"
          "  [--kind anon|thp|memfd|mixed|hugetlb|hugetlb-shared|template]\n"
          "  [--mib N] [--zero PERCENT] [--holes PERCENT] [--left PERCENT]\n"
          "  [--threads N] [--blocks N] [--odd] [--seed N] [--name TEXT]\n"
          "  [--address NUMERIC]\n"
          "  [--every N] [--keep_version N] [--chaos] [--hold WHERE]\n"
          "  [--spoil N] [--kill ROLE:MESSAGE] [--scramble SEED]\n"
          "  [--splicer works|none|fails|half|stuck|mute|leaves]\n",
          stderr);
    exit(2);
}

static unsigned long number(const char *text, unsigned long min,
                            unsigned long max)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*end || end == text || value < min || value > max)
        usage();
    return value;
}

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"source", 1, NULL, 's'},  {"destination", 1, NULL, 'd'},
        {"kind", 1, NULL, 'k'},    {"mib", 1, NULL, 'm'},
        {"zero", 1, NULL, 'z'},    {"left", 1, NULL, 'l'},
        {"holes", 1, NULL, 'O'},
        {"threads", 1, NULL, 't'}, {"blocks", 1, NULL, 'b'},
        {"seed", 1, NULL, 'e'},    {"odd", 0, NULL, 'o'},
        {"name", 1, NULL, 'n'},    {"address", 1, NULL, 'a'},
        {"every", 1, NULL, 'y'},   {"keep_version", 1, NULL, 'v'},
        {"chaos", 0, NULL, 'c'},   {"hold", 1, NULL, 'h'},
        {"spoil", 1, NULL, 'p'},   {"kill", 1, NULL, 'q'},
        {"scramble", 1, NULL, 'r'}, {"splicer", 1, NULL, 'i'},
        {0},
    };
    int choice;

    while ((choice = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (choice) {
        case 's':
            options.source = optarg;
            break;
        case 'd':
            options.destination = optarg;
            break;
        case 'k':
            options.kind = optarg;
            break;
        case 'm':
            options.mib = number(optarg, 4, 1 << 20);
            break;
        case 'z':
            options.zero_percent = number(optarg, 0, 100);
            break;
        case 'O':
            options.hole_percent = number(optarg, 0, 100);
            break;
        case 'l':
            options.left_percent = number(optarg, 0, 100);
            break;
        case 't':
            options.threads = number(optarg, 0, 64);
            break;
        case 'b':
            options.blocks = number(optarg, 1, MAX_BLOCKS);
            break;
        case 'e':
            options.seed = number(optarg, 0, ~0ul);
            break;
        case 'y':
            options.every = number(optarg, 1, 1 << 20);
            break;
        case 'v':
            options.keep_version = number(optarg, 0, 1000);
            signal(SIGUSR1, on_signal);
            break;
        case 'c':
            options.chaos = true;
            break;
        case 'h':
            options.hold = optarg;
            break;
        case 'p':
            options.spoil = number(optarg, 0, 1000);
            break;
        case 'r':
            options.scramble = number(optarg, 1, ~0ul);
            signal(SIGUSR1, on_signal);
            break;
        case 'i':
            options.splicer = optarg;
            break;
        case 'q':
            if (sscanf(optarg, "%u:%u", &options.kill_role,
                       &options.kill_type) != 2)
                usage();
            break;
        case 'o':
            options.odd = true;
            break;
        case 'n':
            options.name = optarg;
            break;
        case 'a':
            options.address = optarg;
            break;
        default:
            usage();
        }
    }
    if (!options.source || !options.destination || optind < argc)
        usage();
}

static pid_t begin(int (*run)(int, int), const int *to, const int *from)
{
    pid_t child = fork();

    if (child < 0)
        fail("fork");
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(to[0]);
    close(from[1]);
    memory_make_all();
    exit(run(to[1], from[0]));
}

static int run_source_of(int to_destination, int from_destination)
{
    return run_source(from_destination, to_destination);
}

/* Either may be killed; the source says whether the guest has stayed. */
static int watch(pid_t source, pid_t destination)
{
    int status, result = 0;
    pid_t child;

    printf("source %d\ndestination %d\n", source, destination);
    fflush(stdout);
    while ((child = wait(&status)) > 0) {
        if (child == source && WIFEXITED(status) &&
            WEXITSTATUS(status) == STAYED)
            return STAYED;
        result |= status != 0;
    }
    return result;
}

int main(int argc, char **argv)
{
    int to_source[2], to_destination[2], status, ret;
    pid_t source;

    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN); /* as QEMU */
    if (pipe(to_source) || pipe(to_destination))
        fail("pipe");
    source = begin(run_source_of, to_destination, to_source);
    if (options.chaos) {
        pid_t destination = begin(run_destination, to_source, to_destination);

        close(to_source[0]);
        close(to_source[1]);
        close(to_destination[0]);
        close(to_destination[1]);
        return watch(source, destination);
    }
    close(to_source[0]);
    close(to_destination[1]);
    memory_make_all();
    ret = run_destination(to_source[1], to_destination[0]);
    waitpid(source, &status, 0);
    return ret || status ? 1 : 0;
}
