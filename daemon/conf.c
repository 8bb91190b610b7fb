/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "conf.h"

#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "thread.h"
#include "version.h"

#define CONF_DEFAULT_FILE "/etc/remapd/remapd.conf"

enum option_type { OPTION_TEXT, OPTION_NUMBER, OPTION_CHOICE };

static const char *const engine_names[] = {"copy",  "continue", "move",
                                           "remap", "auto",     NULL};
static const char *const level_names[] = {"error", "warning", "info", "debug",
                                          NULL};

static const char *const sandbox_names[] = {"off", "log", "on", "kill", NULL};

static const char *const tls_names[] = {"off", "on", "auto", NULL};

_Static_assert(ARRAY_SIZE(tls_names) == TLS_MODES + 1,
               "a name for every mode, and the end");
_Static_assert(ARRAY_SIZE(sandbox_names) == SANDBOX_MODES + 1,
               "a name for every mode, and the end");
_Static_assert(ARRAY_SIZE(engine_names) == PLACE_ENGINES + 2,
               "a name for every engine, auto, and the end");

/* Each option: in the file `name = value`, on the command line --name=value. */
static const struct option_row {
    const char *name, *argument, *value, *help;
    enum option_type type;
    size_t offset;
    unsigned min, max;
    const char *const *choices; /* the index is the value */
} options[] = {
    {"handoff", "PATH", "/run/remapd/qemu.sock", "socket for QEMU", OPTION_TEXT,
     offsetof(struct conf, handoff), 0, 0, NULL},
    {"control", "PATH", "/run/remapd/control.sock", "socket for remapctl",
     OPTION_TEXT, offsetof(struct conf, control), 0, 0, NULL},
    {"group", "NAME", NULL, "group that may use both sockets", OPTION_TEXT,
     offsetof(struct conf, group), 0, 0, NULL},
    {"listen", "ADDRESS:PORT", "[::]:16520", "where other remapd connect",
     OPTION_TEXT, offsetof(struct conf, listen), 0, 0, NULL},
    {"advertise", "ADDRESS", NULL,
     "address that other remapd are told; default: the one at which QEMU "
     "received the migration",
     OPTION_TEXT, offsetof(struct conf, advertise), 0, 0, NULL},
    {"report-dir", "DIR", NULL, "write a JSON report of each migration there",
     OPTION_TEXT, offsetof(struct conf, report_dir), 0, 0, NULL},
    {"metrics", "ADDRESS:PORT", NULL,
     "answer HTTP there with figures for Prometheus; nobody is asked who he is",
     OPTION_TEXT, offsetof(struct conf, metrics), 0, 0, NULL},
    {"engine", "NAME", "auto",
     "how pages are placed: auto, copy, continue, move, remap", OPTION_CHOICE,
     offsetof(struct conf, engine), 0, 0, engine_names},
    {"log-level", "LEVEL", "info", "error, warning, info or debug",
     OPTION_CHOICE, offsetof(struct conf, log_level), 0, 0, level_names},
    {"sandbox", "MODE", "on",
     "system calls that are not needed: off: allowed, log: allowed and logged, "
     "on: they fail, kill: they end remapd",
     OPTION_CHOICE, offsetof(struct conf, sandbox), 0, 0, sandbox_names},
    {"tls", "MODE", "auto",
     "encrypt connections with other remapd: on, off, auto: but on loopback",
     OPTION_CHOICE, offsetof(struct conf, tls), 0, 0, tls_names},
    {"tls-ca", "FILE", "/etc/pki/CA/cacert.pem",
     "certificates that other hosts' are signed by", OPTION_TEXT,
     offsetof(struct conf, tls_ca), 0, 0, NULL},
    {"tls-server-cert", "FILE", "/etc/pki/libvirt/servercert.pem",
     "this host's certificate as a destination", OPTION_TEXT,
     offsetof(struct conf, tls_server_cert), 0, 0, NULL},
    {"tls-server-key", "FILE", "/etc/pki/libvirt/private/serverkey.pem",
     "its key", OPTION_TEXT, offsetof(struct conf, tls_server_key), 0, 0, NULL},
    {"tls-client-cert", "FILE", "/etc/pki/libvirt/clientcert.pem",
     "this host's certificate as a source", OPTION_TEXT,
     offsetof(struct conf, tls_client_cert), 0, 0, NULL},
    {"tls-client-key", "FILE", "/etc/pki/libvirt/private/clientkey.pem",
     "its key", OPTION_TEXT, offsetof(struct conf, tls_client_key), 0, 0, NULL},
    {"tls-allow", "NAMES", NULL,
     "sources whose certificates have one of these names, with commas between; "
     "default: all that tls-ca vouches for",
     OPTION_TEXT, offsetof(struct conf, tls_allow), 0, 0, NULL},
    {"tcp-congestion", "NAME", NULL,
     "TCP's congestion control; default: cubic, or reno where that is not "
     "allowed",
     OPTION_TEXT, offsetof(struct conf, tcp_congestion), 0, 0, NULL},
    {"urgent-channels", "N", "1", "connections for pages waited for",
     OPTION_NUMBER, offsetof(struct conf, urgent_channels), 1, 4, NULL},
    {"bulk-channels", "N", "1", "connections for all other pages",
     OPTION_NUMBER, offsetof(struct conf, bulk_channels), 1, 8, NULL},
    {"peer-timeout", "SECONDS", "10", "silence after which a peer is lost",
     OPTION_NUMBER, offsetof(struct conf, peer_timeout_s), 2, 3600, NULL},
    {"reconnect-interval", "SECONDS", "5",
     "longest time between two tries to reach a lost peer", OPTION_NUMBER,
     offsetof(struct conf, reconnect_interval_s), 1, 3600, NULL},
    {"max-sessions", "N", "256", "migrations at once", OPTION_NUMBER,
     offsetof(struct conf, max_sessions), 1, 4096, NULL},
};

_Static_assert(4 + 8 <= THREAD_MAX_CHANNELS, "all channels of a session fit");

/* The options in force; and where they come from, to be read again. */
static struct conf loaded;
static struct {
    const char *values[ARRAY_SIZE(options)], *file;
} given;

static void option_choices(const char *const *choices, char *text, size_t size)
{
    *text = 0;
    for (; *choices; choices++) {
        strncat(text, *choices, size - strlen(text) - 1);
        if (choices[1])
            strncat(text, ", ", size - strlen(text) - 1);
    }
}

static int option_set(struct conf *conf, const struct option_row *row,
                      const char *value, char *error)
{
    void *field = (char *)conf + row->offset;
    char choices[128], *end;
    unsigned long number;

    switch (row->type) {
    case OPTION_TEXT:
        if (row->value && (!value || !*value)) {
            snprintf(error, ERROR_TEXT_BYTES, "%s: must not be empty",
                     row->name);
            return -EINVAL;
        }
        free(*(char **)field);
        *(char **)field = value && *value ? strdup(value) : NULL;
        return 0;
    case OPTION_NUMBER:
        errno = 0;
        number = strtoul(value, &end, 10);
        if (errno || end == value || *end || *value == '-' ||
            number < row->min || number > row->max) {
            snprintf(error, ERROR_TEXT_BYTES,
                     "%s: %.60s is not a number "
                     "from %u to %u",
                     row->name, value, row->min, row->max);
            return -EINVAL;
        }
        *(unsigned *)field = (unsigned)number;
        return 0;
    case OPTION_CHOICE:
        for (unsigned i = 0; row->choices[i]; i++) {
            if (!strcmp(row->choices[i], value)) {
                *(unsigned *)field = i;
                return 0;
            }
        }
        option_choices(row->choices, choices, sizeof(choices));
        snprintf(error, ERROR_TEXT_BYTES, "%s: %.60s is not one of: %s",
                 row->name, value, choices);
        return -EINVAL;
    }
    return -EINVAL;
}

int conf_set(struct conf *conf, const char *name, const char *value,
             char *error)
{
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        if (!strcmp(options[i].name, name))
            return option_set(conf, &options[i], value, error);
    }
    snprintf(error, ERROR_TEXT_BYTES, "%.60s: there is no such option", name);
    return -ENOENT;
}

void conf_defaults(struct conf *conf)
{
    char error[ERROR_TEXT_BYTES];

    *conf = (struct conf){0};
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        option_set(conf, &options[i], options[i].value, error);
}

static void print_help(void)
{
    puts("Usage: remapd [OPTION]...\n"
         "Carry the pages of QEMU's post-copy migrations, from and to this "
         "host.\n");
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        char flag[64];

        snprintf(flag, sizeof(flag), "--%s=%s", options[i].name,
                 options[i].argument);
        printf("  %-26s %s", flag, options[i].help);
        if (options[i].value)
            printf(" [%s]", options[i].value);
        putchar('\n');
    }
    puts("  --config=FILE              read options from FILE, `name = value` "
         "lines [" CONF_DEFAULT_FILE "]\n"
         "  --probe                    print what this kernel offers, and "
         "exit\n"
         "  --help                     print this text\n"
         "  --version                  print the version");
}

struct file_reader {
    struct conf *conf;
    char error[ERROR_TEXT_BYTES];
};

static int conf_file_entry(void *opaque, const char *section, const char *name,
                           const char *value)
{
    struct file_reader *reader = opaque;

    if (*section) {
        snprintf(reader->error, sizeof(reader->error),
                 "section [%.60s]: there are no sections", section);
        return 0;
    }
    return conf_set(reader->conf, name, value, reader->error) == 0;
}

static int conf_read_file(struct conf *conf, const char *path, bool optional,
                          char *error)
{
    struct file_reader reader = {.conf = conf};
    int line;

    if (optional && access(path, F_OK))
        return 0;
    line = ini_parse(path, conf_file_entry, &reader);
    if (line < 0)
        snprintf(error, ERROR_TEXT_BYTES, "%.100s: %s", path, strerror(errno));
    if (line > 0)
        snprintf(error, ERROR_TEXT_BYTES, "%.80s, line %d: %.150s", path, line,
                 reader.error[0] ? reader.error : "not `name = value`");
    return line ? -EINVAL : 0;
}

/* The file, and on top of it the command line. */
static int conf_read(struct conf *conf, char *error)
{
    char text[ERROR_TEXT_BYTES - 2];
    int ret;

    conf_defaults(conf);
    ret = conf_read_file(conf, given.file ? given.file : CONF_DEFAULT_FILE,
                         !given.file, error);
    for (unsigned i = 0; i < ARRAY_SIZE(options) && !ret; i++) {
        if (!given.values[i] ||
            !option_set(conf, &options[i], given.values[i], text))
            continue;
        snprintf(error, ERROR_TEXT_BYTES, "--%s", text);
        ret = -EINVAL;
    }
    return ret;
}

static void conf_clear(struct conf *conf)
{
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        if (options[i].type == OPTION_TEXT)
            free(*(char **)((char *)conf + options[i].offset));
    }
}

static bool option_same(const struct option_row *row, const struct conf *a,
                        const struct conf *b)
{
    const void *x = (const char *)a + row->offset;
    const void *y = (const char *)b + row->offset;
    const char *s, *t;

    if (row->type != OPTION_TEXT)
        return *(const unsigned *)x == *(const unsigned *)y;
    s = *(char *const *)x;
    t = *(char *const *)y;
    return s && t ? !strcmp(s, t) : s == t;
}

void conf_reload(void)
{
    char error[ERROR_TEXT_BYTES];
    struct conf fresh;

    if (conf_read(&fresh, error)) {
        log_error("not reloaded: %s", error);
        conf_clear(&fresh);
        return;
    }
    loaded.log_level = fresh.log_level;
    log_set_level(loaded.log_level);
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        if (!option_same(&options[i], &loaded, &fresh))
            log_warning("the change of %s waits until remapd starts again",
                        options[i].name);
    }
    conf_clear(&fresh);
    log_info("reloaded: log-level is %s", level_names[loaded.log_level]);
}

const struct conf *conf_load(int argc, char **argv)
{
    enum { HELP = 1000, VERSION, PROBE, CONFIG };
    struct option long_options[ARRAY_SIZE(options) + 5] = {0};
    char error[ERROR_TEXT_BYTES];
    unsigned count = 0;
    bool probe = false;
    int choice;

    for (; count < ARRAY_SIZE(options); count++)
        long_options[count] = (struct option){
            options[count].name, required_argument, NULL, (int)count};
    long_options[count++] = (struct option){"help", no_argument, NULL, HELP};
    long_options[count++] =
        (struct option){"version", no_argument, NULL, VERSION};
    long_options[count++] = (struct option){"probe", no_argument, NULL, PROBE};
    long_options[count] =
        (struct option){"config", required_argument, NULL, CONFIG};
    while ((choice = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (choice) {
        case HELP:
            print_help();
            exit(0);
        case VERSION:
            puts("remapd " REMAPD_VERSION);
            exit(0);
        case PROBE:
            probe = true;
            break;
        case CONFIG:
            given.file = optarg;
            break;
        case '?':
            die("see remapd --help");
        default:
            given.values[choice] = optarg;
        }
    }
    if (optind < argc)
        die("%s: what is that? See remapd --help", argv[optind]);
    if (conf_read(&loaded, error))
        die("%s", error);
    loaded.probe = probe;
    log_set_level(loaded.log_level);
    return &loaded;
}
