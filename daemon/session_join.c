/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ticket that a destination gives out, and who may join by it. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "peer.h"
#include "session_destination.h"
#include "wire.h"

#define TICKET_LIFE_NS (60 * 1000000000ull)

void join_init(struct join *join)
{
    for (unsigned i = 0; i < THREAD_MAX_CHANNELS; i++)
        join->links[i].fd = -1;
    if (getrandom(join->secret, sizeof(join->secret), 0) < 0)
        abort();
}

/* ---- the ticket ---- */

static size_t host_addresses(char (*text)[INET6_ADDRSTRLEN], size_t max)
{
    struct ifaddrs *all, *i;
    size_t count = 0;

    if (getifaddrs(&all))
        return 0;
    for (i = all; i && count < max; i = i->ifa_next) {
        int family = i->ifa_addr ? i->ifa_addr->sa_family : 0;
        socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in)
                                             : sizeof(struct sockaddr_in6);

        if ((family != AF_INET && family != AF_INET6) ||
            (i->ifa_flags & IFF_LOOPBACK) || !(i->ifa_flags & IFF_UP))
            continue;
        if (!getnameinfo(i->ifa_addr, length, text[count], INET6_ADDRSTRLEN,
                         NULL, 0, NI_NUMERICHOST) &&
            !strchr(text[count], '%')) /* link-local: not for others */
            count++;
    }
    freeifaddrs(all);
    return count;
}

void join_send_ticket(struct session *session, const char *qemu_address)
{
    struct join *join = &session->destination->join;
    char text[KEEP_MAX_ADDRESSES][INET6_ADDRSTRLEN];
    char *addresses[KEEP_MAX_ADDRESSES];
    Remapd__Ticket ticket = REMAPD__TICKET__INIT;
    struct handoff_ticket message = {0};
    struct sockaddr_storage ss;
    socklen_t length;
    size_t bytes;

    if (session->conf->advertise) {
        snprintf(text[0], sizeof(text[0]), "%s", session->conf->advertise);
        ticket.n_address = 1;
    } else if (!wire_address(qemu_address, 1, &ss, &length)) {
        snprintf(text[0], sizeof(text[0]), "%.45s", qemu_address);
        ticket.n_address = 1;
    } else {
        ticket.n_address = host_addresses(text, KEEP_MAX_ADDRESSES);
    }
    for (size_t i = 0; i < ticket.n_address; i++)
        addresses[i] = text[i];
    ticket.version = WIRE_VERSION;
    ticket.session = (ProtobufCBinaryData){sizeof(session->id), session->id};
    ticket.secret = (ProtobufCBinaryData){sizeof(join->secret), join->secret};
    ticket.address = addresses;
    ticket.port = peer_port();
    ticket.tls_name = (char *)(uintptr_t)tls_name();
    while ((bytes = remapd__ticket__get_packed_size(&ticket)) >
           sizeof(message.ticket))
        ticket.n_address--;
    remapd__ticket__pack(&ticket, message.ticket);
    message.bytes = htobe16((uint16_t)bytes);
    handoff_send(session->handoff, HANDOFF_TICKET, &message, sizeof(message));
    explicit_bzero(&message, sizeof(message));
}

/* ---- the source joins ---- */

/* In constant time: how long it takes says nothing about the secret. */
static bool secret_matches(const uint8_t *secret,
                           const ProtobufCBinaryData *theirs)
{
    uint8_t difference = 0;

    if (theirs->len != SESSION_SECRET_BYTES)
        return false;
    for (unsigned i = 0; i < SESSION_SECRET_BYTES; i++)
        difference |= secret[i] ^ theirs->data[i];
    return !difference;
}

/* May a source that comes back, as @hello says, have the session? */
static int check_return(struct session *session, const Remapd__Hello *hello,
                        char *error)
{
    struct keep_record *record = &session->keep.record;

    if (!record->joined ||
        !secret_matches(record->resume_key, &hello->secret)) {
        snprintf(error, ERROR_TEXT_BYTES, "the resume key is wrong");
        return -EACCES;
    }
    if (hello->attempt <= record->attempt) {
        snprintf(error, ERROR_TEXT_BYTES,
                 "the source has come back since then: try %llu, the last was "
                 "%llu",
                 (unsigned long long)hello->attempt,
                 (unsigned long long)record->attempt);
        return -EACCES;
    }
    if (session->state < SESSION_PREPARED ||
        (session->returned && session->destination->uffd < 0)) {
        snprintf(error, ERROR_TEXT_BYTES, "there is nothing to come back to");
        return -EACCES;
    }
    record->attempt = hello->attempt;
    keep_save(&session->keep);
    return 0;
}

static int check_ticket(struct session *session, const Remapd__Hello *hello,
                        char *error)
{
    struct join *join = &session->destination->join;
    struct keep_record *record = &session->keep.record;

    if (session->state != SESSION_WAITING) {
        snprintf(error, ERROR_TEXT_BYTES, "the ticket has been used");
        return -EACCES;
    }
    if (now_ns() - session->created_ns > TICKET_LIFE_NS) {
        snprintf(error, ERROR_TEXT_BYTES, "the ticket is too old");
        return -EACCES;
    }
    if (!secret_matches(join->secret, &hello->secret)) {
        snprintf(error, ERROR_TEXT_BYTES, "the ticket is wrong");
        return -EACCES;
    }
    explicit_bzero(join->secret, sizeof(join->secret));
    if (getrandom(record->resume_key, sizeof(record->resume_key), 0) < 0)
        abort();
    record->joined = true;
    keep_save(&session->keep);
    return 0;
}

static int join_control(struct session *session, struct msg_conn *conn,
                        const Remapd__Hello *hello, char *error)
{
    struct join *join = &session->destination->join;
    struct keep_record *record = &session->keep.record;
    bool back = hello->attempt;
    int ret = back ? check_return(session, hello, error)
                   : check_ticket(session, hello, error);
    Remapd__Welcome welcome = REMAPD__WELCOME__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    if (ret)
        return ret;
    if (back && session->state == SESSION_PAUSED)
        session_lost(session, "the source comes back once more");
    else if (back)
        session_broken(session, "the source has lost the connection");
    msg_conn_free(session->control);
    if (getrandom(join->key, sizeof(join->key), 0) < 0)
        abort();
    msg_conn_adopt(conn, &session_destination_ops.control, session);
    session->control = conn;
    session->cipher = msg_conn_cipher(conn);
    session->heard_ns = now_ns();
    welcome.version = WIRE_VERSION;
    welcome.channel_key = (ProtobufCBinaryData){sizeof(join->key), join->key};
    welcome.urgent = session->conf->urgent_channels;
    welcome.bulk = session->conf->bulk_channels;
    if (!back)
        welcome.resume_key = (ProtobufCBinaryData){sizeof(record->resume_key),
                                                   record->resume_key};
    message.body_case = REMAPD__MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    session_send(session, &message);
    if (session->state == SESSION_COMPLETE)
        destination_send_complete(session);
    else if (!back)
        session_set_state(session, SESSION_JOINED);
    return 0;
}

static int join_channel(struct session *session, struct msg_conn *conn,
                        const Remapd__Hello *hello, char *error)
{
    struct join *join = &session->destination->join;
    bool urgent = hello->kind == REMAPD__HELLO__KIND__URGENT;
    unsigned kinds =
        urgent ? session->conf->urgent_channels : session->conf->bulk_channels;
    unsigned slot =
        hello->index + (urgent ? 0 : session->conf->urgent_channels);
    Remapd__Welcome welcome = REMAPD__WELCOME__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;
    int ret;

    if ((session->state != SESSION_JOINED &&
         (session->state != SESSION_PAUSED || !session->control ||
          session->destination->resuming)) ||
        !secret_matches(join->key, &hello->secret)) {
        snprintf(error, ERROR_TEXT_BYTES, "the channel has no right to join");
        return -EACCES;
    }
    if (hello->index >= kinds || join->links[slot].fd >= 0) {
        snprintf(error, ERROR_TEXT_BYTES, "there is no free %s channel %u",
                 urgent ? "urgent" : "bulk", hello->index);
        return -EACCES;
    }
    welcome.version = WIRE_VERSION;
    message.body_case = REMAPD__MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    msg_conn_send(conn, &message);
    ret = msg_conn_detach(conn, &join->links[slot]);
    if (ret) {
        session_no_channel(session, "source", ret);
        return 0;
    }
    channel_bound_silence(join->links[slot].fd, session->conf->peer_timeout_s);
    join->open++;
    return 0;
}

int session_join(struct session *session, struct msg_conn *conn,
                 const Remapd__Hello *hello, char *error)
{
    if (hello->kind == REMAPD__HELLO__KIND__CONTROL)
        return join_control(session, conn, hello, error);
    return join_channel(session, conn, hello, error);
}

/* ---- the channels that have joined ---- */

bool join_whole(const struct session *session)
{
    return session->destination->join.open == destination_channels(session);
}

void join_give_channels(struct session *session, struct receiver *receiver)
{
    struct join *join = &session->destination->join;

    for (unsigned i = 0; i < destination_channels(session); i++) {
        bool urgent = i < session->conf->urgent_channels;

        receiver_add_channel(receiver, join->links[i],
                             urgent ? CHANNEL_URGENT : CHANNEL_BULK,
                             urgent ? i : i - session->conf->urgent_channels);
        join->links[i] = (struct tls_link){-1, NULL};
    }
    join->open = 0;
}

void join_close_channels(struct join *join)
{
    for (unsigned i = 0; i < THREAD_MAX_CHANNELS; i++)
        tls_link_close(&join->links[i]);
    join->open = 0;
}
