/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A whole session, of either role, between a QEMU and a peer that say anything
 * at any time: the real handoff, peer, wire and session rooms. Input: a byte
 * with the role and how far a well-behaved beginning goes, then steps.
 *
 * An input must cost microseconds: what is said goes straight to the session's
 * handlers (the harnesses handoff and msg look at what is between), time is a
 * number, and page threads end at once.
 */
#include <pthread.h>

static int thread_ends_at_once(void *(*entry)(void *), void *opaque);
#define pthread_create(id, attr, entry, opaque) thread_ends_at_once(entry, opaque)
#define pthread_join(id, result)                ((void)(id))
#include "../../daemon/thread.c"

#include <sys/socket.h>

static ssize_t qemu_is_told(const struct msghdr *msg);
#define sendmsg(fd, msg, flags) ((void)(fd), (void)(flags), qemu_is_told(msg))
#define handoff_free            handoff_free_it
#include "../../daemon/packet.c"
#include "../../daemon/handoff.c"
#undef handoff_free
#undef sendmsg
void handoff_free(struct handoff *handoff);

#include "../../daemon/metrics.h"
#include "../../daemon/peer.c"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void *keep_memory(size_t bytes);
#define memfd_create(name, flags)               0
#define ftruncate(fd, bytes)                    0
#define fcntl(fd, ...)                          0
#define close(fd)                               ((void)0)
#define mmap(at, bytes, protection, type, fd, from) keep_memory(bytes)
#define madvise(memory, bytes, advice)          ((void)0)
#define munmap(memory, bytes)                   ((void)0)
#include "../../daemon/keep.c"
#undef memfd_create
#undef ftruncate
#undef fcntl
#undef close
#undef mmap
#undef madvise
#undef munmap

#include "fuzz.h"
#include "memory_msg.h"
#include "no_json.h"

#define MAX_STEPS   24
#define MAX_PAGES   4096 /* of a block: memory is not what is tested */
#define GUEST_PAGES 16

static struct event_base *base;
static struct conf conf;
static int memfd, bitmap;
static uint8_t guest[GUEST_PAGES * PAGE_BYTES]
    __attribute__((aligned(PAGE_BYTES)));
static struct handoff *qemu; /* NULL once it is gone */
static struct handoff_ticket told; /* the ticket that it was given */

static int thread_ends_at_once(void *(*entry)(void *), void *opaque)
{
    struct thread *thread = opaque;

    (void)entry;

    atomic_fetch_sub(&thread->status->alive, 1);
    return 0;
}

/* One session's. */
static void *keep_memory(size_t bytes)
{
    static uint64_t memory[1 << 15];

    REQUIRE(bytes <= sizeof(memory));
    return memset(memory, 0, bytes);
}

/* ---- time, instead of the C library's; libevent's too ---- */

static uint64_t time_ns = 1000000000;

int clock_gettime(clockid_t clock, struct timespec *time)
{
    if (clock == CLOCK_REALTIME)
        return (int)syscall(SYS_clock_gettime, clock, time);
    time_ns += 1000;
    time->tv_sec = (time_t)(time_ns / 1000000000);
    time->tv_nsec = (long)(time_ns % 1000000000);
    return 0;
}

int nanosleep(const struct timespec *time, struct timespec *rest)
{
    (void)rest;
    time_ns += (uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_nsec;
    return 0;
}

/* Whatever is due by then happens. */
static void pass_time(unsigned ms)
{
    time_ns += ms * 1000000ull;
    event_base_loop(base, EVLOOP_NONBLOCK);
    memory_msg_connect_all();
}

/* Instead of the daemon's: its sums over histograms would be a third of what an
 * input costs. */
void metrics_retire(const struct session *session)
{
    (void)session;
}

/* ---- the QEMU and the peers ---- */

void handoff_free(struct handoff *handoff)
{
    if (handoff == qemu)
        qemu = NULL;
    handoff_free_it(handoff);
}

static ssize_t qemu_is_told(const struct msghdr *msg)
{
    const struct handoff_header *header = msg->msg_iov[0].iov_base;

    if (ntohs(header->type) == HANDOFF_TICKET)
        memcpy(&told, msg->msg_iov[1].iov_base, sizeof(told));
    return 0;
}

static void hand(enum handoff_type type, const void *body, int fd)
{
    struct handoff *handoff = qemu;
    int theirs = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (handoff) {
        handoff->busy = true;
        handoff->handlers->message(handoff->owner, type, body, &theirs);
        handoff->busy = false;
        if (handoff->dead)
            free(handoff);
    }
    if (theirs >= 0)
        close(theirs);
    memory_msg_connect_all();
}

static void hand_block(void)
{
    struct handoff_block block = {
        .hva = htobe64((uintptr_t)guest),
        .length = htobe64(sizeof(guest)),
        .page_size = htobe64(PAGE_BYTES),
        .idstr = "ram",
    };

    hand(HANDOFF_BLOCK, &block, -1);
}

static void qemu_leaves(void)
{
    if (qemu)
        handoff_closed(qemu, HANDOFF_LEFT);
}

/* A source connects to this destination. */
static void arrive(void)
{
    peer_accepted(listener, -1, NULL, 0, NULL);
}

#define SAY(peer, FIELD, field, ...)                                           \
    do {                                                                       \
        Remapd__Message say_message = REMAPD__MESSAGE__INIT;                   \
        __VA_ARGS__;                                                           \
        say_message.body_case = REMAPD__MESSAGE__BODY_##FIELD;                 \
        say_message.field = &body;                                             \
        memory_msg_say(peer, &say_message);                                               \
    } while (0)

/* ---- well-behaved beginnings ---- */

static const uint8_t key[SESSION_SECRET_BYTES] = "key";

static void begin_source(unsigned steps)
{
    Remapd__Ticket ticket = REMAPD__TICKET__INIT;
    char *address = "127.0.0.1";
    uint8_t id[SESSION_ID_BYTES] = {1};
    struct handoff_prepare prepare = {htonl(1)};
    struct handoff_ticket message = {0};
    uint32_t granule = FRAME_MAX_BYTES;

    ticket.version = WIRE_VERSION;
    ticket.session = (ProtobufCBinaryData){sizeof(id), id};
    ticket.secret = (ProtobufCBinaryData){sizeof(key), (uint8_t *)key};
    ticket.n_address = 1;
    ticket.address = &address;
    ticket.port = 1;
    message.bytes = htons((uint16_t)remapd__ticket__pack(&ticket, message.ticket));
    if (steps > 0)
        hand(HANDOFF_TICKET, &message, -1);
    if (steps > 1)
        SAY(0, WELCOME, welcome, Remapd__Welcome body = REMAPD__WELCOME__INIT;
            body.version = WIRE_VERSION; body.urgent = body.bulk = 1;
            body.channel_key = body.resume_key = ticket.secret);
    for (unsigned i = 1; i < 3 && steps > 2; i++)
        SAY(i, WELCOME, welcome, Remapd__Welcome body = REMAPD__WELCOME__INIT;
            body.version = WIRE_VERSION);
    if (steps > 3) {
        hand_block();
        hand(HANDOFF_PREPARE, &prepare, -1);
    }
    if (steps > 4)
        SAY(0, PREPARED, prepared,
            Remapd__Prepared body = REMAPD__PREPARED__INIT;
            body.n_granule = 1; body.granule = &granule);
    if (steps > 5)
        hand(HANDOFF_SWITCHOVER, &prepare, bitmap);
    if (steps > 6)
        SAY(0, START, start, Remapd__Start body = REMAPD__START__INIT);
}

static void begin_destination(unsigned steps, const struct session *session)
{
    Remapd__Message *welcome = NULL;
    ProtobufCBinaryData secret = {0}, id = {0};
    Remapd__Ticket *ticket =
        remapd__ticket__unpack(NULL, ntohs(told.bytes), told.ticket);

    REQUIRE(ticket && ticket->secret.len == SESSION_SECRET_BYTES);
    REQUIRE(!memcmp(ticket->session.data, session->id, sizeof(session->id)));
    id = ticket->session;
    secret = ticket->secret;
    for (unsigned i = 0; i < 3 && steps > (i > 0); i++) {
        arrive();
        SAY(i, HELLO, hello, Remapd__Hello body = REMAPD__HELLO__INIT;
            body.magic = WIRE_MAGIC; body.version = WIRE_VERSION;
            body.session = id; body.secret = secret;
            body.kind = (Remapd__Hello__Kind)i);
        if (i)
            continue;
        welcome = memory_msg_heard(0);
        REQUIRE(welcome && welcome->body_case == REMAPD__MESSAGE__BODY_WELCOME);
        secret = welcome->welcome->channel_key;
    }
    if (steps > 2)
        SAY(0, BLOCK, block, Remapd__Block body = REMAPD__BLOCK__INIT;
            body.idstr = "ram"; body.length = sizeof(guest);
            body.page_size = PAGE_BYTES);
    if (steps > 3)
        SAY(0, PREPARE, prepare, Remapd__Prepare body = REMAPD__PREPARE__INIT;
            body.blocks = 1);
    if (steps > 4)
        SAY(0, LEFT, left, Remapd__Left body = REMAPD__LEFT__INIT;
            body.run_pages = GUEST_PAGES);
    if (steps > 5)
        SAY(0, LEFT_END, left_end, Remapd__LeftEnd body = REMAPD__LEFT_END__INIT;
            body.pages = GUEST_PAGES);
    if (steps > 6)
        hand_block();
    if (welcome)
        remapd__message__free_unpacked(welcome, NULL);
    remapd__ticket__free_unpacked(ticket, NULL);
}

/* ---- steps ---- */

static void step_qemu(struct input *input)
{
    static const enum handoff_type types[] = {
        HANDOFF_TICKET, HANDOFF_BLOCK,  HANDOFF_PREPARE, HANDOFF_SWITCHOVER,
        HANDOFF_ATTACH, HANDOFF_PLACER, HANDOFF_DETACH,  HANDOFF_HELLO,
        HANDOFF_FAULTER, HANDOFF_REGION, HANDOFF_SPLICER};
    const int fds[] = {-1, memfd, bitmap, STDIN_FILENO};
    unsigned choice = input_byte(input);
    enum handoff_type type = types[choice % ARRAY_SIZE(types)];
    size_t bytes = (size_t)body_bytes((uint16_t)type);
    uint8_t body[HANDOFF_MAX_BYTES];
    struct handoff_block block;

    input_take(input, body, bytes);
    if (type == HANDOFF_BLOCK) {
        memcpy(&block, body, sizeof(block));
        block.length = htobe64(be64toh(block.length) %
                               (MAX_PAGES * PAGE_BYTES));
        memcpy(body, &block, sizeof(block));
    }
    hand(type, body, fds[choice >> 4 & 3]);
}

static void step_peer(struct input *input, unsigned peer)
{
    size_t said = (size_t)input_byte(input) * 4, size = MIN(said, input->size);
    Remapd__Message *message = remapd__message__unpack(NULL, size, input->data);

    input->data += size;
    input->size -= size;
    if (!message || message->body_case == REMAPD__MESSAGE__BODY__NOT_SET)
        memory_msg_hang_up(peer);
    else if (message->body_case != REMAPD__MESSAGE__BODY_BLOCK ||
             message->block->length <= MAX_PAGES * PAGE_BYTES)
        memory_msg_say(peer, message);
    if (message)
        remapd__message__free_unpacked(message, NULL);
}

static void step(struct input *input)
{
    unsigned what = input_byte(input), more = what >> 3;

    switch (what % 8) {
    case 0:
    case 1:
        step_qemu(input);
        break;
    case 2:
        arrive();
        break;
    case 3:
        memory_msg_hang_up(more);
        break;
    case 4:
        step_peer(input, more);
        break;
    case 5:
        if (more == 31)
            qemu_leaves();
        else
            pass_time(1u << more % 16);
        break;
    default:
        step_peer(input, 0);
    }
}

static void set_up(void)
{
    struct event_config *config = event_config_new();
    uint64_t ones[GUEST_PAGES / 8];

    /* For a few descriptors that come and go, poll() takes half the calls. */
    if (!config || event_config_avoid_method(config, "epoll"))
        abort();
    base = event_base_new_with_config(config);
    event_config_free(config);
    conf_defaults(&conf);
    free(conf.report_dir);
    conf.report_dir = NULL;
    log_set_level(LOG_LEVEL_ERROR);
    free(conf.listen);
    conf.listen = strdup("127.0.0.1:0");
    conf.tls = TLS_OFF; /* msg.c is not here, and nobody connects */
    peer_listen(base, &conf);
    memset(ones, 0xff, sizeof(ones));
    memset(guest, 0x5a, sizeof(guest));
    memfd = memfd_create("memory", MFD_CLOEXEC);
    bitmap = memfd_create("bitmap", MFD_CLOEXEC);
    if (!base || ftruncate(memfd, sizeof(guest)) ||
        write(bitmap, ones, sizeof(ones)) != sizeof(ones))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    unsigned begin = input_byte(&input);
    struct handoff_hello hello = {.ram_bytes = htobe64(sizeof(guest)),
                                  .name = "fuzz",
                                  .address = "127.0.0.1"};
    char error[ERROR_TEXT_BYTES];

    if (!base)
        set_up();
    hello.role = htonl(begin & 1 ? HANDOFF_SOURCE : HANDOFF_DESTINATION);
    qemu = handoff_new(base, -1, getpid());
    if (session_new(base, &conf, qemu, &hello, error))
        abort();
    if (begin & 1)
        begin_source(begin >> 1 & 7);
    else
        begin_destination(begin >> 1 & 7, session_first());
    for (unsigned i = 0; i < MAX_STEPS && input.size; i++)
        step(&input);
    qemu_leaves();
    for (unsigned i = 0; i < MAX_PEERS; i++)
        memory_msg_hang_up(i);
    while (strangers)
        stranger_free(strangers);
    session_close_all();
    REQUIRE(!session_count());
    return 0;
}
