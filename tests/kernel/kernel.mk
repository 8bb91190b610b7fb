# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-kernel         the patched kernel in virtual machines
# make check-kernel-kasan   the same under KASAN
# make check-kernel-cost    instructions: REMAP, COPY, a missing fault
# DURATION=600              how long each test runs that runs for a time

.PHONY: check-kernel check-kernel-kasan check-kernel-cost
check-kernel check-kernel-kasan check-kernel-cost: check-kernel%:
	tests/lib/suite kernel$* tests/kernel/check \
	    $(or $(patsubst -%,%,$*),lab) $(or $(DURATION),10)
