/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * older_kernel ARGUMENTS...: remapd, to which the kernel looks like one before
 * 6.10: it cannot be asked to read a userfaultfd without waiting. That it says
 * slowly, so that others can read first.
 */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SLOW_US 30000

/* To its parent's end. */
static void answer_calls(int fd)
{
    struct seccomp_notif *call;
    struct seccomp_notif_resp *answer;

    if (seccomp_notify_alloc(&call, &answer))
        return;
    for (;;) {
        *call = (struct seccomp_notif){0};
        *answer = (struct seccomp_notif_resp){.error = -EOPNOTSUPP};
        if (seccomp_notify_receive(fd, call))
            continue; /* the caller has ended */
        usleep(SLOW_US);
        answer->id = call->id;
        seccomp_notify_respond(fd, answer);
    }
}

int main(int argc, char **argv)
{
    const char *directory = getenv("BUILD_DIR");
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    char program[4096];
    int fd;

    (void)argc;
    if (!directory || !filter ||
        seccomp_rule_add(filter, SCMP_ACT_NOTIFY, SCMP_SYS(preadv2), 0) ||
        seccomp_load(filter)) {
        perror("older_kernel: seccomp, BUILD_DIR");
        return 1;
    }
    fd = seccomp_notify_fd(filter);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        answer_calls(fd);
        return 0;
    }
    snprintf(program, sizeof(program), "%s/remapd", directory);
    execv(program, argv);
    perror(program);
    return 1;
}
