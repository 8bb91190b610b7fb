/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the destination's session share; nobody else's. Main
 * thread. */
#ifndef REMAPD_SESSION_DESTINATION_H
#define REMAPD_SESSION_DESTINATION_H

#include "session.h"
#include "thread.h"

/* The ticket, and what has joined by it. */
struct join {
    uint8_t secret[SESSION_SECRET_BYTES];       /* of the ticket; once */
    uint8_t key[SESSION_SECRET_BYTES];          /* of the channels; each once */
    unsigned open;                              /* channels that have joined: */
    struct tls_link links[THREAD_MAX_CHANNELS]; /* urgent, then bulk */
};

struct session_destination {
    struct join join;
    struct placer_pool placers;    /* lent to the receiver */
    struct block_table qemu_table; /* what QEMU hands over; see ATTACH */
    enum place_engine *engines;    /* by block index */
    struct receiver *receiver;     /* once prepared */
    struct faulters *faulters;     /* once attached */
    struct {                       /* FAULTER, until its last REGION is here */
        struct handoff_faulter message;
        int uffd;
        struct faulter_region *regions;
        uint32_t count;
    } arriving;
    int uffd;
    uint64_t uffd_features;
    uint64_t prepare_ns; /* when the source asked */
    uint64_t huge_pages; /* that come whole, at most, and about */
    bool left_known, detaching;
    bool serving;  /* faults are read */
    bool resuming; /* the source waits for Resumed */
};

/** destination_channels() - how many of both kinds a source must open. */
static inline unsigned destination_channels(const struct session *session)
{
    return session->conf->urgent_channels + session->conf->bulk_channels;
}

/** destination_send_complete() - the source may let its memory go. */
void destination_send_complete(struct session *session);

/** join_init() - make the ticket's secret. */
void join_init(struct join *join);

/** join_send_ticket() - give QEMU the ticket.
 * @qemu_address: numeric, at which the migration came in, or empty */
void join_send_ticket(struct session *session, const char *qemu_address);

/** join_whole() - have all channels joined? */
bool join_whole(const struct session *session);

/** join_give_channels() - to @receiver, whose they are from here on. */
void join_give_channels(struct session *session, struct receiver *receiver);

/** join_close_channels() - those that @join has still. */
void join_close_channels(struct join *join);

#endif
