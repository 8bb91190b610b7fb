/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remapd's hands in the source's QEMU: threads that send the guest's pages
 * without a copy. proto/splicer.h has the protocol. Each sending thread has a
 * splicer of its own.
 */
#ifndef REMAPD_SPLICER_ROOM_H
#define REMAPD_SPLICER_ROOM_H

#include <stdbool.h>
#include <stdint.h>

#include "../proto/splicer.h"

struct splicer;

/** splicer_new() - use the splicer at the other end of @fd, which becomes its
 * own. Main thread. */
struct splicer *splicer_new(int fd);

/** splicer_free() - close; QEMU's thread ends. NULL is fine. Main thread. */
void splicer_free(struct splicer *splicer);

/** splicer_works() - is it of any use? NULL is of none. The thread that has
 * it. */
bool splicer_works(const struct splicer *splicer);

/**
 * splicer_find_zeros() - which pages of the guest are zero?
 * @hva: of the first page that @pages can name
 * @pages: mask of SPLICER_PAGES, one at least
 * @zero: result: those of them that are zero
 *
 * The thread that has it; blocks until QEMU has answered, a second at most.
 * Return: whether it has; if not the splicer is of no use any more.
 */
bool splicer_find_zeros(struct splicer *splicer, uint64_t hva,
                        const uint64_t *pages, uint64_t *zero);

/**
 * splicer_send() - have QEMU send the pages on @fd, a stream socket.
 * @pages: as above
 *
 * The guest must be stopped, for good. The thread that has it; blocks until
 * QEMU has answered, and for as long as the peer takes nothing.
 * Return: 0; -EPIPE if the connection is lost, or must be given up, for who
 * knows how much has been sent; -EAGAIN if nothing has been, or -ESRCH if QEMU
 * has left: then the splicer is of no use any more.
 */
int splicer_send(struct splicer *splicer, uint64_t hva, const uint64_t *pages,
                 int fd);

#endif
