# SPDX-License-Identifier: GPL-2.0-or-later
"""One host's remapd."""

import json
import os
import re
import subprocess
import tempfile

from .basics import BUILD, Failed, PATIENCE, run, wait_until

PORT = 7654


def find_remapd():
    """$REMAPD, or what the project has built."""
    return os.environ.get("REMAPD", str(BUILD / "remapd"))


# A call that is not in its list ends it; a sanitizer makes calls of its own,
# and a machine for tests may have a kernel without seccomp.
SANDBOX = os.environ.get("SANDBOX", "off" if "san/" in find_remapd() else "kill")
# Encryption between hosts: off, where it is not what is tested, or on.
TLS = os.environ.get("TLS", "off")


def tls_options(host, tls):
    if (tls or TLS) != "on":
        return ("--tls", "off")
    from . import pki # pylint: disable=import-outside-toplevel
    return pki.host_options(host)


def lacks_remap():
    """None, or why engine remap cannot be had here."""
    if re.search(r"^ *remap +yes$", run(find_remapd(), "--probe"), re.MULTILINE):
        return None
    return "this kernel has no UFFDIO_REMAP, see make check-kernel"


def refusal(*options):
    """What a remapd says that must not start with these options."""
    with tempfile.TemporaryDirectory(prefix="remapd-") as directory:
        ended = subprocess.run(
            [find_remapd(), "--handoff", f"{directory}/h",
             "--control", f"{directory}/c", "--listen", "127.0.0.1:0", *options],
            capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    if ended.returncode != 1:
        raise Failed(f"remapd ended with {ended.returncode}: {ended.stderr}")
    return ended.stderr


class Remapd:
    def __init__(self, host, options=(), program=None, tls=None):
        self.handoff = host.directory / "handoff"
        self.control = host.directory / "control"
        self.reports = host.directory / "reports"
        self.reports.mkdir(exist_ok=True)
        # One that was here before has written into the same log.
        log = host.directory / "remapd.log"
        self.said = len(log.read_text(errors="replace")) if log.exists() else 0
        self.process = host.spawn(
            [program or find_remapd(),
             "--handoff", self.handoff, "--control", self.control,
             "--peer-timeout", str(int(10 * PATIENCE)),
             "--listen", f"{host.address}:{PORT}",
             "--report-dir", self.reports, "--sandbox", SANDBOX,
             *tls_options(host, tls), *options], "remapd")
        wait_until(self._ready, "remapd is ready")

    def _ready(self):
        self.process.check_alive()
        return "ready" in self.process.output()[self.said:]

    def report(self, role, name, known, seconds=10):
        """The report of the newest migration of this VM that is not among the
        `known` file names."""
        return wait_until(lambda: self._find(role, name, known),
                          f"report of {name} as {role}", seconds)

    def known_reports(self):
        return {file.name for file in self.reports.glob("*.json")}

    def _find(self, role, name, known):
        for file in self.reports.glob(f"*-{role}.json"):
            if file.name in known:
                continue
            try:
                report = json.loads(file.read_text())
            except ValueError: # still being written
                continue
            if report["name"] == name:
                return report
        return None

    def close(self):
        self.process.close()
