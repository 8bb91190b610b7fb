# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-face      remapctl, --help and the manual pages

.PHONY: check-face
check-face: $(BUILD)/remapd $(BUILD)/remapctl $(BUILD)/tests/guestless
	$(run_suite)face tests/face/run.py $(TESTS)
