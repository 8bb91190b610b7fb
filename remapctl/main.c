/* SPDX-License-Identifier: GPL-2.0-or-later */
/* remapctl: the operator's command. */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../daemon/version.h"
#include "ask.h"
#include "html.h"
#include "show.h"
#include "watch.h"

#define DEFAULT_SOCKET "/run/remapd/control.sock"

static bool html;
static struct watch_options options = {
    .socket_path = DEFAULT_SOCKET, .id = "", .interval = 0.5};

static enum exit_code command_ask(const char *request,
                                  void (*show)(const struct json_object *))
{
    struct json_object *answer;
    enum exit_code code = ask(options.socket_path, request, &answer);

    if (code)
        return code;
    if (options.json)
        show_json(answer, true);
    else
        show(answer);
    json_object_put(answer);
    return EXIT_DONE;
}

static enum exit_code command_status(const char *argument)
{
    (void)argument;
    return command_ask("status", show_status);
}

static enum exit_code command_list(const char *argument)
{
    (void)argument;
    return command_ask("list", show_list);
}

static enum exit_code command_watch(const char *argument)
{
    options.id = argument ? argument : "";
    return watch(&options);
}

static bool is_id(const char *text)
{
    return *text && strlen(text) <= 32 &&
           strspn(text, "0123456789abcdef") == strlen(text);
}

static void show_cancelled(const struct json_object *answer)
{
    (void)answer;
    puts("cancelled");
}

static enum exit_code command_cancel(const char *argument)
{
    char request[128];

    if (!is_id(argument)) {
        complain("%s: an id is up to 32 of 0-9a-f; see remapctl list",
                 argument);
        return EXIT_USAGE;
    }
    snprintf(request, sizeof(request), "cancel %s", argument);
    return command_ask(request, show_cancelled);
}

/* From a file, or from the daemon, which remembers the last ones. */
static enum exit_code get_report(const char *argument,
                                 struct json_object **report)
{
    struct json_object *answer;
    enum exit_code code;
    char request[64];

    if (is_id(argument) && access(argument, F_OK)) {
        snprintf(request, sizeof(request), "report %s", argument);
        code = ask(options.socket_path, request, &answer);
        if (code)
            return code;
        *report = json_object_get(json_object_object_get(answer, "report"));
        json_object_put(answer);
        return EXIT_DONE;
    }
    *report = json_object_from_file(argument);
    if (*report)
        return EXIT_DONE;
    complain("%s", json_util_get_last_err());
    return EXIT_REFUSED;
}

static enum exit_code command_report(const char *argument)
{
    struct json_object *report;
    enum exit_code code = get_report(argument, &report);

    if (code)
        return code;
    if (!*show_text(report, "session") || !*show_text(report, "role")) {
        complain("%s: not a migration's report", argument);
        code = EXIT_REFUSED;
    } else if (html) {
        html_report(report);
    } else if (options.json) {
        show_json(report, true);
    } else {
        show_report(report);
    }
    json_object_put(report);
    return code;
}

static const struct command {
    const char *name, *argument, *help;
    int min_arguments, max_arguments;
    enum exit_code (*run)(const char *argument);
} commands[] = {
    {"status", "", "what the daemon is and where it listens", 0, 0,
     command_status},
    {"list", "", "the migrations that are going on", 0, 0, command_list},
    {"watch", "[ID]", "how they go on, until they have ended", 0, 1,
     command_watch},
    {"cancel", "ID", "end a migration whose guest still runs at its source", 1,
     1, command_cancel},
    {"report", "ID|FILE", "print a finished migration's report", 1, 1,
     command_report},
};

#define COMMANDS (sizeof(commands) / sizeof(*commands))

static void print_help(void)
{
    puts("Usage: remapctl [OPTION]... COMMAND\n"
         "Ask the remapd of this host about its migrations.\n");
    for (unsigned i = 0; i < COMMANDS; i++) {
        char text[32];

        snprintf(text, sizeof(text), "%s %s", commands[i].name,
                 commands[i].argument);
        printf("  %-20s %s\n", text, commands[i].help);
    }
    puts("\n  --socket=PATH        the daemon's control socket "
         "[" DEFAULT_SOCKET "]\n"
         "  --json               print JSON\n"
         "  --interval=SECONDS   watch: time between two looks, 0.1 to 3600 "
         "[0.5]\n"
         "  --wait               watch: wait until a migration begins\n"
         "  --html               report: print a page for a browser\n"
         "  --help               print this text\n"
         "  --version            print the version\n\n"
         "ID is a session's id or enough of its start. Exit status: 0 done, "
         "1 refused, or\nended while paused, 2 wrong usage, 3 no daemon.");
}

static void set_interval(const char *text)
{
    char *end;

    options.interval = strtod(text, &end);
    if (*end || end == text ||
        !(options.interval >= 0.1 && options.interval <= 3600)) {
        complain("--interval: %s is not a number from 0.1 to 3600", text);
        exit(EXIT_USAGE);
    }
}

static void parse(int argc, char **argv)
{
    enum { HELP = 1, VERSION, SOCKET, JSON, INTERVAL, WAIT, HTML };
    static const struct option longs[] = {
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {"socket", required_argument, NULL, SOCKET},
        {"json", no_argument, NULL, JSON},
        {"interval", required_argument, NULL, INTERVAL},
        {"wait", no_argument, NULL, WAIT},
        {"html", no_argument, NULL, HTML},
        {0},
    };
    int choice;

    while ((choice = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (choice) {
        case HELP:
            print_help();
            exit(EXIT_DONE);
        case VERSION:
            puts("remapctl " REMAPD_VERSION);
            exit(EXIT_DONE);
        case SOCKET:
            options.socket_path = optarg;
            break;
        case JSON:
            options.json = true;
            break;
        case INTERVAL:
            set_interval(optarg);
            break;
        case WAIT:
            options.wait = true;
            break;
        case HTML:
            html = true;
            break;
        default:
            complain("see remapctl --help");
            exit(EXIT_USAGE);
        }
    }
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    parse(argc, argv);
    argc -= optind;
    argv += optind;
    for (unsigned i = 0; argc && i < COMMANDS; i++) {
        const struct command *command = &commands[i];

        if (strcmp(argv[0], command->name))
            continue;
        if (argc - 1 < command->min_arguments ||
            argc - 1 > command->max_arguments) {
            complain("usage: remapctl %s %s", command->name, command->argument);
            return EXIT_USAGE;
        }
        return (int)command->run(argv[1]);
    }
    complain(argc ? "%s: no such command; see remapctl --help"
                  : "no command; see remapctl --help",
             argv[0]);
    return EXIT_USAGE;
}
