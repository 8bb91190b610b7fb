# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check            all tests, which are:
#   check-unit          one module of the daemon at a time
#   check-platform      what is assumed of the kernel
#   check-loop          migrations without a guest, through two remapd
#   check-recover       those whose network or daemons are lost on the way
#   check-chaos         those to which things happen that a seed has drawn
#   check-tls           encryption, and who is refused
#   check-hostile       bad input of every kind against a remapd
#   check-sandbox       capabilities; no page of a guest in a core or a log
#   check-face          remapctl, --help and the manual pages
#   check-asan, -tsan   those but for check-platform, with sanitizers
#   check-faults        migrations with system calls that fail, from a seed
#   check-fuzz          harnesses of tests/fuzz: their corpora, and seconds more
#   check-vm            whole VMs, on the patched QEMU
#   check-vm-recover    VMs whose network, daemons or QEMUs are lost
#   check-vhost         VMs with vhost-user devices
#   check-libvirt       domains that move between two libvirtd
#   check-deb           the packages, in a clean Debian
#   check-systemd       the units, under a real systemd in a VM
#   check-kernel-quick  the patched kernel in VMs, and remapd there
#   qemu-qtest          QEMU's own tests of post-copy, without a pager
# make check-confined   domains between two VMs with AppArmor; on its own, as it
#                       takes 5 to 10 minutes for what rarely changes
# make check-newcomer   make demo and make deb in a clean Debian; builds a QEMU
# make check-kernel     more of the patched kernel: it builds three
# make check-loop TESTS="parts of names"   only those tests

TEST_CFLAGS = -std=c17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -pthread
TEST_PROGRAMS = $(addprefix $(BUILD)/tests/,guestless pingpong)
UNIT_TESTS = $(patsubst tests/%.c,$(BUILD)/tests/%,\
	$(wildcard tests/unit/test_*.c))
PLATFORM_TESTS = $(patsubst tests/%.c,$(BUILD)/tests/%,\
	$(wildcard tests/platform/*.c))

# Which build is tested, in the names of its suites: asan-loop, tsan-loop.
SUITE ?=
run_suite = BUILD_DIR=$(abspath $(BUILD)) REMAPD=$(abspath $(BUILD)/remapd) \
	tests/lib/suite $(SUITE)

.PHONY: check check-unit check-platform check-loop check-recover check-tls \
	check-hostile check-sandbox \
	check-asan check-tsan

# The daemon's objects but main.o, and cmocka.
$(BUILD)/tests/unit/%: tests/unit/%.c tests/unit/unit.h tests/unit/hand.h \
	$(DAEMON_OBJECTS)
	@mkdir -p $(@D)
	$(CC) -std=c17 -D_GNU_SOURCE -I$(BUILD) -Wall -Wextra -Werror -pthread \
	    $(CFLAGS) $(SANITIZE) -o $@ $< $(DAEMON_OBJECTS) -lcmocka $(LIBS)

check-unit: $(UNIT_TESTS)
	$(run_suite)unit tests/unit/run $^

$(BUILD)/tests/platform/%: tests/platform/%.c tests/platform/platform.h \
	daemon/uffdio.h
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $<

check-platform: $(PLATFORM_TESTS)
	$(run_suite)platform tests/platform/run.py $^

# They stand in for QEMUs: no part of what a sanitizer looks at.
$(BUILD)/tests/%: tests/loop/%.c tests/loop/memory.h tests/loop/hand.h \
	tests/loop/placer.h tests/loop/splicer.h \
	daemon/keep.h daemon/uffdio.h \
	proto/handoff.h proto/placer.h proto/splicer.h
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $<

check-loop: $(BUILD)/remapd $(TEST_PROGRAMS)
	$(run_suite)loop tests/loop/run.py $(TESTS)

check-sandbox: $(BUILD)/remapd $(TEST_PROGRAMS)
	$(run_suite)sandbox tests/loop/sandbox.py $(TESTS)

$(BUILD)/tests/control_pb2.py: proto/control.proto
	@mkdir -p $(@D)
	protoc --proto_path=proto --python_out=$(@D) $<

$(BUILD)/tests/older_kernel: tests/loop/older_kernel.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $< -lseccomp

check-hostile: $(BUILD)/remapd $(TEST_PROGRAMS) $(BUILD)/tests/control_pb2.py \
	$(BUILD)/tests/older_kernel
	$(run_suite)hostile tests/loop/hostile.py $(TESTS)
	$(subst $(BUILD)/remapd,$(BUILD)/tests/older_kernel,$(run_suite))older-kernel \
	    tests/loop/hostile.py back_end

# One that speaks another protocol.
.PHONY: remapd-of-other-version
remapd-of-other-version:
	@$(MAKE) --no-print-directory -s BUILD=$(BUILD)/other \
	    CFLAGS="$(CFLAGS) -DWIRE_VERSION=77" SANITIZE="$(SANITIZE)" \
	    $(BUILD)/other/remapd

check-recover: remapd-of-other-version $(BUILD)/remapd $(BUILD)/remapctl $(TEST_PROGRAMS) \
	$(BUILD)/tests/control_pb2.py
	$(run_suite)recover tests/loop/recover.py $(TESTS)

check-tls: $(BUILD)/remapd $(TEST_PROGRAMS) $(BUILD)/tests/control_pb2.py
	$(run_suite)tls tests/loop/tls.py $(TESTS)

# A sanitizer's report ends the program, and that fails the test.
check_sanitized = $(MAKE) -k --no-print-directory CFLAGS="-O1 -g" \
	SANITIZE="-fno-omit-frame-pointer -fno-sanitize-recover=all $(2)" \
	BUILD=build/$(1) SUITE=$(1)- check-unit check-loop check-recover check-hostile check-tls

check-asan:
	$(call check_sanitized,asan,-fsanitize=address$(comma)undefined)

check-tsan:
	$(call check_sanitized,tsan,-fsanitize=thread)

comma := ,

# Every suite runs, whatever another comes to; at the end stands what failed.
check:
	@tools/deps check; rm -f build/check/*; failed=0; \
	for suite in unit platform loop recover chaos hostile tls sandbox face asan tsan faults fuzz; do \
	    $(MAKE) --no-print-directory check-$$suite || failed=1; \
	done; \
	for suite in vm vm-recover vhost libvirt deb systemd kernel-quick; do \
	    tests/lib/suite $$suite $(MAKE) --no-print-directory check-$$suite || \
	        failed=1; \
	done; \
	tests/lib/suite qtest $(MAKE) --no-print-directory qemu-qtest || failed=1; \
	cat build/check/*.failed; exit $$failed
