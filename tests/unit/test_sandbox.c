/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each case in a process of its own, which cannot leave the sandbox again. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../../daemon/sandbox.h"

/* Returns what the call came to: 0 or errno. */
static int in_sandbox(enum sandbox_mode mode, long (*call)(void), bool *killed)
{
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (!child) {
        sandbox_enter(mode);
        errno = 0;
        _exit(call() < 0 ? errno : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    *killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
    assert_true(*killed || WIFEXITED(status));
    return *killed ? 0 : WEXITSTATUS(status);
}

static long run_program(void)
{
    char *const none[] = {NULL};

    return execve("/bin/true", none, none);
}

static long new_process(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static long map_code(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0) == MAP_FAILED
               ? -1
               : 0;
}

static long map_then_code(void)
{
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return mprotect(map, 4096, PROT_READ | PROT_EXEC);
}

static long packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0);
}

static long trace(void)
{
    return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static long kill_other(void)
{
    return kill(getppid(), 0);
}

static long terminal(void)
{
    char byte = 'x';

    return syscall(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, &byte);
}

static void refused(void **state)
{
    long (*const calls[])(void) = {run_program,   new_process,   map_code,
                                   map_then_code, packet_socket, trace,
                                   kill_other,    terminal};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
        bool killed;

        assert_int_equal(in_sandbox(SANDBOX_ON, calls[i], &killed), EPERM);
        assert_false(killed);
        in_sandbox(SANDBOX_KILL, calls[i], &killed);
        assert_true(killed);
    }
}

static void *nothing(void *opaque)
{
    return opaque;
}

static long what_it_does(void)
{
    pthread_t thread;
    char byte;
    int fd = open("/proc/self/status", O_RDONLY);

    if (fd < 0 || read(fd, &byte, 1) != 1 || close(fd) ||
        socket(AF_INET6, SOCK_STREAM, 0) < 0)
        return -1;
    /* A C library may take either for rename(). */
    if (!renameat(AT_FDCWD, "/none/a", AT_FDCWD, "/none/b") ||
        errno != ENOENT ||
        !renameat2(AT_FDCWD, "/none/a", AT_FDCWD, "/none/b", 0) ||
        errno != ENOENT)
        return -1;
    errno = pthread_create(&thread, NULL, nothing, NULL);
    return errno || pthread_join(thread, NULL) ? -1 : 0;
}

static void allowed(void **state)
{
    bool killed;

    (void)state;
    assert_int_equal(in_sandbox(SANDBOX_KILL, what_it_does, &killed), 0);
    assert_false(killed);
}

static void off_is_off(void **state)
{
    bool killed;

    (void)state;
    assert_int_equal(in_sandbox(SANDBOX_OFF, map_code, &killed), 0);
    assert_false(killed);
}

/* Root's, and of no use here: another name for the host. */
static long rename_host(void)
{
    char name[65];

    return gethostname(name, sizeof(name)) ? 0
                                           : sethostname(name, strlen(name));
}

static void no_other_capability(void **state)
{
    bool killed;

    (void)state;
    if (geteuid()) {
        print_message("# not root: there is nothing to drop\n");
        return;
    }
    assert_int_equal(in_sandbox(SANDBOX_OFF, rename_host, &killed), EPERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused),
        cmocka_unit_test(allowed),
        cmocka_unit_test(off_is_off),
        cmocka_unit_test(no_other_capability),
    };

    return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
