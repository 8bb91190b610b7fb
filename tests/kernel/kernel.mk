# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-kernel         the patched kernel in virtual machines
# make check-kernel-quick   our tests of it, and remapd there; part of make check
# make check-kernel-kasan   the same under KASAN
# make check-kernel-migration   moves of pages that are being migrated
# make check-kernel-cost    instructions: REMAP, COPY, a missing fault
# make check-kernel-chaos [RUNS=40] [SEED=n]   make chaos there, with engine remap
# DURATION=600              seconds for each test that runs for a time

DURATION ?= 10

.PHONY: check-kernel check-kernel-quick check-kernel-kasan \
	check-kernel-migration check-kernel-cost check-kernel-chaos
check-kernel check-kernel-quick check-kernel-chaos: all qemu guest \
    $(BUILD)/tests/guestless $(BUILD)/tests/unit/test_remap

check-kernel-quick:
	tests/kernel/check quick 2

check-kernel:
	tests/lib/suite kernel tests/kernel/check lab $(DURATION)

check-kernel-kasan: qemu
	tests/lib/suite kernel-kasan tests/kernel/check kasan $(DURATION)

check-kernel-migration: qemu
	tests/lib/suite kernel-migration tests/kernel/check migration $(DURATION)

check-kernel-cost: qemu
	tests/lib/suite kernel-cost tests/kernel/check cost

check-kernel-chaos: $(BUILD)/tests/control_pb2.py
	tests/kernel/check chaos $(if $(RUNS:0=),$(RUNS),40) $(SEED)
