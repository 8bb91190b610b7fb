/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "local.h"
#include "peer.h"
#include "session.h"
#include "version.h"

#define CONTROL_MAX_LINE  256
#define CONTROL_TIMEOUT_S 5
#define CONTROL_MODE      0660

static const struct conf *conf;

static struct json_object *answer_status(void)
{
    struct json_object *json = json_object_new_object();

    json_object_object_add(json, "version",
                           json_object_new_string(REMAPD_VERSION));
    json_object_object_add(json, "pid", json_object_new_int(getpid()));
    json_object_object_add(json, "handoff",
                           json_object_new_string(conf->handoff));
    json_object_object_add(json, "listen",
                           json_object_new_string(peer_address()));
    json_object_object_add(json, "port", json_object_new_int((int)peer_port()));
    json_object_object_add(json, "sessions",
                           json_object_new_int((int)session_count()));
    return json;
}

static struct json_object *answer_list(void)
{
    struct json_object *json = json_object_new_object();
    struct json_object *list = json_object_new_array();

    for (struct session *s = session_first(); s; s = s->next)
        json_object_array_add(list, session_json(s));
    json_object_object_add(json, "sessions", list);
    json_object_object_add(json, "ended", session_ended_json());
    return json;
}

static struct json_object *answer_error(const char *text)
{
    struct json_object *json = json_object_new_object();

    json_object_object_add(json, "error", json_object_new_string(text));
    return json;
}

static struct json_object *answer_cancel(const char *id)
{
    struct session *session = *id ? session_find_text(id) : NULL;
    struct json_object *json;

    if (!session)
        return answer_error("no session, or more than one, has such an id");
    if (session_cancel(session))
        return answer_error("the guest has left its source: cancelling now "
                            "would lose it");
    json = json_object_new_object();
    json_object_object_add(json, "cancelled", json_object_new_boolean(true));
    return json;
}

static struct json_object *answer_report(const char *id)
{
    struct json_object *report = session_report(id), *json;

    if (!report)
        return answer_error("of the last sessions that ended none, or more "
                            "than one, has such an id");
    json = json_object_new_object();
    json_object_object_add(json, "report", report);
    return json;
}

static struct json_object *answer(const char *line)
{
    if (!strcmp(line, "status"))
        return answer_status();
    if (!strcmp(line, "list"))
        return answer_list();
    if (!strncmp(line, "cancel ", 7))
        return answer_cancel(line + 7);
    if (!strncmp(line, "report ", 7))
        return answer_report(line + 7);
    return answer_error("unknown request: status, list, cancel ID, report ID");
}

static void control_written(struct bufferevent *bev, void *opaque)
{
    (void)opaque;
    bufferevent_free(bev);
}

static void control_event(struct bufferevent *bev, short what, void *opaque)
{
    (void)what;
    (void)opaque;
    bufferevent_free(bev);
}

static void control_readable(struct bufferevent *bev, void *opaque)
{
    struct evbuffer *in = bufferevent_get_input(bev);
    char *line = evbuffer_readln(in, NULL, EVBUFFER_EOL_LF);
    struct json_object *json;

    (void)opaque;
    if (!line) {
        if (evbuffer_get_length(in) > CONTROL_MAX_LINE)
            bufferevent_free(bev);
        return;
    }
    json = answer(line);
    free(line);
    evbuffer_add_printf(
        bufferevent_get_output(bev), "%s\n",
        json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
    json_object_put(json);
    bufferevent_disable(bev, EV_READ);
    bufferevent_setcb(bev, NULL, control_written, control_event, NULL);
}

static void control_accepted(struct event_base *base, int fd,
                             const struct ucred *peer, void *opaque)
{
    struct timeval timeout = {CONTROL_TIMEOUT_S, 0};
    struct bufferevent *bev =
        bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);

    (void)peer;
    (void)opaque;
    if (!bev)
        abort();
    bufferevent_setcb(bev, control_readable, NULL, control_event, NULL);
    bufferevent_set_timeouts(bev, &timeout, &timeout);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

struct local_listener *control_listen(struct event_base *base,
                                      const struct conf *options)
{
    conf = options;
    return local_listen(base, "control", conf->control, SOCK_STREAM,
                        CONTROL_MODE, conf->group, control_accepted, NULL);
}
