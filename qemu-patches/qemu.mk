# SPDX-License-Identifier: GPL-2.0-or-later
#
# make qemu            fetch, patch and build the QEMU of the series
# make qemu-bin        print where its qemu-system-x86_64 is
# make qemu-refresh    turn the branch "series" back into patches
# make qemu-check      checkpatch, and a build after every patch
# make qemu-qtest      QEMU's own tests of post-copy, on the patched binary

QEMU_DIR = $(shell qemu-patches/tree path)
QEMU_BIN = $(QEMU_DIR)/qemu-system-x86_64

.PHONY: qemu qemu-bin qemu-refresh qemu-check qemu-qtest
qemu:
	qemu-patches/tree build
	@echo "qemu: $(QEMU_BIN)"

qemu-bin:
	@echo "$(QEMU_BIN)"

qemu-refresh:
	qemu-patches/tree refresh

qemu-check:
	qemu-patches/tree lint
	qemu-patches/tree each

qemu-qtest:
	qemu-patches/tree qtest
