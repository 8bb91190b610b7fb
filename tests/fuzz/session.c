/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A whole session, of either role, between a QEMU and a peer that say anything
 * at any time: the real handoff, peer, msg, wire and session rooms on socket
 * pairs. Input: a byte with the role and how far a well-behaved beginning
 * goes, then steps. Only the page threads of a destination do not run: no
 * userfaultfd is handed over.
 */
#include "../../daemon/handoff.c"
#include "../../daemon/peer.c"

#include "fuzz.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>

#define MAX_STEPS 24
#define MAX_PEERS 16
#define MAX_PAGES 4096 /* of a block: memory is not what is tested */
#define GUEST_PAGES 16

static struct event_base *base;
static struct conf conf;
static int memfd, bitmap, null;
static uint8_t guest[GUEST_PAGES * PAGE_BYTES]
    __attribute__((aligned(PAGE_BYTES)));

static int qemu;             /* our end of the hand-off */
static int peers[MAX_PEERS]; /* our ends; the first is the control connection */
static unsigned peer_ends;

static void run_loop(void)
{
    event_base_loop(base, EVLOOP_NONBLOCK);
    event_base_loop(base, EVLOOP_NONBLOCK);
}

static int make_pair(int type, int *ours)
{
    int pair[2];

    if (socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        abort();
    *ours = pair[1];
    return pair[0];
}

/* Instead of the C library's, for libevent: nobody is connected to, but us. */
int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int end;

    (void)address;
    (void)length;
    if (peer_ends == MAX_PEERS) {
        errno = ECONNREFUSED;
        return -1;
    }
    end = make_pair(SOCK_STREAM, &peers[peer_ends++]);
    dup2(end, fd);
    close(end);
    return 0;
}

/* Nobody is waited for in real time. */
int nanosleep(const struct timespec *time, struct timespec *rest)
{
    (void)time;
    (void)rest;
    return sched_yield();
}

/* A source connects to this destination. */
static void arrive(void)
{
    if (peer_ends < MAX_PEERS)
        peer_accepted(listener, make_pair(SOCK_STREAM, &peers[peer_ends++]),
                      NULL, 0, NULL);
}

static void say_bytes(unsigned peer, const uint8_t *bytes, size_t size)
{
    uint32_t length = htonl((uint32_t)size);

    if (peer >= peer_ends || peers[peer] < 0)
        return;
    send(peers[peer], &length, sizeof(length), MSG_NOSIGNAL);
    send(peers[peer], bytes, size, MSG_NOSIGNAL);
    run_loop();
}

static void say(unsigned peer, const Remapd__Message *message)
{
    uint8_t bytes[2048];

    REQUIRE(remapd__message__get_packed_size(message) <= sizeof(bytes));
    say_bytes(peer, bytes, remapd__message__pack(message, bytes));
}

#define SAY(peer, FIELD, field, ...)                                           \
    do {                                                                       \
        Remapd__Message say_message = REMAPD__MESSAGE__INIT;                   \
        __VA_ARGS__;                                                           \
        say_message.body_case = REMAPD__MESSAGE__BODY_##FIELD;                 \
        say_message.field = &body;                                             \
        say(peer, &say_message);                                               \
    } while (0)

static void hand(enum handoff_type type, const void *body, size_t bytes, int fd)
{
    struct handoff_header header = {htonl(HANDOFF_MAGIC),
                                    htons(HANDOFF_VERSION), htons(type)};
    struct iovec iov[] = {{&header, sizeof(header)}, {(void *)(uintptr_t)body, bytes}};
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
    sendmsg(qemu, &msg, MSG_NOSIGNAL);
    run_loop();
}

static void hand_block(void)
{
    struct handoff_block block = {
        .hva = htobe64((uintptr_t)guest),
        .length = htobe64(sizeof(guest)),
        .page_size = htobe64(PAGE_BYTES),
        .idstr = "ram",
    };

    hand(HANDOFF_BLOCK, &block, sizeof(block), -1);
}

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
        hand(HANDOFF_TICKET, &message, sizeof(message), -1);
    if (steps > 1)
        SAY(0, WELCOME, welcome, Remapd__Welcome body = REMAPD__WELCOME__INIT;
            body.version = WIRE_VERSION; body.urgent = body.bulk = 1;
            body.channel_key = body.resume_key = ticket.secret);
    for (unsigned i = 1; i < 3 && steps > 2; i++)
        SAY(i, WELCOME, welcome, Remapd__Welcome body = REMAPD__WELCOME__INIT;
            body.version = WIRE_VERSION);
    if (steps > 3) {
        hand_block();
        hand(HANDOFF_PREPARE, &prepare, sizeof(prepare), -1);
    }
    if (steps > 4)
        SAY(0, PREPARED, prepared,
            Remapd__Prepared body = REMAPD__PREPARED__INIT;
            body.n_granule = 1; body.granule = &granule);
    if (steps > 5)
        hand(HANDOFF_SWITCHOVER, &prepare, sizeof(prepare), bitmap);
    if (steps > 6)
        SAY(0, START, start, Remapd__Start body = REMAPD__START__INIT);
}

/* The newest message that remapd has sent to @peer, or NULL. */
static Remapd__Message *heard(unsigned peer)
{
    uint8_t bytes[4096];
    ssize_t got = recv(peers[peer], bytes, sizeof(bytes), MSG_DONTWAIT);

    return got < 4 ? NULL
                   : remapd__message__unpack(NULL, (size_t)got - 4, bytes + 4);
}

static void begin_destination(unsigned steps, const struct session *session)
{
    Remapd__Message *welcome = NULL;
    ProtobufCBinaryData secret = {0}, id = {0};
    Remapd__Ticket *ticket = NULL;
    struct {
        struct handoff_header header;
        struct handoff_ticket body;
    } __attribute__((packed)) packet;

    while (recv(qemu, &packet, sizeof(packet), MSG_DONTWAIT) > 0) {
        if (ntohs(packet.header.type) == HANDOFF_TICKET)
            ticket = remapd__ticket__unpack(NULL, ntohs(packet.body.bytes),
                                            packet.body.ticket);
    }
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
        welcome = heard(0);
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
        HANDOFF_FAULTER, HANDOFF_REGION};
    const int fds[] = {-1, memfd, bitmap, null};
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
    hand(type, body, bytes, fds[choice >> 4 & 3]);
}

static void step_peer(struct input *input, unsigned peer)
{
    size_t said = (size_t)input_byte(input) * 4, size = MIN(said, input->size);
    Remapd__Message *message = remapd__message__unpack(NULL, size, input->data);
    bool large = message && message->body_case == REMAPD__MESSAGE__BODY_BLOCK &&
                 message->block->length > MAX_PAGES * PAGE_BYTES;

    if (message)
        remapd__message__free_unpacked(message, NULL);
    if (!large)
        say_bytes(peer, input->data, size);
    input->data += size;
    input->size -= size;
}

static void hang_up(unsigned end)
{
    if (end == MAX_PEERS && qemu >= 0) {
        close(qemu);
        qemu = -1;
    } else if (end < peer_ends && peers[end] >= 0) {
        close(peers[end]);
        peers[end] = -1;
    }
    run_loop();
}

static void step(struct input *input)
{
    unsigned what = input_byte(input), peer = what >> 3;

    switch (what % 8) {
    case 0:
    case 1:
        step_qemu(input);
        break;
    case 2:
        arrive();
        step_peer(input, peer_ends - 1);
        break;
    case 3:
        hang_up(peer % (MAX_PEERS + 1));
        break;
    case 4:
        step_peer(input, peer % MAX_PEERS);
        break;
    default:
        step_peer(input, 0);
    }
}

static void set_up(void)
{
    uint64_t ones[GUEST_PAGES / 8];

    base = event_base_new();
    conf_defaults(&conf);
    free(conf.report_dir);
    conf.report_dir = NULL;
    log_set_level(LOG_LEVEL_ERROR);
    peer_listen(base, "127.0.0.1:0");
    memset(ones, 0xff, sizeof(ones));
    memset(guest, 0x5a, sizeof(guest));
    memfd = memfd_create("memory", MFD_CLOEXEC);
    bitmap = memfd_create("bitmap", MFD_CLOEXEC);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (!base || null < 0 || ftruncate(memfd, sizeof(guest)) ||
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
    struct handoff *handoff;

    if (!base)
        set_up();
    hello.role = htonl(begin & 1 ? HANDOFF_SOURCE : HANDOFF_DESTINATION);
    peer_ends = 0;
    handoff = handoff_new(base, make_pair(SOCK_SEQPACKET, &qemu), getpid());
    if (session_new(base, &conf, handoff, &hello, error))
        abort();
    if (begin & 1)
        begin_source(begin >> 1 & 7);
    else
        begin_destination(begin >> 1 & 7, session_first());
    for (unsigned i = 0; i < MAX_STEPS && input.size; i++)
        step(&input);
    hang_up(MAX_PEERS);
    for (unsigned i = 0; i < peer_ends; i++)
        hang_up(i);
    while (strangers)
        stranger_free(strangers);
    while (session_count()) { /* their threads come to an end */
        if (session_first())
            session_close_all();
        run_loop();
    }
    return 0;
}
