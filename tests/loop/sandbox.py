#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a daemon may do and what it gives away: capabilities, core dumps, logs.

sandbox.py [PART OF A NAME]...   runs the tests that have one of these, or all
"""

import array
import contextlib
import functools
import os
import pathlib
import re
import resource
import signal
import struct
import sys
import tempfile
import time

# pylint: disable=import-error
from pair import Migration, Pair, own_network, require, wait_until
from harness import Skip, run as run_tests, test
from lab.basics import stop_on_signals
from lab.daemon import Remapd

# The bits of linux/capability.h.
ALLOWED = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19, "CAP_SYS_NICE": 23}
MASK64 = 2 ** 64 - 1
MIB = 16


@contextlib.contextmanager
def in_the_middle(kind, crash=False):
    """Two daemons, and a migration between them that takes its time, whose pages
    both hold for a while (with engine move the destination's may pass it by).
    `crash`: they need not come to a good end."""
    engine = "copy" if kind == "anon" else "auto"
    pair = Pair("100mbit", ("--log-level", "debug", "--engine", engine))
    if crash:
        pair.end_daemons = lambda: None
    with pair:
        migration = Migration(pair, kind=kind, mib=MIB, zero=0, seed=7)
        try:
            wait_until(lambda: "destination active" in
                       pair.hosts[1].remapd.process.output(), "active")
            yield pair, migration
        finally:
            migration.process.close()


def status(task):
    return dict(line.split(":\t", 1) for line in
                (task / "status").read_text().splitlines())


@test
def few_capabilities_and_a_filter():
    """In every thread, of both sides, while pages move."""
    with in_the_middle("anon") as (pair, migration):
        for host in pair.hosts:
            tasks = list(pathlib.Path(
                f"/proc/{host.remapd.process.pid}/task").iterdir())
            require(len(tasks) > 2, f"{len(tasks)} threads")
            for task in tasks:
                found = status(task)
                for name in ("CapEff", "CapPrm", "CapBnd"):
                    require(int(found[name], 16) ==
                            sum(1 << bit for bit in ALLOWED.values()),
                            f"{found['Name']}: {name} {found[name]}")
                require(not int(found["CapInh"], 16) and
                        not int(found["CapAmb"], 16), f"{found}")
                require(found["NoNewPrivs"] == "1" and found["Seccomp"] == "2",
                        f"{found['Name']}: NoNewPrivs {found['NoNewPrivs']}, "
                        f"Seccomp {found['Seccomp']}")
            print(f"# {len(tasks)} threads with CapEff {found['CapEff']}, "
                  f"Seccomp {found['Seccomp']}")
        migration.finish()


@test
def without_a_filter():
    with Pair("loopback", ("--sandbox", "off")) as pair:
        found = status(pathlib.Path(
            f"/proc/{pair.hosts[0].remapd.process.pid}"))
        require(found["Seccomp"] == "0", f"Seccomp {found['Seccomp']}")
        require(int(found["CapEff"], 16) == sum(1 << bit for bit in
                                                ALLOWED.values()),
                f"CapEff {found['CapEff']}")
        pair.migrate(kind="anon", mib=4)


@test
def reports_that_it_may_not_write_are_named_at_the_start():
    """Another user's directory is none to a root without its rights."""
    with Pair("loopback") as pair, tempfile.TemporaryDirectory() as name:
        os.chown(name, 65534, 65534)
        for place, reason in ((name, "Permission denied"),
                              (f"{name}/none", "No such file or directory"),
                              (pair.hosts[0].directory, None)):
            host = pair.hosts[0]
            host.remapd.close()
            host.remapd = Remapd(host, ("--report-dir", place))
            said = host.remapd.process.output()[host.remapd.said:]
            line = f"no report can be written to {place}: {reason}"
            require(line in said if reason else "no report" not in said, said)


@test
def who_may_not_read_the_guest_says_so_before_the_switchover():
    with Pair("loopback") as pair:
        source, destination = pair.hosts
        source.remapd.close()
        spawn = source.spawn
        source.spawn = lambda command, name: spawn(
            ["setpriv", "--bounding-set=-sys_ptrace", *command], name)
        source.remapd = Remapd(source)
        migration = Migration(pair, kind="anon", mib=4)
        migration.process.child.wait(60)
        said = source.remapd.process.output()
        require("may not read the memory of QEMU" in said, said)
        said = destination.remapd.process.output()
        require("joined" in said and "prepared" not in said, said)


# ---- what it gives away ----

def mix(x):
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & MASK64
    x = (x ^ x >> 27) * 0x94d049bb133111eb & MASK64
    return x ^ x >> 31


@functools.cache
def pattern(seed=7):
    """The words at three places of each page, as guestless writes them."""
    first = (mix(seed ^ page << 20) | 1 for page in range(MIB << 8))
    return {word + at & MASK64 for word in first for at in (0, 255, 511)}


def guest_words(data):
    words = array.array("Q")
    words.frombytes(data[:len(data) // 8 * 8])
    return len(set(words) & pattern())


def memory(pid):
    """All that the process can write, as it is now."""
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(text, 16)
                          for text in line.split()[0].split("-"))
            if line.split()[1].startswith("rw"):
                with contextlib.suppress(OSError):
                    mem.seek(start)
                    yield mem.read(end - start)


@contextlib.contextmanager
def cores_here(directory):
    """Core dumps go into the directory, which is the kernel's own default."""
    name = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in name or "|" in name:
        raise Skip(f"kernel.core_pattern is {name}: core dumps go elsewhere")
    before = os.getcwd()
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    os.chdir(directory)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
        if limits[1] == 0:
            raise Skip("the hard limit of core dumps is 0: ulimit -H -c")
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
        os.chdir(before)


def stop_with_pages(process, seconds=30):
    """Stops it at a moment when it holds pages of the guest."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.check_alive()
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: re.search(r"^State:\s+T", pathlib.Path(
            f"/proc/{process.pid}/status").read_text(), re.M), "stopped")
        found = sum(map(guest_words, memory(process.pid)))
        if found:
            return found
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.05)
    require(False, "the daemon never held a page")
    return 0


def check_texts(pair):
    """Neither as bytes nor in hexadecimal digits."""
    words = {f"{word:016x}" for word in pattern()}
    words |= {word.to_bytes(8, "little").hex()
              for word in map(lambda text: int(text, 16), set(words))}
    files = [file for host in pair.hosts
             for file in (host.remapd.process.log,
                          *host.remapd.reports.glob("*"))]
    for file in files:
        data = file.read_bytes()
        require(not any(guest_words(data[i:]) for i in range(8)),
                f"{file} has bytes of a page")
        digits = re.findall(r"[0-9a-f]{16}", data.decode(errors="replace"))
        require(not words & set(digits), f"{file} has words of a page")
    return len(files)


def dumped_memory(core):
    """A core without its notes. Those have each thread's registers as they
    were: 2 KiB, in which a copy that has just ended leaves what it moved."""
    at, = struct.unpack_from("<Q", core, 32)
    size, count = struct.unpack_from("<HH", core, 54)
    for head in range(at, at + size * count, size):
        kind, = struct.unpack_from("<I", core, head)
        offset, = struct.unpack_from("<Q", core, head + 8)
        length, = struct.unpack_from("<Q", core, head + 32)
        if kind == 1: # PT_LOAD
            yield core[offset:offset + length]


@test(side=("source", "destination"), kind=("anon", "memfd"))
def no_page_in_a_core(side, kind):
    """The daemon is stopped while it holds pages, and dumps core. Nor do the
    logs and the reports have any."""
    with tempfile.TemporaryDirectory(prefix="remapd-core-") as directory, \
         cores_here(directory), in_the_middle(kind, crash=True) as (pair, _):
        process = pair.hosts[("source", "destination").index(side)] \
            .remapd.process
        held = stop_with_pages(process)
        os.kill(process.pid, signal.SIGABRT)
        os.kill(process.pid, signal.SIGCONT)
        process.child.wait(60)
        cores = list(pathlib.Path(directory).iterdir())
        require(len(cores) == 1, f"core dumps: {cores}")
        data = cores[0].read_bytes()
        require(data[:4] == b"\x7fELF" and len(data) > 1 << 16,
                f"a core of {len(data)} bytes")
        found = sum(map(guest_words, dumped_memory(data)))
        print(f"# {side}, {kind}: of the guest's words {held} were in memory, "
              f"{found} in the core of {len(data) >> 10} KiB, none in "
              f"{check_texts(pair)} logs and reports")
        require(found == 0, f"{found} words of the guest in the core")


if __name__ == "__main__":
    stop_on_signals()
    own_network()
    sys.exit(run_tests(sys.argv[1:]))
