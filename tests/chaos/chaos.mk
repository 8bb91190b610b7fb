# SPDX-License-Identifier: GPL-2.0-or-later
#
# make chaos [RUNS=100] [SEED=n] [RUN=n] [JOBS=2]   migrations to which things
#           happen, drawn from a seed; RUN: that one alone, again
# make check-chaos    some, from seeds that are always the same and a new one

JOBS ?= 2
CHAOS_NEEDS = $(BUILD)/remapd $(TEST_PROGRAMS) $(BUILD)/tests/control_pb2.py

.PHONY: chaos check-chaos
chaos: $(CHAOS_NEEDS)
	$(MAKE) --no-print-directory qemu guest
	tests/chaos/run.py $(if $(RUNS:0=),--runs $(RUNS)) \
	    $(if $(SEED),--seed $(SEED)) $(if $(RUN),--run $(RUN)) --jobs $(JOBS)

check-chaos: $(CHAOS_NEEDS)
	tests/lib/suite chaos tests/chaos/run.py --check --jobs 4
