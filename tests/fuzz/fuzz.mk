# SPDX-License-Identifier: GPL-2.0-or-later
#
# make fuzz [FUZZ="names"] [SECONDS=60]   libFuzzer on each harness
# make check-fuzz   the corpora again, and 5 s more on each
#
# libvirt's hook is Python: tests/fuzz/hook.py damages its XML.
#
# A harness is tests/fuzz/NAME.c; what it has learnt stays in tests/fuzz/corpus/.
# One that includes a .c of the daemon gets the other objects.

FUZZ ?= $(basename $(notdir $(wildcard tests/fuzz/*.c)))
SECONDS ?= 60
FUZZ_BUILD = build/fuzz
FUZZ_MAKE = $(MAKE) --no-print-directory BUILD=$(FUZZ_BUILD) CC=clang \
	CFLAGS="-O1 -g -Wno-unknown-warning-option -fprofile-instr-generate -fcoverage-mapping" \
	SANITIZE="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all -fno-omit-frame-pointer"
FUZZ_PROGRAMS = $(FUZZ:%=$(BUILD)/fuzz/%)

.PHONY: fuzz check-fuzz fuzz-build fuzz-programs
fuzz-programs: $(FUZZ_PROGRAMS)

$(BUILD)/fuzz/%: tests/fuzz/%.c tests/fuzz/fuzz.h $(DAEMON_OBJECTS)
	@mkdir -p $(@D)
	$(CC) -std=c17 -D_GNU_SOURCE -I$(BUILD) -Wall -Wextra -Werror $(CFLAGS) \
	    $(SANITIZE) -fsanitize=fuzzer -o $@ $< $(filter-out \
	    $(shell sed -n 's,^#include "../../\(daemon/.*\)\.c"$$,$(BUILD)/\1.o,p' $<), \
	    $(DAEMON_OBJECTS)) $(LIBS)

fuzz-build:
	+$(FUZZ_MAKE) fuzz-programs FUZZ="$(FUZZ)"

fuzz: fuzz-build
	tests/fuzz/run.py --seconds $(SECONDS) $(FUZZ)

check-fuzz:
	+tests/lib/suite fuzz tests/fuzz/run.py --check $(FUZZ)
	tests/lib/suite fuzz-hook tests/fuzz/hook.py
