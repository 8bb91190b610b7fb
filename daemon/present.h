/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages of a QEMU's private memory the kernel has something for. */
#ifndef REMAPD_PRESENT_H
#define REMAPD_PRESENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/** present_open() - to ask about @pid. Any thread. Return: a descriptor, or -1.
 */
int present_open(pid_t pid);

/**
 * present_pages() - which of @pages pages at address @hva are in memory or
 * swapped out.
 * @fd: of present_open()
 * @pages: 1..512
 * @mask: result: PAGESET_MASK_WORDS words
 *
 * Any thread. Return: false if it cannot be known.
 */
bool present_pages(int fd, uint64_t hva, unsigned pages, uint64_t *mask);

/** present_private() - the memory that @pid has to itself, in memory or swapped
 * out. Asks for a figure that the kernel keeps. Any thread.
 * Return: bytes, about; 0 if it cannot be known. */
uint64_t present_private(pid_t pid);

/** present_maps() - what @pid has mapped, line by line; see proc_pid_maps(5).
 * Any thread. Return: to be closed, or NULL. */
FILE *present_maps(pid_t pid);

#endif
