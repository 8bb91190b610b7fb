# SPDX-License-Identifier: GPL-2.0-or-later
"""Two remapd that are attacked, and what must hold meanwhile."""

import contextlib
import re
import threading

# pylint: disable=import-error
from pair import Failed, Migration, require, wait_until
from wire import PATIENCE

COMPLAINT = re.compile(r"remapd: (?:error|warning): (.*)")


class Arena:
    """The two daemons of all tests, and what they were before."""

    def begin(self, pair):
        # pylint: disable=attribute-defined-outside-init
        self.pair = pair
        self.source, self.destination = pair.hosts
        pair.migrate(mib=4)
        self.baseline = {host: host.remapd.process.descriptors()
                         for host in pair.hosts}

    def quiet(self, host):
        return host.remapd.process.descriptors() <= self.baseline[host]

    @contextlib.contextmanager
    def attack(self, host, says, lines=1):
        """`says`: what the line in the log must match; None: no line."""
        mark = len(host.remapd.process.output())
        with self.bystanders():
            yield
            if says:
                self.wait_for_line(host, mark, says)
        wait_until(lambda: self.quiet(host),
                   f"descriptors: {host.remapd.process.descriptors()}, were "
                   f"{self.baseline[host]}", PATIENCE)
        self.pair.check_daemon(host)
        # Also said, where it applies: what it means that this QEMU leaves.
        found = [line for line in
                 COMPLAINT.findall(host.remapd.process.output()[mark:])
                 if "QEMU has left" not in line or
                 "QEMU has left" in (says or "")]
        require(len(found) == (lines if says else 0),
                f"{len(found)} lines in the log: {found}")

    @staticmethod
    def wait_for_line(host, mark, says):
        def found():
            return COMPLAINT.findall(host.remapd.process.output()[mark:])

        def matches():
            host.remapd.process.check_alive()
            return any(re.search(says, line) for line in found())
        try:
            wait_until(matches, "line in the log", PATIENCE)
        except Failed as error:
            raise Failed(f"{error}: /{says}/, found {found()}") from None

    @contextlib.contextmanager
    def bystanders(self):
        """Migrations that go on, one after the other, all the while."""
        ended = threading.Event()
        failures = []

        def migrate():
            try:
                while True:
                    Migration(self.pair, mib=8, kind="anon").finish(60)
                    if ended.is_set():
                        return
            except Exception as error: # pylint: disable=broad-except
                failures.append(error)
        thread = threading.Thread(target=migrate)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if failures:
            raise Failed(f"another migration suffered: {failures[0]}")


ARENA = Arena()
