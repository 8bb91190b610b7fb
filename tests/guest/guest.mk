# SPDX-License-Identifier: GPL-2.0-or-later
#
# The two guests: Debian's kernel with an initramfs of one program, and the
# same program on bare metal. Kernel and busybox come out of Debian's packages
# and are not installed on the host.

GUEST_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/remapd/guest
GUEST_SOURCES := tests/guest/work.c tests/guest/work.h
GUEST_CFLAGS := -std=gnu17 -O2 -Wall -Wextra -Werror

GUESTS := build/guest/vmlinuz build/guest/initramfs build/guest/tiny.elf

.PHONY: guest
guest: $(GUESTS)

# Debian's packages move on: what is in the cache stays until it is removed.
$(GUEST_CACHE)/vmlinuz:
	@mkdir -p $(GUEST_CACHE)
	cd $(GUEST_CACHE) && package=$$(apt-cache depends linux-image-cloud-amd64 | \
	    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p') && \
	    rm -rf linux* && apt-get -q -o APT::Sandbox::User=root download $$package && \
	    dpkg -x $$package*.deb linux && rm $$package*.deb && \
	    cp linux/boot/vmlinuz-* $@ && rm -r linux

$(GUEST_CACHE)/busybox:
	@mkdir -p $(GUEST_CACHE)
	cd $(GUEST_CACHE) && rm -rf bb busybox-static* && \
	    apt-get -q -o APT::Sandbox::User=root download busybox-static && \
	    dpkg -x busybox-static*.deb bb && rm busybox-static*.deb && \
	    cp bb/bin/busybox $@ && rm -r bb

build/guest/vmlinuz: $(GUEST_CACHE)/vmlinuz
	@mkdir -p $(@D)
	cp $< $@

build/guest/work: tests/guest/linux.c $(GUEST_SOURCES)
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -static -pthread -o $@ $(filter %.c,$^)

build/guest/initramfs: build/guest/work tests/guest/init $(GUEST_CACHE)/busybox
	rm -rf $@.d
	mkdir -p $@.d/bin $@.d/dev $@.d/proc $@.d/sys
	cp $(GUEST_CACHE)/busybox build/guest/work $@.d/bin
	cp tests/guest/init $@.d/init
	chmod 755 $@.d/init $@.d/bin/*
	cd $@.d && find . | cpio --quiet -o -H newc -R 0:0 >../$(@F)
	rm -r $@.d

# QEMU's multiboot loader takes 32-bit ELF only, whatever the code inside.
build/guest/tiny.elf: tests/guest/tiny.c tests/guest/boot.S tests/guest/tiny.ld \
    $(GUEST_SOURCES)
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -ffreestanding -nostdlib -static -no-pie -fno-pie \
	    -mno-red-zone -mgeneral-regs-only -fno-stack-protector \
	    -fno-asynchronous-unwind-tables -Wl,--build-id=none,-n,--no-warn-rwx-segments \
	    -T tests/guest/tiny.ld -o $@.64 $(filter %.c %.S,$^)
	objcopy -O elf32-i386 $@.64 $@
	rm $@.64
