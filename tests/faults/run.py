#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations between two remapd whose system calls are late, short or fail;
see faults.c.

run.py [PART OF A NAME]...   runs the tests that have one of these, or all
SEED=NUMBER RUNS=NUMBER      the first of the seeds, and how many
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "loop"))
# pylint: disable=wrong-import-position,import-error
from pair import (Failed, Migration, Pair, huge_pages, own_network, require)
from harness import run as run_tests, test
from lab.basics import stop_on_signals

MIB = 64
SEED = int(os.environ.get("SEED", 1))
HARD_RUNS = int(os.environ.get("RUNS", 4))
COUNTED_RUNS = 32
END_SECONDS = 180
FAULTS = re.compile(r"faults: (\d+) late, (\d+) short, (\d+) again, "
                    r"(\d+) failed, of (\d+) calls")


@contextlib.contextmanager
def faults(seed, kind):
    """Daemons that are started within have faults."""
    os.environ["REMAPD_FAULTS"] = f"{seed}:{kind}"
    try:
        yield
    finally:
        del os.environ["REMAPD_FAULTS"]


def memory_for(kind):
    return huge_pages(2 * (MIB + 8) << 20) if kind.startswith("hugetlb") \
        else contextlib.nullcontext()


def counts(pair):
    """Ends the daemons; (late, short, again, failed, calls) of each."""
    pair.end_daemons()
    pair.end_daemons = lambda: None
    found = [FAULTS.search(host.remapd.process.output())
             for host in pair.hosts]
    require(all(found), f"no counts: is it built with FAULTS=1? {pair.tail()}")
    return [tuple(map(int, match.groups())) for match in found]


@test(kind=("anon", "thp", "memfd", "hugetlb", "hugetlb-shared"))
def survived(kind):
    """Late, short and interrupted calls are not even an event."""
    with memory_for(kind), faults(SEED, "soft"), Pair("loopback") as pair:
        moved = pair.migrate(kind=kind, mib=MIB, threads=2, seed=SEED,
                             blocks=2)
        require("paused" not in pair.tail(), pair.tail())
        source, destination = counts(pair)
    print(f"# SEED={SEED}: late, short, again, failed, calls: source {source}, "
          f"destination {destination}; wrong {moved.figures['wrong']}")
    late, short, again, failed, _ = map(sum, zip(source, destination))
    require(late and short and again and not failed,
            f"{source}, {destination}")


@test
def every_page_is_counted_once():
    """Many receive at once, and are late, while the thread that reads faults
    looks for what others have left undone."""
    options = ("--urgent-channels", "4", "--bulk-channels", "8")
    for seed in range(SEED, SEED + COUNTED_RUNS):
        with faults(seed, "soft"), Pair("loopback", options) as pair:
            moved = pair.migrate(kind="memfd", mib=8, threads=8, seed=seed)
            pages = moved.report("destination")["pages"]
            require(pages["data"] + pages["zero"] == moved.figures["left"],
                    f"SEED={seed}: {pages} of {moved.figures['left']}")


def judge(migration, pair):
    """It has come to an end of its own; what kind of end was it?"""
    try:
        code = migration.process.child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"hangs: {pair.tail()}") from None
    text = migration.process.output()
    require("is wrong" not in text, text)
    if code == 0:
        require(json.loads(text.strip())["wrong"] == 0, text)
        return "complete"
    said = re.search(r"guestless: expected message \d+, got (39|40): (.+)",
                     text)
    require(said, f"no reason: {text}; {pair.tail()}")
    logs = "".join(host.remapd.process.output() for host in pair.hosts)
    require(re.search(r"(paused|failed)[^:]*: \S", logs),
            f"no line in a log: {pair.tail()}")
    return f"{('paused', 'failed')[said[1] == '40']}: {said[2]}"


@test(kind=("anon", "memfd", "thp", "hugetlb"))
def never_wrong_never_stuck(kind):
    """Calls that fail: all pages are right, or the session says why it has
    stopped, and the daemon serves the next."""
    with memory_for(kind):
        for seed in range(SEED, SEED + HARD_RUNS):
            with faults(seed, "hard"), \
                    Pair("loopback", ("--reconnect-interval", "1")) as pair:
                end = judge(Migration(pair, kind=kind, mib=MIB, threads=2,
                                      seed=seed, blocks=2), pair)
                for host in pair.hosts:
                    host.remapd.process.check_alive()
                print(f"# SEED={seed}: {end}; failed calls "
                      f"{[side[3] for side in counts(pair)]}", flush=True)


if __name__ == "__main__":
    stop_on_signals()
    own_network()
    sys.exit(run_tests(sys.argv[1:]))
