/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the daemon may still do once it serves others. */
#ifndef REMAPD_SANDBOX_H
#define REMAPD_SANDBOX_H

/* What becomes of a system call that is not in the list. */
enum sandbox_mode {
    SANDBOX_OFF,  /* there is no filter */
    SANDBOX_LOG,  /* it is allowed, and the kernel's log tells of it */
    SANDBOX_ON,   /* it fails with EPERM: guests outlive what we forgot */
    SANDBOX_KILL, /* it ends the daemon; for tests of the list */
    SANDBOX_MODES,
};

/**
 * sandbox_enter() - give up, for good, every capability that is not needed, and
 * every system call that is not in the list.
 *
 * Before there are other threads, and after all that is done once with the
 * rights of the user: sockets, groups, limits. Ends the program with a clear
 * line if it cannot be done. Ref: capabilities(7), seccomp(2).
 */
void sandbox_enter(enum sandbox_mode mode);

#endif
