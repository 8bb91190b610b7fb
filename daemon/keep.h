/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a session must not lose when its daemon dies: a memfd that QEMU holds
 * for it, and gives to whichever remapd it finds next.
 *
 * It is written while the session goes on, so at any moment it holds the truth.
 * QEMU can neither shrink nor grow it, and what QEMU writes into it harms its
 * own guest only: the record is read once, and checked; of the maps every
 * content is fine. Main thread, but for the maps.
 */
#ifndef REMAPD_KEEP_H
#define REMAPD_KEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tls.h"

#define KEEP_MAGIC         0x524d504bu /* "RMPK" */
#define KEEP_VERSION       2
#define KEEP_MAX_ADDRESSES 8
#define KEEP_ADDRESS_BYTES 46

enum keep_map { KEEP_MISSING, KEEP_RECEIVED, KEEP_MAPS }; /* as in pagemap.h */

/* The start of the memfd, in host order; behind it, at keep_map_words(), the
 * maps. Another layout has another version. */
struct keep_record {
    uint32_t magic, version;
    uint32_t role;      /* enum handoff_role */
    uint32_t port;      /* source: of the destination */
    uint64_t max_pages; /* that each map has room for */
    uint8_t session[16];
    uint8_t resume_key[32];
    uint64_t attempt;     /* the last at coming back, made or let in */
    uint64_t total_pages; /* destination: that were left at the switchover */
    uint64_t table;       /* block_table_mark(): the maps are of no other */
    uint32_t joined;      /* resume_key holds */
    uint32_t left_known;  /* destination: the maps hold */
    uint32_t addresses;   /* source: how many of these, tried in order */
    char address[KEEP_MAX_ADDRESSES][KEEP_ADDRESS_BYTES];
    char tls_name[TLS_NAME_BYTES]; /* source: of the destination, or "" */
};

struct keep {
    int fd;
    size_t bytes;
    void *memory;
    struct keep_record record; /* keep_save() writes it */
};

/** keep_init() - a new memfd for a guest of @ram_bytes.
 * Return: 0 or -errno. */
int keep_init(struct keep *keep, uint32_t role, uint64_t ram_bytes);

/**
 * keep_load() - use the one that QEMU gives back.
 * @fd: stays the caller's
 * @role: what its record must say
 * @error: ERROR_TEXT_BYTES, says what is wrong with it
 * Return: 0 or -EINVAL.
 */
int keep_load(struct keep *keep, int fd, uint32_t role, char *error);

/** keep_save() - write the record. A daemon that is killed meanwhile has
 * written one of two 8-byte fields or both. */
void keep_save(struct keep *keep);

/** keep_map_words() - the words of a map; NULL if @pages are more than it has
 * room for. */
uint64_t *keep_map_words(const struct keep *keep, enum keep_map map,
                         uint64_t pages);

/** keep_fini() - unmap, close; fine if there is none. */
void keep_fini(struct keep *keep);

#endif
