# SPDX-License-Identifier: GPL-2.0-or-later
#
# make kernel            fetch, patch and build the kernel of the series
# make kernel-refresh    turn the branch "series" back into patches
# make kernel-check      checkpatch, and a build after every patch

.PHONY: kernel kernel-refresh kernel-check
kernel:
	kernel-patches/tree build lab
	@echo "kernel: $$(kernel-patches/tree path lab)/bzImage"

kernel-refresh:
	kernel-patches/tree refresh

kernel-check:
	kernel-patches/tree lint
	kernel-patches/tree each
