/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * UFFDIO_MOVE and UFFDIO_REMAP, for headers that lack them.
 * Ref: kernel-patches/README.md; ioctl_userfaultfd(2).
 */
#ifndef REMAPD_UFFDIO_H
#define REMAPD_UFFDIO_H

#include <linux/userfaultfd.h>

#ifndef UFFDIO_MOVE /* since Linux 6.8 */
#define UFFD_FEATURE_MOVE (1 << 16)

struct uffdio_move {
    __u64 dst;
    __u64 src;
    __u64 len;
    __u64 mode;
    __s64 move; /* bytes that moved, or a negative errno */
};

#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

#ifndef UFFDIO_REMAP
#define UFFD_FEATURE_REMAP (1 << 30)

struct uffdio_remap {
    __u64 dst; /* in the address space of the userfaultfd */
    __u64 src; /* in that of the caller */
    __u64 len;
    __u64 mode;
    __s64 remap; /* bytes that moved, or a negative errno */
};

#define UFFDIO_REMAP _IOWR(UFFDIO, 0x30, struct uffdio_remap)
#endif

#endif
