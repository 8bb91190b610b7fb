/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The socket for remapctl: a line asks, one JSON document answers. */
#ifndef REMAPD_CONTROL_H
#define REMAPD_CONTROL_H

#include <event2/event.h>

#include "conf.h"

struct local_listener;

/**
 * control_listen() - answer at conf->control. The requests are `status`,
 * `list`, `cancel ID` and `report ID`; the answer is an object, with a member
 * "error" if the request was refused. Main thread, before READY.
 */
struct local_listener *control_listen(struct event_base *base,
                                      const struct conf *conf);

#endif
