/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef REMAPD_VERSION_H
#define REMAPD_VERSION_H

#define REMAPD_VERSION "0.1"

#endif
