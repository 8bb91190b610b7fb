# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check           all tests; the parts are check-unit, check-platform,
#                      check-loop, check-hostile, check-asan, check-tsan,
#                      check-vm, check-kernel
# make check-loop TESTS="some part of a name"

TEST_CFLAGS = -std=c17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -pthread
TEST_PROGRAMS = $(addprefix $(BUILD)/tests/,guestless pingpong)
# Which build is tested, in the names of its suites: asan-loop, tsan-loop.
SUITE ?=
run_suite = BUILD_DIR=$(abspath $(BUILD)) REMAPD=$(abspath $(BUILD)/remapd) \
	tests/lib/suite $(SUITE)

UNIT_TESTS = $(patsubst tests/%.c,$(BUILD)/tests/%,\
	$(wildcard tests/unit/test_*.c))

PLATFORM_TESTS = $(patsubst tests/%.c,$(BUILD)/tests/%,\
	$(wildcard tests/platform/*.c))

.PHONY: check-unit check-platform check-loop

# The daemon's objects but main.o, and cmocka.
$(BUILD)/tests/unit/%: tests/unit/%.c tests/unit/unit.h $(DAEMON_OBJECTS)
	@mkdir -p $(@D)
	$(CC) -std=c17 -D_GNU_SOURCE -I$(BUILD) -Wall -Wextra -Werror -pthread \
	    $(CFLAGS) $(SANITIZE) -o $@ $< $(DAEMON_OBJECTS) -lcmocka $(LIBS)

check-unit: $(UNIT_TESTS)
	$(run_suite)unit tests/unit/run $^

$(BUILD)/tests/platform/%: tests/platform/%.c tests/platform/platform.h
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $<

check-platform: $(PLATFORM_TESTS)
	$(run_suite)platform tests/platform/run.py $^

# They stand in for QEMUs: no part of what a sanitizer looks at.
$(BUILD)/tests/%: tests/loop/%.c proto/handoff.h
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $<

check-loop: $(BUILD)/remapd $(TEST_PROGRAMS)
	$(run_suite)loop tests/loop/run.py $(TESTS)
