/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * UFFDIO_REMAP, and UFFDIO_MOVE's feature bit, for headers that lack them.
 * Ref: kernel-patches/README.md; ioctl_userfaultfd(2).
 */
#ifndef REMAPD_UFFDIO_REMAP_H
#define REMAPD_UFFDIO_REMAP_H

#include <linux/userfaultfd.h>

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

#ifndef UFFD_FEATURE_MOVE /* since Linux 6.8 */
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#endif
