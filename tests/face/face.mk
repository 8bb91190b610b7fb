# SPDX-License-Identifier: GPL-2.0-or-later
#
# make check-face      remapctl, --help, metrics and the manual pages

# Out of Debian's package, whose service nobody wants here.
PROMTOOL := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/remapd/promtool

$(PROMTOOL):
	@mkdir -p $(@D)
	cd $(@D) && rm -rf prom prometheus_*.deb && \
	    apt-get -q -o APT::Sandbox::User=root download prometheus && \
	    dpkg -x prometheus_*.deb prom && rm prometheus_*.deb && \
	    cp prom/usr/bin/promtool $@ && rm -r prom

.PHONY: check-face
check-face: $(BUILD)/remapd $(BUILD)/remapctl $(BUILD)/tests/guestless $(PROMTOOL)
	PROMTOOL=$(PROMTOOL) $(run_suite)face tests/face/run.py $(TESTS)
