/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define KEEP_ALIVE_NS 1000000000ull

int wire_address(const char *host, unsigned port, struct sockaddr_storage *ss,
                 socklen_t *length)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

    if (port > UINT16_MAX)
        return -EINVAL;
    *ss = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)port);
        *length = sizeof(*in);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        *length = sizeof(*in6);
        return 0;
    }
    return -EINVAL;
}

int wire_parse(const char *address, struct sockaddr_storage *ss,
               socklen_t *length)
{
    char host[INET6_ADDRSTRLEN + 2], *end;
    const char *colon = strrchr(address, ':');
    size_t bytes = colon ? (size_t)(colon - address) : sizeof(host);
    unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 0;

    if (bytes >= sizeof(host) || end == colon + 1 || *end)
        return -EINVAL;
    memcpy(host, address, bytes);
    host[bytes] = 0;
    if (*host == '[' && host[bytes - 1] == ']') {
        host[bytes - 1] = 0;
        memmove(host, host + 1, bytes - 1);
    }
    return wire_address(host, (unsigned)MIN(number, UINT_MAX), ss, length);
}

void wire_send_block(struct session *session, const struct block *block)
{
    Remapd__Block body = REMAPD__BLOCK__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    body.index = block->index;
    body.idstr = (char *)(uintptr_t)block->idstr;
    body.length = block->length;
    body.page_size = block->page_size;
    body.shared = block->shared;
    message.body_case = REMAPD__MESSAGE__BODY_BLOCK;
    message.block = &body;
    session_send(session, &message);
}

void wire_take_block(struct session *session, struct block_table *table,
                     const struct handoff_block *message, int *fd)
{
    uint32_t flags = be32toh(message->flags);
    struct block block = {
        .index = be32toh(message->index),
        .hva = be64toh(message->hva),
        .length = be64toh(message->length),
        .page_size = be64toh(message->page_size),
        .fd_offset = be64toh(message->fd_offset),
        .shared = flags & HANDOFF_BLOCK_SHARED,
        .fd = flags & HANDOFF_BLOCK_FD ? *fd : -1,
    };
    char error[ERROR_TEXT_BYTES];

    if (!block.hva || (flags & HANDOFF_BLOCK_FD && block.fd < 0)) {
        session_lost(session, "QEMU handed over a block without memory");
        return;
    }
    /* Shared memory only: reading another file may block without end. */
    if (block.fd >= 0 && fcntl(block.fd, F_GET_SEALS) < 0) {
        session_lost(session, "QEMU handed over a block whose descriptor is "
                              "no memfd, shmem or hugetlbfs file");
        return;
    }
    memcpy(block.idstr, message->idstr, sizeof(block.idstr));
    if (block_table_add(table, &block, error)) {
        session_lost(session, error);
        return;
    }
    if (block.fd >= 0)
        *fd = -1;
}

void wire_take_common(struct session *session, const Remapd__Message *message,
                      const char *unexpected)
{
    switch (message->body_case) {
    case REMAPD__MESSAGE__BODY_PAUSE:
        session_lost(session, message->pause->reason);
        break;
    case REMAPD__MESSAGE__BODY_ABORT:
        session_lost(session, message->abort->reason);
        break;
    case REMAPD__MESSAGE__BODY_KEEP_ALIVE:
        break;
    default:
        session_lost(session, unexpected);
    }
}

void wire_closed(struct session *session, const char *reason)
{
    if (session->state != SESSION_COMPLETE) {
        session_lost(session, reason);
        return;
    }
    msg_conn_free(session->control);
    session->control = NULL;
}

void wire_keep_alive(struct session *session)
{
    Remapd__KeepAlive body = REMAPD__KEEP_ALIVE__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;
    uint64_t now = now_ns();

    if (!session->control || session->state < SESSION_JOINING ||
        session->state > SESSION_ACTIVE)
        return;
    if (now - session->heard_ns >
        session->conf->peer_timeout_s * 1000000000ull) {
        char reason[80];

        snprintf(reason, sizeof(reason), "the peer has been silent for %u s",
                 session->conf->peer_timeout_s);
        session_lost(session, reason);
        return;
    }
    if (session->state < SESSION_JOINED ||
        now - session->spoke_ns < KEEP_ALIVE_NS)
        return;
    message.body_case = REMAPD__MESSAGE__BODY_KEEP_ALIVE;
    message.keep_alive = &body;
    session_send(session, &message);
}
