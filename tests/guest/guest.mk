# SPDX-License-Identifier: GPL-2.0-or-later
#
# The two guests: Debian's kernel with an initramfs of our programs, and one of
# them on bare metal. Kernel, modules and busybox come out of Debian's packages
# and are not installed on the host.

GUEST_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/remapd/guest
GUEST_SOURCES := tests/guest/work.c tests/guest/work.h
GUEST_CFLAGS := -std=gnu17 -O2 -Wall -Wextra -Werror

# In the order of loading; some kernels have some of them built in.
GUEST_MODULES := virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev \
	virtio_pci virtio_blk failover net_failover virtio_net

GUESTS := build/guest/vmlinuz build/guest/initramfs build/guest/tiny.elf

.PHONY: guest guest-modules
guest: $(GUESTS)

guest-modules:
	@echo $(GUEST_CACHE)/modules

# Debian's packages move on: what is in the cache stays until it is removed.
$(GUEST_CACHE)/vmlinuz $(GUEST_CACHE)/modules/order &:
	@mkdir -p $(GUEST_CACHE)
	cd $(GUEST_CACHE) && package=$$(apt-cache depends linux-image-cloud-amd64 | \
	    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p') && \
	    rm -rf linux* modules && \
	    apt-get -q -o APT::Sandbox::User=root download $$package && \
	    dpkg -x $$package*.deb linux && rm $$package*.deb && mkdir modules && \
	    for module in $(GUEST_MODULES); do \
	        file=$$(find linux -name "$$module.ko*" | head -1); \
	        case $$file in \
	        *.ko) cp $$file modules ;; \
	        *.xz) xz -dc $$file >modules/$$module.ko ;; \
	        *) find linux -name modules.builtin | xargs grep -q "/$$module.ko$$" && \
	           continue ;; \
	        esac && echo $$module.ko >>modules/order || exit 1; done && \
	    cp linux/boot/vmlinuz-* vmlinuz && rm -r linux

$(GUEST_CACHE)/busybox:
	@mkdir -p $(GUEST_CACHE)
	cd $(GUEST_CACHE) && rm -rf bb busybox-static* && \
	    apt-get -q -o APT::Sandbox::User=root download busybox-static && \
	    dpkg -x busybox-static*.deb bb && rm busybox-static*.deb && \
	    cp $$(find bb -path '*/bin/busybox') $@ && rm -r bb

build/guest/vmlinuz: $(GUEST_CACHE)/vmlinuz
	@mkdir -p $(@D)
	cp $< $@

build/guest/work: tests/guest/linux.c $(GUEST_SOURCES)
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -static -pthread -o $@ $(filter %.c,$^)

build/guest/disk build/guest/net: build/guest/%: tests/guest/%.c
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -static -o $@ $<

GUEST_PROGRAMS := build/guest/work build/guest/disk build/guest/net

build/guest/initramfs: $(GUEST_PROGRAMS) tests/guest/init \
    $(GUEST_CACHE)/busybox $(GUEST_CACHE)/modules/order
	rm -rf $@.d
	mkdir -p $@.d/bin $@.d/dev $@.d/proc $@.d/sys
	cp $(GUEST_CACHE)/busybox $(GUEST_PROGRAMS) $@.d/bin
	cp -r $(GUEST_CACHE)/modules $@.d
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

# memcached, with the libraries that it names, to be put behind the initramfs.
$(GUEST_CACHE)/memcached.cpio:
	@mkdir -p $(GUEST_CACHE)
	cd $(GUEST_CACHE) && rm -rf memcached && mkdir memcached && cd memcached && \
	    apt-get -q -o APT::Sandbox::User=root download memcached \
	        $$(apt-cache depends memcached | sed -n 's/^ *Depends: \(lib\)/\1/p') && \
	    for package in *.deb; do dpkg -x $$package root || exit 1; done && \
	    libraries=$$(LD_LIBRARY_PATH=$$(echo root/usr/lib/*-linux-gnu) \
	        ldd root/usr/bin/memcached | \
	        sed -n 's/.* => \(.*\) (.*/\1/p; s/^[[:space:]]*\(\/lib[^ ]*ld-[^ ]*\) (.*/\1/p') && \
	    mkdir -p files/bin files/etc files/lib files/lib64 && \
	    echo root:x:0:0::/:/bin/sh >files/etc/passwd && \
	    cp root/usr/bin/memcached files/bin && \
	    cp -L $$libraries files/lib && mv files/lib/ld-* files/lib64 && \
	    cd files && find . | cpio --quiet -o -H newc -R 0:0 >$@
	rm -r $(GUEST_CACHE)/memcached

build/guest/initramfs-memcached: build/guest/initramfs $(GUEST_CACHE)/memcached.cpio
	cat $^ >$@
