/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define KEEP_ALIVE_NS    1000000000ull
#define LEFT_CHUNK_PAGES (8u * (32u << 10)) /* of one Left message */

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

bool wire_reads_at_once(int fd)
{
    return fcntl(fd, F_GET_SEALS) >= 0;
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
        session_refuse(session, "QEMU handed over a block without memory");
        return;
    }
    if (block.fd >= 0 && !wire_reads_at_once(block.fd)) {
        session_refuse(session, "QEMU handed over a block whose descriptor is "
                                "no memfd, shmem or hugetlbfs file");
        return;
    }
    memcpy(block.idstr, message->idstr, sizeof(block.idstr));
    if (block_table_add(table, &block, error)) {
        session_refuse(session, error);
        return;
    }
    if (block.fd >= 0)
        *fd = -1;
}

/* Pages of one chunk of a block, @words of them; as few bytes as say it. */
static void send_left(struct session *session, const struct block *block,
                      uint64_t first, const uint64_t *words, size_t count,
                      uint64_t pages)
{
    Remapd__Left left = REMAPD__LEFT__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;
    uint64_t set = 0;

    for (; count && !words[count - 1]; count--)
        ;
    for (; count && !*words; count--, words++, first += 64, pages -= 64)
        ;
    if (!count)
        return;
    pages = MIN(pages, count * 64);
    for (size_t i = 0; i < count; i++)
        set += (uint64_t)__builtin_popcountll(words[i]);
    left.block = block->index;
    left.first_page = first;
    if (set == pages)
        left.run_pages = pages;
    else
        left.pages = (ProtobufCBinaryData){count * 8, (uint8_t *)words};
    message.body_case = REMAPD__MESSAGE__BODY_LEFT;
    message.left = &left;
    session_send(session, &message);
}

void wire_send_left(struct session *session, const struct pageset *set)
{
    static uint64_t words[LEFT_CHUNK_PAGES / 64];
    Remapd__LeftEnd body = REMAPD__LEFT_END__INIT;
    Remapd__Message message = REMAPD__MESSAGE__INIT;

    if (!session->control)
        return;
    /* A bit a page at most, and around it what is small beside that. */
    msg_conn_allow(session->control, pageset_bytes(set) / 8 * 9);
    for (uint32_t i = 0; i < session->table.count; i++) {
        const struct block *block = &session->table.blocks[i];
        uint64_t pages = block->length / PAGE_BYTES;

        for (uint64_t first = 0; first < pages; first += LEFT_CHUNK_PAGES) {
            uint64_t chunk = MIN(pages - first, LEFT_CHUNK_PAGES);
            size_t count = (size_t)align_up(chunk, 64) / 64;

            /* A block's pages begin with a word of the set. */
            for (size_t j = 0; j < count; j++)
                words[j] =
                    htole64(set->words[(block->first_page + first) / 64 + j]);
            send_left(session, block, first, words, count, chunk);
        }
    }
    body.pages = pageset_count(set);
    message.body_case = REMAPD__MESSAGE__BODY_LEFT_END;
    message.left_end = &body;
    session_send(session, &message);
}

int wire_take_left(struct session *session, const Remapd__Left *left,
                   void (*leave)(struct session *session, uint64_t first,
                                 uint64_t pages))
{
    const struct block *block = left->block < session->table.count
                                    ? &session->table.blocks[left->block]
                                    : NULL;
    uint64_t pages = left->run_pages ? left->run_pages : left->pages.len * 8;
    uint64_t room = block ? block->length / PAGE_BYTES : 0;

    if (left->first_page % 64 || left->first_page >= room ||
        left->pages.len % 8 || (left->run_pages && left->pages.len) ||
        pages > align_up(room - left->first_page, 64) ||
        (left->run_pages && pages > room - left->first_page)) {
        session_lost(session, "what the peer says is left lies outside of its "
                              "block");
        return -EPROTO;
    }
    if (left->run_pages) {
        leave(session, block->first_page + left->first_page, pages);
        return 0;
    }
    for (size_t i = 0; i < left->pages.len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            uint64_t page = left->first_page + i * 8 + bit;

            if (!(left->pages.data[i] >> bit & 1))
                continue;
            if (page >= room) {
                session_lost(session, "a page that is left lies behind the "
                                      "end of its block");
                return -EPROTO;
            }
            leave(session, block->first_page + page, 1);
        }
    }
    return 0;
}

void wire_take_common(struct session *session, const Remapd__Message *message,
                      const char *unexpected)
{
    switch (message->body_case) {
    case REMAPD__MESSAGE__BODY_PAUSE:
        session_broken(session, message->pause->reason);
        break;
    case REMAPD__MESSAGE__BODY_ABORT:
        if (message->abort->left && session->state < SESSION_ACTIVE)
            session_leave(session, message->abort->reason);
        else
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
        session_broken(session, reason);
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
        session->state == SESSION_COMPLETE)
        return;
    if (now - session->heard_ns > session_patience_ns(session)) {
        char reason[80];

        snprintf(reason, sizeof(reason), "the peer has been silent for %u s",
                 session->conf->peer_timeout_s);
        session_broken(session, reason);
        return;
    }
    if (session->state < SESSION_JOINED ||
        now - session->spoke_ns < KEEP_ALIVE_NS)
        return;
    message.body_case = REMAPD__MESSAGE__BODY_KEEP_ALIVE;
    message.keep_alive = &body;
    session_send(session, &message);
}
