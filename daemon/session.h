/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sessions: one migration each, as one of its two hosts sees it.
 *
 * A session belongs to the main thread. It ties a QEMU (handoff), the other
 * host's remapd (control) and the page-carrying threads (sender or receiver)
 * together. session_source.c and session_destination.c hold what each role
 * does with each message; this room holds what both share.
 */
#ifndef REMAPD_SESSION_H
#define REMAPD_SESSION_H

#include <event2/event.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "block.h"
#include "conf.h"
#include "handoff.h"
#include "keep.h"
#include "msg.h"
#include "place.h"
#include "receiver.h"
#include "sender.h"
#include "series.h"
#include "stats.h"

#define SESSION_ID_BYTES     16
#define SESSION_SECRET_BYTES 32

enum session_state {
    SESSION_WAITING,  /* destination: for a source with the ticket; source: for
                         the ticket */
    SESSION_JOINING,  /* source: connecting */
    SESSION_JOINED,   /* both remapd know each other */
    SESSION_PREPARED, /* both have agreed on the block table */
    SESSION_ACTIVE,   /* source: the guest has left; destination: faults are
                         served */
    SESSION_COMPLETE, /* every page is placed */
    SESSION_PAUSED,   /* the peer is lost after the switchover, or, for the
                         destination, perhaps after it */
    SESSION_FAILED,   /* over, not complete */
    SESSION_CLOSED,   /* over: the migration never came to us, or is done */
    SESSION_STATES,
};

struct session {
    struct session *next;
    struct event_base *base;
    const struct conf *conf;
    enum handoff_role role;
    enum session_state state;
    uint8_t id[SESSION_ID_BYTES];
    char id_text[2 * SESSION_ID_BYTES + 1];
    char name[64]; /* of the guest */
    char error[ERROR_TEXT_BYTES];
    char hindrance[ERROR_TEXT_BYTES]; /* paused: why the last try to come back
                                         did not succeed */
    bool loss_said;                   /* paused because its QEMU has left */

    struct handoff *handoff;
    struct msg_conn *control;
    const char *cipher;    /* of the last control; NULL: in the clear */
    struct event *tick;    /* once a second, ten times once active */
    struct event *sampler; /* while active, for the series */
    struct event *notify;  /* written by page threads */
    int notify_fd;
    bool closing; /* only waiting for its threads */
    uint64_t created_ns, active_ns, complete_ns, heard_ns, spoke_ns;
    uint64_t paused_ns;      /* since when, while paused */
    uint64_t past_paused_ns; /* in all pauses that are over */
    unsigned pauses;
    bool returned; /* another remapd began it, and QEMU came to this one */

    struct block_table table; /* of both: names and sizes are the same */
    struct stats stats;
    struct series series;
    uint64_t total_pages; /* that were still to be sent at the switchover */
    uint64_t left_pages;
    uint64_t wire_bytes; /* kept when sender or receiver are gone */
    uint64_t map_bytes;
    uint64_t resent_pages; /* source: sent, but asked for after a pause */
    struct keep keep;      /* what outlives this remapd */

    union {
        struct session_source *source;
        struct session_destination *destination;
    };
};

/** session_new() - for a QEMU that has said hello.
 * Return: 0, or -errno with @error; the caller frees @handoff then. */
int session_new(struct event_base *base, const struct conf *conf,
                struct handoff *handoff, const struct handoff_hello *hello,
                char *error);

/**
 * session_return() - for a QEMU that comes back with what another remapd, or
 * this one earlier, has given it to keep.
 * @fd: that; stays the caller's
 * Return: 0, or -errno with @error; the caller frees @handoff then.
 */
int session_return(struct event_base *base, const struct conf *conf,
                   struct handoff *handoff, const struct handoff_hello *hello,
                   int fd, char *error);

/** session_find() - by the @id_bytes bytes at @id, or NULL. */
struct session *session_find(const uint8_t *id, size_t id_bytes);

/** session_find_text() - by the start of its id as text, if only one has it. */
struct session *session_find_text(const char *text);

/** session_first() - the list of all sessions, by ->next. */
struct session *session_first(void);

/** session_count() - how many there are, with those whose threads have not yet
 * come to their end. */
unsigned session_count(void);

/** session_welcome() - answer QEMU's hello, and give it what it is to keep. */
void session_welcome(struct session *session, struct handoff_welcome *welcome);

/** session_set_id() - the id under which both hosts know the session. */
void session_set_id(struct session *session, const uint8_t *id);

/** session_set_state() - and say so in the log. */
void session_set_state(struct session *session, enum session_state state);

/** session_log() - a line about @session, see log_about(). Main thread. */
void session_log(const struct session *session, enum log_level level,
                 enum log_event event, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/** session_heartbeat() - call the role's tick every @ms from now on. */
void session_heartbeat(struct session *session, unsigned ms);

/** session_patience_ns() - how long the other remapd may be silent. */
uint64_t session_patience_ns(const struct session *session);

/** session_send() - to the other remapd, if it is connected. */
void session_send(struct session *session, const Remapd__Message *message);

/**
 * session_fail() - end the session before the switchover: QEMU and the peer
 * are told @reason. The session is freed; do not touch it afterwards.
 */
void session_fail(struct session *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/**
 * session_leave() - end the session before the switchover, as a QEMU has left:
 * pre-copy has moved everything, or it has given up and says why itself. Like
 * session_fail() otherwise.
 */
void session_leave(struct session *session, const char *reason);

/**
 * session_pause() - after the switchover: pages stop moving, nothing is lost.
 * QEMU and the peer are told @reason; the session stays, and the source tries
 * to come back.
 */
void session_pause(struct session *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** session_lost() - session_fail() or session_pause(), by what can be lost;
 * paused already: what there is of a new connection is dropped. */
void session_lost(struct session *session, const char *reason);

/** session_no_channel() - session_lost() where msg_conn_detach() has returned
 * @ret for one of the @peer's. */
void session_no_channel(struct session *session, const char *peer, int ret);

/** session_refuse() - session_lost() where QEMU is to blame. Paused already, it
 * ends: QEMU comes back, as to another remapd, and hands over all of it anew.
 */
void session_refuse(struct session *session, const char *reason);

/** session_broken() - session_lost() where only the connection is gone, or the
 * peer waits: a destination that may be past the switchover pauses. */
void session_broken(struct session *session, const char *reason);

/** session_resume() - after a pause pages move again, or, in PREPARED, may
 * soon; QEMU is told. */
void session_resume(struct session *session, enum session_state state);

/**
 * session_qemu_left() - its hand-off is closed, for @reason: the session ends,
 * and what that loses is said, also where something else had paused it before.
 * The session is freed; do not touch it afterwards.
 */
void session_qemu_left(struct session *session, const char *reason);

/** session_close() - write the report and end the session. It is freed once its
 * threads have come to their end; do not touch it afterwards. */
void session_close(struct session *session);

/** session_role_name() - "source" or "destination"; session_state_name() - as
 * the log has it. */
const char *session_role_name(enum handoff_role role);
const char *session_state_name(enum session_state state);

/** session_cancel() - an operator's wish. Return: 0, or -EBUSY if the guest
 * has left its source already. */
int session_cancel(struct session *session);

/** session_json() - all there is to know, as a new object. */
struct json_object *session_json(const struct session *session);

/** session_report() - the document of a session that has ended, among the last
 * ones, whose id begins with @id: that of the destination if both are here. It
 * has the member "samples" (see series_json()). Return: a new reference, or
 * NULL if there is none, or sessions of more than one id are. */
struct json_object *session_report(const char *id);

/** session_ended_json() - a new array of the last ones that ended, without
 * samples, oldest first. */
struct json_object *session_ended_json(void);

/** session_close_all() - at the end of the program. */
void session_close_all(void);

/* The roles' own parts. */
extern const struct session_ops {
    struct handoff_handlers handoff;
    struct msg_handlers control;
    void (*init)(struct session *session, const struct handoff_hello *hello);
    void (*tick)(struct session *session);
    void (*plane)(struct session *session);   /* page threads have news */
    void (*figures)(struct session *session); /* bring those up to date */
    /* Paused: have nothing left of the connection, and the threads that serve
     * it end; again for each try to come back that fails. */
    void (*disconnect)(struct session *session);
    void (*stop)(struct session *session); /* have the page threads end */
    bool (*ended)(const struct session *session); /* have they? */
    /* What it means that QEMU has left after the agreement. */
    const char *(*qemu_left)(const struct session *session);
    void (*fini)(struct session *session);
    enum place_engine (*engine)(const struct session *session,
                                uint32_t block); /* or PLACE_ENGINES */
} session_source_ops, session_destination_ops;

/** session_ops() - those of @session's role. */
const struct session_ops *session_ops_of(const struct session *session);

/**
 * session_join() - a source asks to join as @hello says.
 * @conn: adopted on success
 * Return: 0, or -EACCES with @error; the caller frees @conn then.
 */
int session_join(struct session *session, struct msg_conn *conn,
                 const Remapd__Hello *hello, char *error);

#endif
