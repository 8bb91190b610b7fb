# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-libvirt   domains that move between two libvirtd, and two remapd
#                      that encrypt

.PHONY: check-libvirt
check-libvirt:
	tools/deps check
	$(MAKE) --no-print-directory all qemu build/guest/tiny.elf
	TLS=on tests/libvirt/run.py $(TESTS)
