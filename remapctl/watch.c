/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "watch.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "show.h"

/* How much a new measurement of the speed weighs against the older ones. */
#define SPEED_WEIGHT 0.4

/* A session being watched; on a host that migrates to itself two sessions, of
 * different roles, share an id. */
struct watched {
    struct watched *next;
    struct json_object *latest;
    int64_t left;
    double seen, pages_per_second;
    double speeds[SHOW_SPEEDS]; /* at the last looks, oldest first */
    unsigned speed_count;
    bool present;               /* in the answer being looked at */
    char line[SHOW_LINE_BYTES]; /* printed last */
};

struct watch {
    const struct watch_options *options;
    struct watched *all;
    unsigned drawn;        /* lines on the terminal that will be drawn over */
    bool terminal, paused; /* paused: one ended so */
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool same(const struct json_object *a, const struct json_object *b)
{
    return !strcmp(show_text(a, "session"), show_text(b, "session")) &&
           !strcmp(show_text(a, "role"), show_text(b, "role"));
}

static void take(struct watch *watch, struct json_object *session)
{
    struct watched **link = &watch->all, *watched;
    int64_t left = show_number(session, "pages.left");
    double time = now();

    while (*link && !same((*link)->latest, session))
        link = &(*link)->next;
    watched = *link;
    if (!watched) {
        watched = calloc(1, sizeof(*watched));
        if (!watched)
            abort();
        *link = watched;
    } else {
        /* `left` grows once, from nothing to all, at the switchover. */
        if (left <= watched->left && time > watched->seen) {
            double speed =
                (double)(watched->left - left) / (time - watched->seen);

            watched->pages_per_second +=
                (watched->pages_per_second > 0 ? SPEED_WEIGHT : 1) *
                (speed - watched->pages_per_second);
            if (watched->speed_count == SHOW_SPEEDS)
                memmove(watched->speeds, watched->speeds + 1,
                        --watched->speed_count * sizeof(*watched->speeds));
            watched->speeds[watched->speed_count++] = speed;
        }
        json_object_put(watched->latest);
    }
    watched->latest = json_object_get(session);
    watched->left = left;
    watched->seen = time;
    watched->present = true;
}

static void erase(struct watch *watch)
{
    if (watch->drawn)
        printf("\033[%uA\033[J", watch->drawn);
    watch->drawn = 0;
}

/* A terminal gets every line again, cut so that it stays one line to draw
 * over; elsewhere a line that says nothing new is left out. */
static void print_line(const struct watch *watch, struct watched *watched,
                       const char *behind, int columns)
{
    char line[SHOW_LINE_BYTES];

    show_progress(watched->latest, watched->pages_per_second, line);
    strncat(line, behind, sizeof(line) - strlen(line) - 1);
    if (watch->terminal)
        printf("%.*s\n", columns, line);
    else if (strcmp(line, watched->line))
        puts(line);
    strcpy(watched->line, line);
}

/* The daemon remembers how the last sessions ended: that is the latest of those
 * that are gone. */
static void take_ended(struct watch *watch, struct json_object *ended)
{
    for (struct watched *i = watch->all; i; i = i->next) {
        for (size_t j = 0; ended && j < json_object_array_length(ended); j++) {
            struct json_object *session = json_object_array_get_idx(ended, j);

            if (i->present || !same(i->latest, session))
                continue;
            json_object_put(i->latest);
            i->latest = json_object_get(session);
        }
    }
}

/* How a session ended that the daemon does not list any more. */
static const char *ending(const struct watched *watched)
{
    const char *state = show_text(watched->latest, "state");

    if (!strcmp(state, "complete"))
        return "; ended";
    if (!strcmp(state, "paused") || !strcmp(state, "failed"))
        return "; ended without being complete";
    return "; ended since then: see its report, or remapd's log";
}

static void drop_ended(struct watch *watch)
{
    for (struct watched **link = &watch->all; *link;) {
        struct watched *watched = *link;

        if (watched->present) {
            watched->present = false;
            link = &watched->next;
            continue;
        }
        watch->paused |= !strcmp(show_text(watched->latest, "state"), "paused");
        if (!watch->options->json)
            print_line(watch, watched, ending(watched), SHOW_LINE_BYTES);
        *link = watched->next;
        json_object_put(watched->latest);
        free(watched);
    }
}

/* What stands over a terminal's lines. */
static void draw_heading(struct watch *watch, int columns)
{
    time_t seconds = time(NULL);
    char clock[16], line[SHOW_LINE_BYTES], host[64] = "";
    unsigned count = 0;

    for (struct watched *i = watch->all; i; i = i->next)
        count++;
    gethostname(host, sizeof(host) - 1);
    strftime(clock, sizeof(clock), "%H:%M:%S", localtime(&seconds));
    snprintf(line, sizeof(line), "%s  %s  %u migration%s", clock, host, count,
             count == 1 ? "" : "s");
    printf("%.*s\n", columns, line);
    watch->drawn++;
}

static void draw_bar(struct watch *watch, const struct watched *watched,
                     unsigned columns)
{
    char line[SHOW_LINE_BYTES];

    show_bar(watched->latest, watched->speeds, watched->speed_count, columns,
             line);
    if (!*line)
        return;
    puts(line);
    watch->drawn++;
}

static void draw(struct watch *watch)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    unsigned rows, hidden = 0;

    if (watch->terminal)
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    rows = size.ws_row > 3 ? size.ws_row - 2u : 1;
    erase(watch);
    drop_ended(watch);
    if (watch->terminal && watch->all)
        draw_heading(watch, size.ws_col);
    for (struct watched *i = watch->all; i; i = i->next) {
        if (watch->terminal && watch->drawn + 1 >= rows) {
            hidden++;
            continue;
        }
        print_line(watch, i, "", size.ws_col);
        if (!watch->terminal)
            continue;
        watch->drawn++;
        draw_bar(watch, i, size.ws_col);
    }
    if (hidden) {
        printf("and %u more\n", hidden);
        watch->drawn++;
    }
    fflush(stdout);
}

/* One look at the daemon; *count: how many sessions are being watched. */
static enum exit_code look(struct watch *watch, unsigned *count)
{
    const char *id = watch->options->id;
    struct json_object *answer, *sessions = NULL, *ended = NULL, *chosen;
    enum exit_code code = ask(watch->options->socket_path, "list", &answer);

    if (code)
        return code;
    chosen = json_object_new_array();
    json_object_object_get_ex(answer, "sessions", &sessions);
    for (size_t i = 0; sessions && i < json_object_array_length(sessions);
         i++) {
        struct json_object *session = json_object_array_get_idx(sessions, i);

        if (strncmp(show_text(session, "session"), id, strlen(id)))
            continue;
        take(watch, session);
        json_object_array_add(chosen, json_object_get(session));
    }
    json_object_object_get_ex(answer, "ended", &ended);
    take_ended(watch, ended);
    *count = (unsigned)json_object_array_length(chosen);
    json_object_object_add(answer, "sessions", chosen);
    if (watch->options->json) {
        drop_ended(watch);
        if (*count)
            show_json(answer, false);
    } else {
        draw(watch);
    }
    json_object_put(answer);
    return EXIT_DONE;
}

enum exit_code watch(const struct watch_options *options)
{
    struct watch watch = {.options = options,
                          .terminal = !options->json && isatty(STDOUT_FILENO)};
    double whole = floor(options->interval);
    struct timespec pause = {(time_t)whole,
                             (long)((options->interval - whole) * 1e9)};
    bool begun = false;
    unsigned count;

    for (;;) {
        enum exit_code code = look(&watch, &count);

        if (code)
            return code;
        begun |= count > 0;
        if (!count && (begun || !options->wait))
            break;
        nanosleep(&pause, NULL);
    }
    if (!begun && *options->id) {
        complain("%s: no session has an id that begins so", options->id);
        return EXIT_REFUSED;
    }
    if (!begun && !options->json)
        puts("no migration is going on");
    return watch.paused ? EXIT_REFUSED : EXIT_DONE;
}
