/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options: from the configuration file, then from the command line. */
#ifndef REMAPD_CONF_H
#define REMAPD_CONF_H

#include <stdbool.h>

#include "log.h"
#include "place.h"
#include "sandbox.h"
#include "tls.h"

struct conf {
    char *handoff;            /* path of the socket for QEMU */
    char *control;            /* path of the socket for remapctl */
    char *group;              /* of both sockets; NULL: the daemon's */
    char *listen;             /* ADDRESS:PORT for other remapd */
    char *advertise;          /* address put into tickets; NULL: found out */
    char *report_dir;         /* NULL: no reports */
    char *metrics;            /* ADDRESS:PORT for Prometheus; NULL: none */
    enum place_engine engine; /* PLACE_ENGINES: the best for each block */
    enum log_level log_level;
    enum sandbox_mode sandbox;
    enum tls_mode tls;
    char *tls_ca, *tls_server_cert, *tls_server_key;
    char *tls_client_cert, *tls_client_key;
    char *tls_allow;      /* names, with commas between; NULL: all */
    char *tcp_congestion; /* NULL: CUBIC or Reno */
    unsigned urgent_channels, bulk_channels;
    unsigned peer_timeout_s;
    unsigned reconnect_interval_s;
    unsigned max_sessions;
    bool probe; /* print what the kernel offers, and exit */
};

/**
 * conf_load() - read the command line and the configuration file it names, or
 * the default one where that exists, and set the log's level. Prints and exits
 * for --help, --version; ends the program with a clear line for what is wrong.
 * Return: the options, valid until the program ends.
 */
const struct conf *conf_load(int argc, char **argv);

/** conf_reload() - read the same again and take over what can change while
 * migrations go on, which is log-level. Logs what it did, what has to wait for
 * a new start, and what is wrong; then all stays as it was. Main thread. */
void conf_reload(void);

/** conf_set() - set one option as the file or the command line would.
 * @error: ERROR_TEXT_BYTES, what is allowed instead
 * Return: 0, -ENOENT for an unknown name, -EINVAL for a refused value. */
int conf_set(struct conf *conf, const char *name, const char *value,
             char *error);

/** conf_defaults() - every option at its default. */
void conf_defaults(struct conf *conf);

#endif
