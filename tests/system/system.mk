# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-deb       the packages, in a clean Debian
# make check-newcomer  make demo and make deb in a clean Debian, where a QEMU is
#                      built, and their packages in another; DEBIAN=trixie
# make check-systemd   the units, under a real systemd in a VM
# make check-confined  libvirt's domains between two VMs, all that confines them
#                      switched on: AppArmor, seccomp, yama

DEBIAN ?= $(shell . /etc/os-release; echo $$VERSION_CODENAME)
.PHONY: check-deb check-newcomer check-systemd check-confined
check-deb:
	tools/deps check
	$(MAKE) --no-print-directory guest deb
	tests/system/packages.py build/deb

check-newcomer:
	tools/deps check
	DEBIAN=$(DEBIAN) tests/system/newcomer
	DEBIAN=$(DEBIAN) tests/system/packages.py build/deb-$(DEBIAN)

check-systemd: $(BUILD)/tests/guestless
	tools/deps check
	$(MAKE) --no-print-directory qemu guest deb
	tests/system/boot.py $(DEB)

check-confined:
	tools/deps check
	$(MAKE) --no-print-directory qemu guest deb
	tests/system/confined.py build/deb $(TESTS)
