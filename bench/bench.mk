# SPDX-License-Identifier: GPL-2.0-or-later
#
# make bench              all measurements, about 40 minutes
# make bench QUICK=1      the same with fewer rounds, under 5
# make bench ONLY="placement floor moves service scale encryption"   only these
# make bench-publish      what the last run found, into docs/benchmark and README.md

BENCH_OPTIONS = $(if $(filter 1,$(QUICK)),--quick) $(if $(ONLY),--only $(ONLY))

.PHONY: bench bench-publish
$(BUILD)/bench/placement: bench/placement.c daemon/uffdio.h
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $<

bench:
	tools/deps bench
	$(MAKE) --no-print-directory all qemu guest \
	    build/guest/initramfs-memcached $(BUILD)/bench/placement \
	    $(TEST_PROGRAMS)
	/usr/bin/python3 bench/bench.py $(BENCH_OPTIONS)

bench-publish:
	/usr/bin/python3 bench/report.py $(BUILD)/bench .
