/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sandbox.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "log.h"
#include "uffdio.h"
#include "util.h"

/* ---- capabilities ---- */

/* Memory of QEMUs of other users; /proc/PID/pagemap of those; urgent threads
 * and MADV_COLLAPSE. remapd.service grants the same. */
static const unsigned needed[] = {CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH,
                                  CAP_SYS_NICE};

static bool is_needed(unsigned capability)
{
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
        if (needed[i] == capability)
            return true;
    }
    return false;
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version =
                                                  _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

    /* Without CAP_SETPCAP nothing can be gained by execve() either. */
    for (unsigned i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++) {
        if (!is_needed(i) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) &&
            errno != EPERM)
            die("capability %u cannot be dropped: %s", i, strerror(errno));
    }
    if (syscall(SYS_capget, &header, sets))
        die("capabilities cannot be read: %s", strerror(errno));
    for (unsigned i = 0; i < ARRAY_SIZE(sets) * 32; i++) {
        if (!is_needed(i))
            sets[i / 32].permitted &= ~(1u << i % 32);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(sets); i++) {
        sets[i].effective = sets[i].permitted;
        sets[i].inheritable &= sets[i].permitted;
    }
    if (syscall(SYS_capset, &header, sets))
        die("capabilities cannot be dropped: %s", strerror(errno));
}

/* ---- system calls ---- */

/* By what they are for; C library and libraries included. Each suite of tests
 * runs with them alone: see --sandbox=kill in tests/lab/daemon.py. */
static const int plain[] = {
    /* pages */
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
    SCMP_SYS(process_madvise), SCMP_SYS(pidfd_open), SCMP_SYS(fallocate),
    SCMP_SYS(pread64), SCMP_SYS(preadv2),
    /* connections */
    SCMP_SYS(accept4), SCMP_SYS(bind), SCMP_SYS(connect), SCMP_SYS(getpeername),
    SCMP_SYS(getsockname), SCMP_SYS(getsockopt), SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(sendto),
    SCMP_SYS(setsockopt), SCMP_SYS(shutdown),
    /* events */
    SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2), SCMP_SYS(eventfd2),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(timerfd_settime),
    /* files: reports, the configuration, /proc */
    SCMP_SYS(access), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2), SCMP_SYS(fcntl), SCMP_SYS(fstat), SCMP_SYS(lseek),
    SCMP_SYS(newfstatat), SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(read),
    SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(readv), SCMP_SYS(rename),
    SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(unlink),
    SCMP_SYS(unlinkat), SCMP_SYS(write), SCMP_SYS(writev),
    /* memory */
    SCMP_SYS(brk), SCMP_SYS(ftruncate), SCMP_SYS(madvise),
    SCMP_SYS(memfd_create), SCMP_SYS(mremap), SCMP_SYS(munmap),
    /* threads, time, signals, the end */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(exit),
    SCMP_SYS(exit_group), SCMP_SYS(futex), SCMP_SYS(getegid), SCMP_SYS(geteuid),
    SCMP_SYS(getgid), SCMP_SYS(getpid), SCMP_SYS(getrandom), SCMP_SYS(gettid),
    SCMP_SYS(gettimeofday), SCMP_SYS(getuid), SCMP_SYS(nanosleep),
    SCMP_SYS(restart_syscall), SCMP_SYS(rseq), SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setattr), SCMP_SYS(sched_yield),
    SCMP_SYS(set_robust_list), SCMP_SYS(sigaltstack), SCMP_SYS(tgkill)};

/* Those of which only some uses are allowed: (argument & mask) == value. */
static const struct {
    int call;
    unsigned argument;
    uint64_t mask, value;
} narrow[] = {
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    /* Threads, but no processes. */
    {SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD},
    {SCMP_SYS(prctl), 0, UINT32_MAX, PR_SET_NAME},
    {SCMP_SYS(socket), 0, UINT32_MAX, AF_UNIX},
    {SCMP_SYS(socket), 0, UINT32_MAX, AF_INET},
    {SCMP_SYS(socket), 0, UINT32_MAX, AF_INET6},
    {SCMP_SYS(socket), 0, UINT32_MAX, AF_NETLINK}, /* getifaddrs(3) */
    {SCMP_SYS(ioctl), 1, UINT32_MAX, FIONREAD},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, SIOCGIFNAME},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, UFFDIO_COPY},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, UFFDIO_ZEROPAGE},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, UFFDIO_CONTINUE},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, UFFDIO_WAKE},
    {SCMP_SYS(ioctl), 1, UINT32_MAX, UFFDIO_REMAP},
};

static int add_rules(scmp_filter_ctx filter)
{
    /* Its flags lie in memory, where no filter sees them; the C library takes
     * clone() instead. */
    int ret =
        seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

    for (unsigned i = 0; i < ARRAY_SIZE(plain) && !ret; i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, plain[i], 0);
    for (unsigned i = 0; i < ARRAY_SIZE(narrow) && !ret; i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, narrow[i].call, 1,
                               SCMP_CMP(narrow[i].argument, SCMP_CMP_MASKED_EQ,
                                        narrow[i].mask, narrow[i].value));
    return ret;
}

static void filter_calls(enum sandbox_mode mode)
{
    static const uint32_t actions[] = {
        [SANDBOX_LOG] = SCMP_ACT_LOG,
        [SANDBOX_ON] = SCMP_ACT_ERRNO(EPERM),
        [SANDBOX_KILL] = SCMP_ACT_KILL_PROCESS,
    };
    scmp_filter_ctx filter;
    int ret;

    if (mode == SANDBOX_OFF)
        return;
    filter = seccomp_init(actions[mode]);
    ret = filter ? add_rules(filter) : -ENOMEM;
    /* A binary tree: a call costs few comparisons, not the whole list. */
    if (!ret)
        ret = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (!ret)
        ret = seccomp_load(filter);
    if (ret)
        die("no filter for system calls: %s; --sandbox=off does without",
            strerror(-ret));
    seccomp_release(filter);
}

void sandbox_enter(enum sandbox_mode mode)
{
    drop_capabilities();
    filter_calls(mode);
}
