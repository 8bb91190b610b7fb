/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What this kernel offers, found out by asking it. Main thread. */
#ifndef REMAPD_PROBE_H
#define REMAPD_PROBE_H

#include <stdbool.h>
#include <stdint.h>

/**
 * probe_uffd() - is @fd a userfaultfd that can be polled?
 * @shared: another process has it open too, and may at any time make it
 *          blocking; that is not asked then
 *
 * Return: 0 or -EINVAL, with @error.
 */
int probe_uffd(int fd, bool shared, char *error);

/** probe_check() - end the program, saying what to do, if this kernel or this
 * process cannot serve migrations. Before READY. */
void probe_check(void);

/** probe_granted() - the features of this kernel's userfaultfds, as
 * UFFDIO_API grants them to each; after probe_check(). */
uint64_t probe_granted(void);

/** probe_frees_page_tables() - does this kernel free a page table that
 * MADV_DONTNEED has left empty, so that a huge page can be moved to its place?
 * After probe_check(). */
bool probe_frees_page_tables(void);

/** probe_print() - print features, and which engine each kind of memory gets.
 */
void probe_print(void);

#endif
