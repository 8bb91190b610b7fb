# SPDX-License-Identifier: GPL-2.0-or-later
#
# make            the daemon and remapctl, in build/
# make demo       migrate a VM between two hosts on this machine
# make check      all tests
# make bench      measure against QEMU's own post-copy and UFFDIO_COPY
# make install    into DESTDIR, with units, manual pages and completion
# make deb        Debian packages of it and of the patched QEMU, in build/deb
# make lint       clang-format and cppcheck; make format mends the former

BUILD ?= build
CC ?= gcc
CFLAGS ?= -O2 -g
SANITIZE ?=

ALL_CFLAGS = -std=c17 -D_GNU_SOURCE -I$(BUILD) -Wall -Wextra -Werror \
	-Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 \
	-Wno-format-truncation -fno-strict-aliasing -pthread -MMD -MP \
	$(CFLAGS) $(SANITIZE)
LIBS = -levent -lprotobuf-c -ljson-c -linih -lseccomp -lssl -lcrypto -lsystemd -pthread

DAEMON_SOURCES = $(filter-out daemon/main.c,$(sort $(wildcard daemon/*.c)))
DAEMON_OBJECTS = $(DAEMON_SOURCES:%.c=$(BUILD)/%.o) $(BUILD)/control.pb-c.o
REMAPCTL_OBJECTS = $(patsubst remapctl/%.c,$(BUILD)/remapctl-%.o,$(sort $(wildcard remapctl/*.c)))

.PHONY: all clean
all: $(BUILD)/remapd $(BUILD)/remapctl

-include $(wildcard qemu-patches/qemu.mk kernel-patches/kernel.mk bench/bench.mk)
-include $(wildcard tests/tests.mk tests/face/face.mk tests/vm/vm.mk tests/kernel/kernel.mk tests/libvirt/libvirt.mk \
	tests/system/system.mk tests/fuzz/fuzz.mk tests/faults/faults.mk tests/chaos/chaos.mk)

$(BUILD)/control.pb-c.c: proto/control.proto
	@mkdir -p $(@D)
	protoc-c --proto_path=proto --c_out=$(@D) $<

# Generated code is not held to our warnings.
$(BUILD)/control.pb-c.o: $(BUILD)/control.pb-c.c
	$(CC) -std=c17 $(CFLAGS) $(SANITIZE) -c -o $@ $<

$(DAEMON_OBJECTS) $(BUILD)/daemon/main.o: | $(BUILD)/control.pb-c.c

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/remapd: $(BUILD)/daemon/main.o $(DAEMON_OBJECTS)
	$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ $(LIBS)

# The program has the name of the sources' directory: no directory of objects.
$(BUILD)/remapctl-%.o: remapctl/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/remapctl: $(REMAPCTL_OBJECTS)
	$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -ljson-c -lm

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -path '*/deb/*' -prune -o -type f -name '*.d' \
	-print 2>/dev/null)

# ---- the look of the code ----
#
# cppcheck takes an enum without negative values for signed: gcc, which knows
# better, checks formats.

C_FILES = $(wildcard daemon/*.[ch] remapctl/*.[ch])
.PHONY: lint format
lint:
	clang-format --dry-run -Werror $(C_FILES)
	cppcheck --quiet --error-exitcode=1 --enable=warning,portability \
	    --suppress=invalidPrintfArgType_uint --inline-suppr --std=c11 \
	    -I $(BUILD) daemon remapctl

format:
	clang-format -i $(C_FILES)

# ---- installing ----

DESTDIR ?=
PREFIX ?= /usr
UNITDIR ?= $(PREFIX)/lib/systemd/system
MANUALS = $(wildcard docs/*.[1-8] kernel-patches/*.[1-8]*)
put = install -D -m 644 $(1) $(DESTDIR)$(2)

.PHONY: install deb
install: all
	install -D -m 755 $(BUILD)/remapd $(DESTDIR)$(PREFIX)/sbin/remapd
	install -D -m 755 $(BUILD)/remapctl $(DESTDIR)$(PREFIX)/bin/remapctl
	set -e; $(foreach page,$(MANUALS),$(call put,$(page),$(PREFIX)/share/man/man$(patsubst .%,%,$(subst const,,$(suffix $(page))))/$(notdir $(page)));)
	set -e; $(foreach unit,$(wildcard systemd/*.service systemd/*.socket),$(call put,$(unit),$(UNITDIR)/$(notdir $(unit)));)
	$(call put,systemd/remapd.sysusers,$(PREFIX)/lib/sysusers.d/remapd.conf)
	$(call put,systemd/remapd.tmpfiles,$(PREFIX)/lib/tmpfiles.d/remapd.conf)
	$(call put,systemd/remapd.catalog,$(PREFIX)/lib/systemd/catalog/remapd.catalog)
	$(call put,systemd/70-remapd.rules,$(PREFIX)/lib/udev/rules.d/70-remapd.rules)
	install -D -m 755 libvirt/hook $(DESTDIR)/etc/libvirt/hooks/qemu.d/remapd
	install -D -m 755 libvirt/remapd-domain $(DESTDIR)$(PREFIX)/bin/remapd-domain
	$(call put,libvirt/hook.conf,/etc/remapd/hook.conf)
	set -e; $(foreach file,$(wildcard libvirt/apparmor/*),$(call put,$(file),/etc/apparmor.d/remapd.d/$(notdir $(file)));)
	$(call put,systemd/remapd.conf,/etc/remapd/remapd.conf)
	set -e; $(foreach file,$(wildcard completion/*),$(call put,$(file),$(PREFIX)/share/bash-completion/completions/$(notdir $(file)));)

# In a copy of the tree, since debhelper leaves its files beside the sources.
VERSION = $(shell sed -n 's/.*REMAPD_VERSION "\(.*\)"/\1/p' daemon/version.h)
DEB_TREE = build/deb/remapd-$(VERSION)

DEB = build/deb/remapd_$(VERSION)_amd64.deb
DEB_SOURCES = Makefile $(wildcard $(addsuffix /*,completion daemon debian \
	debian/source docs kernel-patches libvirt libvirt/apparmor proto \
	qemu-patches remapctl systemd))

deb: $(DEB)
	@ls -sh build/deb/*.deb

$(DEB): $(DEB_SOURCES)
	tools/deps deb
	qemu-patches/tree package build/deb/qemu-system-x86_64
	rm -rf $(DEB_TREE) build/deb/*.deb
	mkdir -p $(DEB_TREE)
	tar -c --exclude=./build --exclude=./.git . | tar -x -C $(DEB_TREE)
	cd $(DEB_TREE) && DEB_BUILD_OPTIONS=noautodbgsym \
	    QEMU_PACKAGE=$(abspath build/deb/qemu-system-x86_64) \
	    dpkg-buildpackage -b -us -uc -d >../log 2>&1 || \
	    { tail -20 ../log; exit 1; }
	rm -rf $(DEB_TREE)
