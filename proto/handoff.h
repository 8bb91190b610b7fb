/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hand-off: what QEMU and the remapd of its host say to each other.
 *
 * Transport: a UNIX SOCK_SEQPACKET socket, one message a packet, each packet a
 * struct handoff_header followed by the body that its type names, at most
 * HANDOFF_MAX_BYTES. Integers are big-endian, structs packed, strings
 * NUL-terminated within their fixed field. A packet carries at most one file
 * descriptor (SCM_RIGHTS); the type says which. proto/protocol.md has the
 * order of messages. The QEMU series carries this file unchanged as
 * migration/pager-handoff.h; `make check` compares the two.
 */
#ifndef REMAPD_HANDOFF_H
#define REMAPD_HANDOFF_H

#include <stdint.h>

#define HANDOFF_MAGIC 0x524d5048u /* "RMPH" */
#define HANDOFF_VERSION 3
#define HANDOFF_MAX_BYTES 4096
#define HANDOFF_TICKET_MAX_BYTES 384
#define HANDOFF_TEXT_MAX_BYTES 1024
#define HANDOFF_MAX_BLOCKS 1024
#define HANDOFF_NO_BLOCK UINT32_MAX
#define HANDOFF_MAX_FAULTERS 64
#define HANDOFF_MAX_REGIONS 512 /* of one faulter */

enum handoff_type {
    /* QEMU to remapd */
    HANDOFF_HELLO = 1,      /* struct handoff_hello: the first message */
    HANDOFF_TICKET = 2,     /* struct handoff_ticket: from the source's QEMU,
                               and to the destination's */
    HANDOFF_BLOCK = 3,      /* struct handoff_block, fd: memfd if FD is set */
    HANDOFF_PREPARE = 4,    /* struct handoff_prepare: source, vCPUs running */
    HANDOFF_SWITCHOVER = 5, /* struct handoff_prepare, fd: memfd of bitmaps */
    HANDOFF_ATTACH = 6,     /* struct handoff_attach, fd: the userfaultfd */
    HANDOFF_DETACH = 7,     /* no body: destination, all is loaded */
    HANDOFF_PLACER = 8,     /* struct handoff_placer, fd: a placer's socket;
                               destination, after WELCOME, up to as many as
                               that asked for. See placer.h */
    HANDOFF_FAULTER = 9,    /* struct handoff_faulter, fd: its userfaultfd, if
                               it has regions; destination, after ATTACHED */
    HANDOFF_REGION = 10,    /* struct handoff_region: after FAULTER, as many as
                               that said */
    HANDOFF_RETURN = 11,    /* struct handoff_hello, fd: that of KEEP: the first
                               message instead of HELLO, of a migration whose
                               remapd is gone */
    HANDOFF_SPLICER = 12,   /* no body, fd: a splicer's socket; source, before
                               PREPARE, or after RETURN before SWITCHOVER, up to
                               as many as WELCOME asked for. See splicer.h */

    /* remapd to QEMU */
    HANDOFF_WELCOME = 32,   /* struct handoff_welcome: answers HELLO */
    HANDOFF_JOINED = 33,    /* no body: answers TICKET, the peer has agreed */
    HANDOFF_PREPARED = 34,  /* no body: answers PREPARE, both ends are ready */
    HANDOFF_ATTACHED = 35,  /* no body: answers ATTACH, faults are served */
    HANDOFF_PROGRESS = 36,  /* struct handoff_progress: source, ~10 a second */
    HANDOFF_COMPLETE = 37,  /* struct handoff_progress: every page is placed */
    HANDOFF_DETACHED = 38,  /* no body: answers DETACH, the uffd is closed */
    HANDOFF_PAUSED = 39,    /* text: the page plane waits for its peer */
    HANDOFF_ERROR = 40,     /* text: the session has ended */
    HANDOFF_RESUMED = 41,   /* no body: after PAUSED, pages move again */
    HANDOFF_KEEP = 42,      /* no body, fd: after WELCOME; QEMU keeps it for
                               RETURN and does not look inside */
};

enum handoff_role {
    HANDOFF_SOURCE = 1,
    HANDOFF_DESTINATION = 2,
};

enum handoff_block_flags {
    HANDOFF_BLOCK_SHARED = 1, /* mapped MAP_SHARED; the fd comes with it */
    HANDOFF_BLOCK_FD = 2,     /* this packet carries the block's fd */
};

struct handoff_header {
    uint32_t magic;
    uint16_t version;
    uint16_t type; /* enum handoff_type */
} __attribute__((packed));

struct handoff_hello {
    uint32_t role;      /* enum handoff_role */
    uint32_t pid;       /* for messages only; rights come from SO_PEERCRED */
    uint64_t ram_bytes; /* all migratable RAM, for sizing the staging */
    char name[64];      /* the guest's name, may be empty */
    char address[64];   /* destination: numeric local address of the migration
                           connection, empty if it has none */
} __attribute__((packed));

struct handoff_welcome {
    uint8_t session[16];
    uint32_t hands; /* how many placers (destination) or splicers (source) remapd
                       can use; 0 of none */
    uint32_t slots; /* of PLACER_SLOT_BYTES in the staging of each placer */
} __attribute__((packed));

enum handoff_placer_flags {
    HANDOFF_PLACER_TAKES = 1, /* MOVE may name pages that the guest has: nobody
                                 writes to one without its being pinned */
};

struct handoff_placer {
    uint64_t staging; /* hva of the first slot */
    uint32_t slots;   /* 1 or more, at most those of WELCOME */
    uint32_t flags;   /* enum handoff_placer_flags */
} __attribute__((packed));

struct handoff_ticket {
    uint16_t bytes; /* 1..HANDOFF_TICKET_MAX_BYTES */
    uint8_t ticket[HANDOFF_TICKET_MAX_BYTES]; /* opaque to QEMU */
} __attribute__((packed));

struct handoff_block {
    uint32_t index;     /* 0, 1, 2, … in the order of handing over */
    uint32_t flags;     /* enum handoff_block_flags */
    uint64_t hva;       /* in QEMU's address space */
    uint64_t length;    /* bytes, a multiple of page_size */
    uint64_t page_size; /* bytes, of the memory behind the block */
    uint64_t fd_offset; /* bytes into the fd at which the block starts */
    char idstr[256];
} __attribute__((packed));

struct handoff_prepare {
    uint32_t blocks; /* how many BLOCK messages came before */
} __attribute__((packed));

/*
 * SWITCHOVER's memfd holds, block after block in the order of their index, one
 * bit a 4 KiB page (bit set: still to be sent), as native unsigned longs;
 * every block starts at a multiple of 8 bytes.
 */

struct handoff_attach {
    uint32_t blocks;
    uint64_t uffd_features; /* as UFFDIO_API granted them */
} __attribute__((packed));

/* Another process that faults on the guest's shared memory: a vhost-user back
 * end. Says all there is to say of it, in place of what was said before. */
struct handoff_faulter {
    uint32_t index;   /* 1 to HANDOFF_MAX_FAULTERS - 1; 0 is QEMU itself */
    uint32_t regions; /* 0: it is gone, or accesses nothing */
    uint32_t pid;     /* its process, 0 if that is not known: to have huge pages
                         mapped there */
    char name[64];    /* always the same for one index */
} __attribute__((packed));

/* Where it has mapped a part of a block; for missing and minor faults. */
struct handoff_region {
    uint32_t faulter;
    uint32_t block;  /* its index; HANDOFF_NO_BLOCK: added since ATTACH, here
                        alone */
    uint64_t offset; /* bytes into the block; as length, whole pages of it */
    uint64_t length;
    uint64_t page_size;
    uint64_t base; /* in the faulter's address space */
} __attribute__((packed));

struct handoff_progress {
    uint64_t pages_left;    /* not yet placed at the destination */
    uint64_t bytes_on_wire; /* sent by this host so far */
    uint64_t faults;        /* requests answered so far */
} __attribute__((packed));

_Static_assert(sizeof(struct handoff_header) == 8, "handoff_header");
_Static_assert(sizeof(struct handoff_hello) == 144, "handoff_hello");
_Static_assert(sizeof(struct handoff_welcome) == 24, "handoff_welcome");
_Static_assert(sizeof(struct handoff_placer) == 16, "handoff_placer");
_Static_assert(sizeof(struct handoff_ticket) == 386, "handoff_ticket");
_Static_assert(sizeof(struct handoff_block) == 296, "handoff_block");
_Static_assert(sizeof(struct handoff_prepare) == 4, "handoff_prepare");
_Static_assert(sizeof(struct handoff_attach) == 12, "handoff_attach");
_Static_assert(sizeof(struct handoff_faulter) == 76, "handoff_faulter");
_Static_assert(sizeof(struct handoff_region) == 40, "handoff_region");
_Static_assert(sizeof(struct handoff_progress) == 24, "handoff_progress");

#endif
