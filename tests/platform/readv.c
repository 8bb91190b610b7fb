/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading a QEMU's memory from outside: process_vm_readv and pread. */
#include "platform.h"

#define PAGES 64

/* Read @bytes at @at of this process from another one. */
static ssize_t read_elsewhere(const void *at, uint8_t *to, size_t bytes)
{
    struct iovec local = {to, bytes}, remote = {(void *)(uintptr_t)at, bytes};
    pid_t guest = getpid(), child = fork();
    int status;

    if (!child) {
        ssize_t got = process_vm_readv(guest, &local, 1, &remote, 1, 0);

        _exit(got < 0 ? 255 : (int)(got / (ssize_t)PAGE));
    }
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
        broken("the other process");
    return WEXITSTATUS(status) == 255 ? -1
                                      : WEXITSTATUS(status) * (ssize_t)PAGE;
}

int main(void)
{
    uint8_t *memory = memory_new(PAGES * PAGE), *buffer;
    int fd = memfd_create("guest", 0);

    buffer = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(memory + 10 * PAGE, 3, PAGE);
    memset(buffer, 0xff, PAGES * PAGE);
    result(read_elsewhere(memory, buffer, PAGES * PAGE) == PAGES * PAGE &&
               all_bytes(buffer, 10 * PAGE, 0) &&
               all_bytes(buffer + 10 * PAGE, PAGE, 3) &&
               all_bytes(buffer + 11 * PAGE, 53 * PAGE, 0),
           "a sparse area reads as a whole, its holes as zeros");
    munmap(memory + 20 * PAGE, PAGE);
    result(read_elsewhere(memory, buffer, PAGES * PAGE) == 20 * PAGE,
           "what is not mapped ends the read with the bytes before it");
    result(read_elsewhere(memory + 20 * PAGE, buffer, PAGE) == -1,
           "and gives an error where nothing comes before");

    if (fd < 0 || ftruncate(fd, PAGES * PAGE) ||
        pwrite(fd, "x", 1, 5 * PAGE) != 1)
        broken("memfd");
    memset(buffer, 0xff, PAGES * PAGE);
    result(pread(fd, buffer, PAGES * PAGE, 0) == PAGES * PAGE &&
               all_bytes(buffer, 5 * PAGE, 0) && buffer[5 * PAGE] == 'x',
           "a sparse memfd reads as a whole");
    result(lseek(fd, 0, SEEK_DATA) == 5 * PAGE &&
               lseek(fd, 5 * PAGE, SEEK_HOLE) == 6 * PAGE,
           "and reading fills no hole");
    return finish();
}
