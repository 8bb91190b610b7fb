# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-deb       the packages, in a clean Debian
# make check-systemd   the units, under a real systemd in a VM

.PHONY: check-deb check-systemd
check-deb:
	tools/deps check
	$(MAKE) --no-print-directory guest deb
	tests/system/packages.py build/deb

check-systemd: $(BUILD)/tests/guestless
	tools/deps check
	$(MAKE) --no-print-directory qemu guest deb
	tests/system/boot.py $(DEB)
