/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"
#include "congestion.h"
#include "control.h"
#include "handoff.h"
#include "local.h"
#include "log.h"
#include "metrics.h"
#include "peer.h"
#include "probe.h"
#include "sandbox.h"
#include "service.h"
#include "session.h"
#include "tls.h"
#include "version.h"

#define HANDOFF_MODE 0660

static struct event_base *base;
static const struct conf *conf;

/* ---- a QEMU until it has said hello ---- */

static void newcomer_message(void *owner, enum handoff_type type,
                             const void *body, int *fd)
{
    struct handoff *handoff = owner;
    const struct handoff_hello *hello = body;
    const char *wrong = NULL;

    char error[ERROR_TEXT_BYTES];

    if (type != HANDOFF_HELLO && type != HANDOFF_RETURN)
        wrong = "the first message must be HELLO or RETURN";
    else if (ntohl(hello->role) != HANDOFF_SOURCE &&
             ntohl(hello->role) != HANDOFF_DESTINATION)
        wrong = "HELLO with an unknown role";
    else if (!memchr(hello->name, 0, sizeof(hello->name)) ||
             !memchr(hello->address, 0, sizeof(hello->address)))
        wrong = "HELLO with text that does not end";
    else if (session_count() >= conf->max_sessions)
        wrong = "as many sessions as max-sessions allows are running";
    else if (type == HANDOFF_RETURN
                 ? session_return(base, conf, handoff, hello, *fd, error)
                 : session_new(base, conf, handoff, hello, error))
        wrong = error;
    if (wrong) {
        log_warning("QEMU %d: refused: %s", handoff_pid(handoff), wrong);
        handoff_send_text(handoff, HANDOFF_ERROR, wrong);
        handoff_free(handoff);
    }
}

static void newcomer_closed(void *owner, const char *reason)
{
    struct handoff *handoff = owner;

    /* So leaves who only wants to know whether somebody listens: the hook. */
    if (!strcmp(reason, HANDOFF_LEFT))
        log_debug("process %d came and went", handoff_pid(handoff));
    else
        log_warning("QEMU %d: no HELLO: %s", handoff_pid(handoff), reason);
    handoff_free(handoff);
}

static const struct handoff_handlers newcomer_handlers = {
    .message = newcomer_message,
    .closed = newcomer_closed,
};

static void newcomer_accepted(struct handoff *handoff)
{
    handoff_adopt(handoff, &newcomer_handlers, handoff);
}

/* ---- the program ---- */

static int load_certificates(char *error)
{
    const struct tls_files files = {
        .ca = conf->tls_ca,
        .server_cert = conf->tls_server_cert,
        .server_key = conf->tls_server_key,
        .client_cert = conf->tls_client_cert,
        .client_key = conf->tls_client_key,
        .allow = conf->tls_allow,
    };

    return conf->tls == TLS_OFF ? 0 : tls_load(&files, error);
}

/* Certificates may come later than remapd does, but not where they are asked
 * for. @wanted: peers connect at more than loopback */
static void first_certificates(bool wanted)
{
    char error[ERROR_TEXT_BYTES];

    if (!load_certificates(error))
        return;
    if (conf->tls == TLS_ON)
        die("tls is on: %s", error);
    if (wanted)
        log_warning("%s: no other host's connection is taken; install "
                    "certificates and reload, or set tls = off",
                    error);
}

static void choose_congestion(void)
{
    int ret = congestion_choose(conf->tcp_congestion);

    if (ret == -ENOENT)
        die("tcp-congestion: the kernel has none called %s",
            conf->tcp_congestion);
    if (ret)
        die("tcp-congestion: %s: %s; see net.ipv4."
            "tcp_allowed_congestion_control",
            conf->tcp_congestion, strerror(-ret));
}

/* By now with the rights that are left: root's are few. */
static void check_report_dir(void)
{
    if (conf->report_dir && access(conf->report_dir, W_OK | X_OK))
        log_warning("no report can be written to %s: %s", conf->report_dir,
                    strerror(errno));
}

static void on_signal(evutil_socket_t number, short what, void *opaque)
{
    (void)what;
    (void)opaque;
    log_info("signal %d: ending", (int)number);
    event_base_loopbreak(base);
}

static void on_hangup(evutil_socket_t number, short what, void *opaque)
{
    char error[ERROR_TEXT_BYTES];

    (void)number;
    (void)what;
    (void)opaque;
    service_reloading();
    conf_reload();
    if (load_certificates(error))
        log_error("certificates stay as they were: %s", error);
    else if (conf->tls != TLS_OFF)
        log_info("certificates have been read");
    service_reloaded();
}

/* Each migration takes some twenty descriptors. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    struct event *term, *interrupt, *hangup;
    struct handoff_listener *handoff;
    struct local_listener *control;

    conf = conf_load(argc, argv);
    if (conf->probe) {
        probe_print();
        return 0;
    }
    probe_check();
    signal(SIGPIPE, SIG_IGN);
    umask(0077);
    raise_file_limit();
    base = event_base_new();
    if (!base)
        die("event_base_new failed");
    first_certificates(peer_listen(base, conf));
    control = control_listen(base, conf);
    handoff = handoff_listen(base, conf->handoff, HANDOFF_MODE, conf->group,
                             newcomer_accepted);
    metrics_listen(base, conf->metrics);
    term = evsignal_new(base, SIGTERM, on_signal, NULL);
    interrupt = evsignal_new(base, SIGINT, on_signal, NULL);
    hangup = evsignal_new(base, SIGHUP, on_hangup, NULL);
    if (!term || !interrupt || !hangup || event_add(term, NULL) ||
        event_add(interrupt, NULL) || event_add(hangup, NULL))
        die("signals: no memory");
    umask(0027); /* from here on there are reports, for the group, too */
    sandbox_enter(conf->sandbox);
    choose_congestion();
    check_report_dir();
    log_info("version %s ready: QEMU at %s, peers at %s, remapctl at %s",
             REMAPD_VERSION, conf->handoff, peer_address(), conf->control);
    service_ready(base);
    event_base_dispatch(base);
    service_stopping();
    session_close_all();
    peer_unlisten();
    metrics_unlisten();
    handoff_unlisten(handoff);
    local_unlisten(control);
    event_free(term);
    event_free(interrupt);
    event_free(hangup);
    event_base_free(base);
    tls_unload();
    return 0;
}
