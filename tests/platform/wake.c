/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who is woken when. */
#include "platform.h"

static bool wake(int uffd, void *at)
{
    struct uffdio_range range = {(uintptr_t)at, PAGE};

    return !ioctl_elsewhere(uffd, UFFDIO_WAKE, &range, sizeof(range));
}

int main(void)
{
    int uffd = uffd_new(0, NULL);
    uint8_t *memory = memory_new(4 * PAGE), *from = memory_new(PAGE);
    struct toucher first, second, other;
    struct pollfd poll_fd = {.fd = uffd, .events = POLLIN};
    struct uffd_msg msg;

    memset(from, 4, PAGE);
    uffd_register(uffd, memory, 4 * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    touch(&first, memory);
    result(await_fault(uffd, &msg), "one thread waits");
    touch(&second, memory + 8);
    result(await_fault(uffd, &msg), "two threads wait for one page");
    touch(&other, memory + PAGE);
    result(await_fault(uffd, &msg), "and one for another page");

    result(!copy_elsewhere(uffd, memory, from, PAGE,
                           UFFDIO_COPY_MODE_DONTWAKE, NULL) &&
               page_present(memory) && !first.done && !second.done,
           "COPY without a wake leaves them waiting");
    result(wake(uffd, memory) && touched(&first) == 4 &&
               touched(&second) == 4 && !other.done,
           "a wake wakes all of a page's, and no other's");
    result(wake(uffd, memory + PAGE) && await_fault(uffd, &msg) &&
               msg.arg.pagefault.address / PAGE * PAGE ==
                   (uintptr_t)memory + PAGE &&
               !other.done,
           "a wake without a page brings the fault again");
    result(wake(uffd, memory + 2 * PAGE) && !poll(&poll_fd, 1, 0),
           "a wake where nobody waits is fine");
    result(!copy_elsewhere(uffd, memory + PAGE, from, PAGE, 0, NULL) &&
               touched(&other) == 4,
           "COPY wakes by itself");
    return finish();
}
