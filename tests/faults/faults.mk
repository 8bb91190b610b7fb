# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-faults   migrations in which system calls are late, short or fail
# make FAULTS=1 BUILD=build/faults   such a remapd; see tests/faults/faults.c
#
# The linker redirects the calls: the daemon's code knows nothing of it.

FAULT_CALLS = fallocate ioctl madvise mmap poll pread process_vm_readv \
	process_vm_writev pthread_create read recv recvmsg sendmsg

ifdef FAULTS
$(BUILD)/remapd: LDFLAGS += $(FAULT_CALLS:%=-Wl,--wrap=%)
$(BUILD)/remapd: $(BUILD)/tests/faults.o
endif

# Its calls take what the daemon's do; -Wmissing-prototypes has nothing to say.
$(BUILD)/tests/faults.o: tests/faults/faults.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

.PHONY: check-faults check-faults-here
check-faults-here: $(BUILD)/remapd $(TEST_PROGRAMS)
	$(run_suite)faults tests/faults/run.py $(TESTS)

check-faults:
	+$(MAKE) --no-print-directory BUILD=build/faults FAULTS=1 check-faults-here
