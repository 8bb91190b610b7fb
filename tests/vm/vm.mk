# SPDX-License-Identifier: GPL-2.0-or-later
#
# VMs: `make demo` shows one being moved, `make check-vm` tests it.

include tests/guest/guest.mk

.PHONY: demo check-vm check-vm-recover check-vhost

# The packages first: what the others of these targets build needs them.
demo:
	tools/deps demo
	demo/demo.py --check
	$(MAKE) --no-print-directory guest $(if $(filter 1,$(INSTALLED)),,all qemu)
	demo/demo.py

check-vm check-vm-recover check-vhost:
	tools/deps check
	$(MAKE) --no-print-directory all qemu guest
	tests/vm/$(patsubst vm,run,$(patsubst vm-%,%,$(@:check-%=%))).py $(TESTS)
