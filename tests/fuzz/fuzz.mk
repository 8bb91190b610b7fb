# SPDX-License-Identifier: GPL-2.0-or-later
#
# make fuzz [FUZZ="names"] [SECONDS=60] [RUNS=n]   libFuzzer on each harness;
#                 RUNS: in turns until each has been executed so often
# make check-fuzz   the corpora again, and 5 s more on each
#
# libvirt's hook is Python: tests/fuzz/hook.py damages its XML.
#
# A harness is tests/fuzz/NAME.c; what it has learnt stays in tests/fuzz/corpus/.

FUZZ ?= $(basename $(notdir $(wildcard tests/fuzz/*.c)))
SECONDS ?= 60
RUNS ?= 0
FUZZ_BUILD = build/fuzz
FUZZ_MAKE = $(MAKE) --no-print-directory BUILD=$(FUZZ_BUILD) CC=clang \
	CFLAGS="-O2 -g -Wno-unknown-warning-option -fprofile-instr-generate -fcoverage-mapping" \
	SANITIZE="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all -fno-omit-frame-pointer"
FUZZ_PROGRAMS = $(FUZZ:%=$(BUILD)/fuzz/%)

.PHONY: fuzz check-fuzz fuzz-build fuzz-programs
fuzz-programs: $(FUZZ_PROGRAMS)

$(BUILD)/daemon.a: $(DAEMON_OBJECTS)
	rm -f $@ && ar rcs $@ $^

# What a harness has itself, by including a .c, is not taken out of the archive.
$(BUILD)/fuzz/%: tests/fuzz/%.c tests/fuzz/fuzz.h tests/fuzz/memory_msg.h \
	tests/fuzz/no_json.h \
	$(BUILD)/daemon.a
	@mkdir -p $(@D)
	$(CC) -std=c17 -D_GNU_SOURCE -I$(BUILD) -Wall -Wextra -Werror $(CFLAGS) \
	    $(SANITIZE) -fsanitize=fuzzer -o $@ $< $(BUILD)/daemon.a $(LIBS)

fuzz-build:
	+$(FUZZ_MAKE) fuzz-programs FUZZ="$(FUZZ)"

fuzz: fuzz-build
	tests/fuzz/run.py --seconds $(SECONDS) --runs $(RUNS) $(FUZZ)

check-fuzz:
	+tests/lib/suite fuzz tests/fuzz/run.py --check $(FUZZ)
	tests/lib/suite fuzz-hook tests/fuzz/hook.py
