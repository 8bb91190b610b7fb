#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves a running Linux guest by post-copy through two remapd and shows that
nothing of it was lost. `make demo` runs this; README.md names the knobs."""

import json
import os
import pathlib
import statistics
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests"))

# pylint: disable=wrong-import-position
from lab import Failed, Lab, Refused
from lab.basics import bytes_of, stop_on_signals
from lab.hosts import parse_link
from lab.machine import check_accelerator
from lab.memory import check_backend

REPORT = TOP / "build/demo/report.json"
INSTALLED = {"REMAPD": "/usr/sbin/remapd",
             "QEMU": "/usr/lib/remapd/qemu-system-x86_64"}
COMPARED = {
    "postcopy_seconds": "time to drain, s",
    "guest_longest_stall_ms": "guest's longest stall, ms",
    "guest_operations_first_second": "guest's operations in the first second",
    "downtime_seconds": "downtime, s",
}
ROUNDS = 3


def knob(name, default, allowed=None):
    value = os.environ.get(name) or default
    if allowed and value not in allowed:
        raise Refused(f"{name}={value}: allowed are {', '.join(allowed)}")
    return value


def use_installed():
    """The packages' files instead of what the tree has built."""
    for name, path in INSTALLED.items():
        if not os.access(path, os.X_OK):
            raise Refused(f"INSTALLED=1: {path} is not there: install the "
                          "packages of `make deb`")
        os.environ[name] = path


class Knobs:
    def __init__(self):
        vcpus = knob("VCPUS", "1")
        if not vcpus.isdecimal() or not 1 <= int(vcpus) <= 64:
            raise Refused(f"VCPUS={vcpus}: allowed are 1 to 64")
        self.vcpus = int(vcpus)
        self.memory = knob("MEMORY", "1G")
        try:
            size = bytes_of(self.memory)
        except Refused as error:
            raise Refused(f"MEMORY={error}") from None
        if size < 256 << 20 or size % (2 << 20):
            raise Refused(f"MEMORY={self.memory}: allowed are 256M and more, "
                          "in steps of 2M")
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if 2 * size > free:
            raise Refused(f"MEMORY={self.memory}: both hosts are this machine, "
                          f"allowed is half of its {free >> 20}M")
        self.backend = knob("BACKEND", "thp")
        check_backend(self.backend)
        self.precopy = knob("PRECOPY", "0", ("0", "1")) == "1"
        self.link = knob("LINK", "none")
        parse_link(self.link)
        self.compare = knob("COMPARE", "0", ("0", "1")) == "1"
        self.accel = knob("ACCEL", "tcg", ("tcg", "kvm"))
        if knob("INSTALLED", "0", ("0", "1")) == "1":
            use_installed()

    def __str__(self):
        return (f"{self.vcpus} vCPU, MEMORY={self.memory}, "
                f"BACKEND={self.backend}, "
                f"{'one round of pre-copy first' if self.precopy else 'immediate post-copy'}, "
                f"LINK={self.link}, ACCEL={self.accel}")


class Story:
    """What happens, told with the seconds since the start."""

    def __init__(self):
        self.start = time.monotonic()
        self.shown = 0.0

    def tell(self, text):
        print(f"[{time.monotonic() - self.start:6.1f} s] {text}", flush=True)

    def progress(self, move):
        """A line a quarter of a second."""
        if time.monotonic() < self.shown + 0.25:
            return
        self.shown = time.monotonic()
        newest = move.vm.guest.newest()
        now = move.information()
        left = now.get("ram", {}).get("remaining", 0)
        sent = move.old_host.bytes_sent() - move.before["bytes"]
        self.tell(f"  {now.get('status')}: {left >> 20} MiB left, "
                  f"{sent >> 20} MiB on the wire; the guest has done "
                  f"{newest['ops']} operations, {newest['errors']} wrong")


def check(move, guest, before, verified_pages):
    """Raises unless the guest is whole and is the one that left."""
    ready = next(m for m in guest.messages if m.word == "READY")
    newest = guest.newest()
    if verified_pages != ready["pages"]:
        raise Failed(f"{verified_pages} of {ready['pages']} pages verified")
    if newest["id"] != before["id"] or newest["ops"] <= before["ops"]:
        raise Failed("the guest's program did not go on where it was")
    if guest.errors():
        raise Failed(f"the guest saw {guest.errors()} wrong pages")
    if move.engine() == "native":
        left = move.information_at_end["ram"]["remaining"]
    else:
        left = move.report("destination")["pages"]["left"]
    if left:
        raise Failed(f"{left} pages never arrived")


def migrate(knobs, story, native):
    """One VM, booted, moved and checked; returns its figures."""
    pager = None if native else "required"
    by = "QEMU's own post-copy" if native else "remapd"
    with Lab(link=knobs.link, daemons="" if native else "ab") as lab:
        story.tell("two hosts" + ("" if native else ", a remapd in each")
                   + "; a Linux guest boots and fills its memory")
        vm = lab.vm("demo", vcpus=knobs.vcpus, memory=knobs.memory,
                    backend=knobs.backend, accel=knobs.accel)
        vm.start(pager=pager)
        pages = vm.guest.messages[0]["pages"]
        story.tell(f"the guest reads and writes {pages} pages at random; it is "
                   f"moved by {by}")
        before = vm.guest.newest()
        move = vm.move(precopy=knobs.precopy, pager=pager,
                       warm=knobs.compare, progress=story.progress)
        move.settle()
        story.tell(f"all memory has arrived, {move.postcopy_seconds():.2f} s "
                   "after the switchover; the guest checks every page")
        vm.wait_runs()
        figures = move.figures()
        verified, zero = vm.verify()
        check(move, vm.guest, before, verified)
        story.tell(f"VERIFIED: {verified} pages, {zero} of them zero, after "
                   f"{vm.guest.newest()['ops']} operations")
        return {"verified": True, **figures}


def mebibytes(number):
    return f"{number / 2**20:.1f} MiB"


def show(report):
    pages, latency = report["pages"], report["fault_latency_us"]
    rows = [
        ("verified", "yes, every page" if report["verified"] else "NO"),
        ("engine", report["engine"]),
        ("whole migration", f"{report['total_seconds']:.2f} s"),
        ("downtime", f"{report['downtime_seconds'] * 1000:.1f} ms"),
        ("post-copy", f"{report['postcopy_seconds']:.2f} s"),
        ("on the wire", mebibytes(report["bytes_on_wire"])),
        ("pages", f"{pages['total']}: {pages['zero']} zero, {pages['urgent']} "
                  f"urgent, {pages['bulk']} in bulk"),
        ("faults", f"{latency['count']}" + (
            "" if latency["p50"] is None else
            f", answered in {latency['p50']} µs (p50), {latency['p99']} µs "
            f"(p99), {latency['max']} µs (longest)")),
        ("guest's longest stall", f"{report['guest_longest_stall_ms']:.1f} ms"),
        ("guest's work", f"{report['guest_operations_first_second']} operations "
                         "in the first second, "
                         f"{report['guest_operations_per_second_before']} a "
                         "second before"),
        ("huge pages", f"{mebibytes(report['thp_bytes_source'])} at the source, "
                       f"{mebibytes(report['thp_bytes_destination'])} at the "
                       "destination" + (
                           "" if report["huge_kept"] is None else
                           f"; {report['huge_kept']:.1%} of them kept")),
        ("CPU", ", ".join(f"{name} {seconds:.2f} s" for name, seconds
                          in report["cpu_seconds"].items())),
    ]
    print()
    for name, value in rows:
        print(f"  {name:<22} {value}")


def compared(runs):
    return {key: statistics.median(run[key] for run in runs)
            for key in COMPARED}


def show_comparison(comparison):
    print(f"\n  median of {ROUNDS}, interleaved:"
          f"{'remapd':>28}{'QEMU alone':>14}{'ratio':>8}")
    for key, text in COMPARED.items():
        ours, native = comparison["remapd"][key], comparison["native"][key]
        ratio = f"{ours / native:.2f}" if native else "-"
        print(f"  {text:<42}{ours:>12g}{native:>14g}{ratio:>8}")


def demo():
    knobs = Knobs()
    if sys.argv[1:] == ["--check"]: # the knobs, before anything is built
        return
    if knobs.accel == "kvm":
        reason = check_accelerator("kvm")
        if reason:
            print(f"demo: SKIPPED, ACCEL=kvm runs no guest here: {reason}")
            return
    print(f"remapd demo: {knobs}", flush=True)
    story = Story()
    ours, native = [], []
    for _ in range(ROUNDS if knobs.compare else 1):
        if knobs.compare:
            native.append(migrate(knobs, story, native=True))
        ours.append(migrate(knobs, story, native=False))
    ours.sort(key=lambda run: run["postcopy_seconds"])
    report = ours[len(ours) // 2]
    show(report)
    if knobs.compare:
        comparison = {"remapd": compared(ours), "native": compared(native)}
        show_comparison(comparison)
        report = {**report, "compare": comparison,
                  "runs": {"remapd": ours, "native": native}}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n  {REPORT.relative_to(TOP)} has the figures")


if __name__ == "__main__":
    stop_on_signals()
    # A report is of this run or there is none.
    REPORT.unlink(missing_ok=True)
    try:
        demo()
    except (Failed, Refused) as error:
        sys.exit(f"demo: {error}")
