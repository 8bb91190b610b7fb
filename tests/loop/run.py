#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations without a guest, through two real remapd.

run.py [PART OF A NAME]...   runs the tests that have one of these, or all
MIB=NUMBER                   how much most of them move
"""

import contextlib
import os
import re
import sys

# pylint: disable=import-error
from pair import (Failed, Migration, PROGRAMS, Pair, Process, SANITIZED,
                  huge_pages, own_network, require, run, wait_until)
from harness import Skip, run as run_tests, test
from lab.basics import stop_on_signals
from lab.daemon import PORT, lacks_remap, refusal
from lab.pingpong import PingPong

KINDS = ("anon", "thp", "memfd", "hugetlb", "hugetlb-shared")
FRAME_OVERHEAD = 32 + 128 # header and masks
# For each of few blocks; hugetlb: 2 MiB pages.
MIB = int(os.environ.get("MIB", 8 if SANITIZED else 64))
IN_FLIGHT = 2 << 20 # one bulk frame
MAP_CONSTANT = 128 << 10


def allowed_engines(kind, forced):
    if kind in ("anon", "thp"):
        return ("copy",) if forced in ("copy", "continue") else \
            ("copy", "move", "remap")
    if kind == "hugetlb":
        return ("copy",)
    return ("copy",) if forced == "copy" else ("continue",)


def check_figures(migration):
    """What the two reports say fits what was sent."""
    figures = migration.figures
    source, destination = (migration.report(role)
                           for role in ("source", "destination"))
    pages = destination["pages"]
    for report in (source, destination):
        require(report["state"] == "complete" and not report["error"],
                f"{report['role']}: {report['state']} {report['error']}")
        require(report["pages"]["total"] == figures["left"],
                f"{report['pages']}, left were {figures['left']}")
        require(report["pages"]["left"] == 0, f"{report['pages']}")
    require(pages["data"] + pages["zero"] == figures["left"] ==
            pages["urgent"] + pages["bulk"], f"{pages}, {figures}")
    require(pages["data"] == figures["left_data"],
            f"{pages['data']} pages with bytes, there were "
            f"{figures['left_data']}")
    # Zero pages never travel as payload, and few travel twice.
    payload = (pages["data"] + pages["duplicate"]) * 4096
    frames = (pages["total"] + pages["duplicate"]) * FRAME_OVERHEAD
    # A frame that was on its way when the last page came is not counted.
    late = IN_FLIGHT if pages["data"] else 4096
    require(pages["data"] * 4096 <= destination["bytes_on_wire"] <=
            payload + frames + late,
            f"{destination['bytes_on_wire']} bytes received for {pages}")
    latency = destination["fault_latency_us"]
    require(latency["count"] <= destination["faults"] and
            latency["p50"] <= latency["p99"] <= latency["max"] <=
            1e6 * destination["seconds"] + 1000, f"{latency}")
    require(latency["count"] or not pages["urgent"], f"{destination}")
    require(destination["map_bytes"] <= figures["pages"] + MAP_CONSTANT,
            f"the map takes {destination['map_bytes']} bytes")
    return destination


def pages_for(kind, mib=MIB):
    """The huge pages that source and destination need."""
    if kind.startswith("hugetlb"):
        return huge_pages(2 * (mib + 8) << 20)
    return contextlib.nullcontext()


@test(engine=("auto", "copy", "continue"), kind=KINDS)
def every_kind(engine, kind):
    with pages_for(kind), Pair(options=("--engine", engine)) as pair:
        moved = pair.migrate(kind=kind, mib=MIB, threads=2, blocks=3,
                             odd=True)
        report = check_figures(moved)
        require(report["engine"] in allowed_engines(kind, engine),
                f"engine {report['engine']}")


def migrate_by_remap(pair, **options):
    """The daemon's own pages become the guest's, none is copied."""
    moved = pair.migrate(**options)
    report = check_figures(moved)
    require("remap" in report["engine_bytes"] and
            report["pages"]["fallback"] == 0, f"{report}")
    return moved


def need_remap():
    reason = lacks_remap()
    if reason:
        raise Skip(reason)


@test(kind=("anon", "thp", "mixed"), left=(100, 50))
def remap_places(kind, left):
    need_remap()
    with Pair(options=("--engine", "remap")) as pair:
        migrate_by_remap(pair, kind=kind, mib=MIB, threads=2, blocks=3,
                         odd=True, left=left)


@test
def remap_keeps_pages_huge():
    """Where nobody waits every granule comes and moves as one huge page."""
    need_remap()
    with Pair() as pair:
        moved = migrate_by_remap(pair, kind="thp", mib=2 * MIB, zero=0,
                                 threads=0)
        require(moved.figures["huge_kib"] == 2 * MIB << 10 and
                "in pieces" not in pair.tail(),
                f"{moved.figures}; {pair.tail()}")


@test
def remap_on_many_channels():
    need_remap()
    with Pair(options=("--urgent-channels", "4",
                       "--bulk-channels", "8")) as pair:
        migrate_by_remap(pair, kind="thp", mib=MIB, threads=8)


@test(left=(100, 50, 0), kind=KINDS)
def left_by_precopy(left, kind):
    with pages_for(kind), Pair("loopback") as pair:
        moved = pair.migrate(kind=kind, mib=MIB, left=left, threads=2)
        check_figures(moved)
        total = moved.figures["pages"]
        require((left == 100) == (moved.figures["left"] == total) and
                (left == 0) == (moved.figures["left"] == 0),
                f"{moved.figures}")


@test(kind=KINDS)
def only_zeros(kind):
    with pages_for(kind), Pair() as pair:
        moved = pair.migrate(kind=kind, mib=MIB, zero=100)
        report = check_figures(moved)
        require(report["pages"]["data"] == 0, f"{report['pages']}")
        # What the source had no memory for takes none at the destination,
        # not even later.
        log = pair.hosts[1].remapd.process.output()
        require("came in pieces" not in log and
                moved.figures["huge_kib"] == 0,
                f"holes became {moved.figures['huge_kib']} KiB of huge pages")


@test(kind=("anon", "thp", "memfd"))
def holes_between_data(kind):
    with Pair() as pair:
        for seed in range(4):
            moved = pair.migrate(kind=kind, mib=MIB, holes=40, zero=20,
                                 threads=4, seed=seed)
            check_figures(moved)


@test
def a_file_that_nobody_has_touched():
    with Pair() as pair:
        moved = pair.migrate(kind="template", mib=MIB, zero=15, blocks=3,
                             odd=True)
        check_figures(moved)
        require(moved.figures["left_data"] > 0, f"{moved.figures}")


@test(kind=("anon", "memfd"))
def no_zeros(kind):
    with Pair() as pair:
        report = check_figures(pair.migrate(kind=kind, mib=MIB, zero=0))
        require(report["pages"]["zero"] == 0, f"{report['pages']}")


@test(blocks=(1, 7, 16))
def blocks_of_both_kinds(blocks):
    with Pair() as pair:
        moved = pair.migrate(kind="mixed", mib=MIB, blocks=blocks, odd=True)
        report = check_figures(moved)
        require(len(report["engine_bytes"]) == (1 if blocks == 1 else 2),
                f"{report['engine_bytes']}")


@test(threads=(1, 16))
def threads_that_touch(threads):
    with Pair() as pair:
        for seed in range(4):
            moved = pair.migrate(kind="memfd" if seed % 2 else "anon",
                                 mib=MIB, threads=threads, seed=seed)
            check_figures(moved)
            require(moved.figures["operations"] > 0, f"{moved.figures}")


def spliced(moved):
    """The share of the pages with bytes that QEMU has sent itself."""
    pages = moved.report("source")["pages"]
    return pages["spliced"] / max(pages["data"], 1)


@test(kind=("anon", "thp", "memfd"), splicer=("works", "none"))
def splicers_send(kind, splicer):
    with Pair() as pair:
        moved = pair.migrate(kind=kind, mib=MIB, threads=0, blocks=3, odd=True,
                             splicer=splicer)
        check_figures(moved)
        share = spliced(moved)
        print(f"# {share:.2f} of the pages with bytes were spliced")
        # What is left of a block behind its huge pages may be too little.
        good = share > 0.9 if splicer == "works" and kind != "memfd" \
            else share == 0
        require(good, f"{share} of the pages were spliced")


@test(splicer=("fails", "half", "stuck", "mute", "leaves"))
def splicers_fail(splicer):
    """Every byte is right all the same; a frame that is torn costs the
    connection."""
    with Pair() as pair:
        torn = splicer in ("half", "stuck")
        # Enough for each splicer to come to what goes wrong. What is torn is
        # asked for again by a guest that waits: nobody does.
        moved = pair.migrate(kind="thp", mib=64, threads=0 if torn else 2,
                             splicer=splicer)
        report = moved.report("source")
        require(report["state"] == "complete" and not report["error"],
                f"{report}")
        require((report["pauses"] > 0) == torn,
                f"{report['pauses']} pauses")
        share = spliced(moved)
        print(f"# {share:.2f} of the pages with bytes were spliced, "
              f"{report['paused_seconds']:.1f} s paused")
        require(0 < share < 0.99, f"{share} of the pages were spliced")


@test(channels=((4, 8), (2, 1)))
def many_channels(channels):
    urgent, bulk = channels
    with Pair(options=("--urgent-channels", str(urgent), "--bulk-channels",
                       str(bulk))) as pair:
        for kind in ("anon", "memfd"):
            check_figures(pair.migrate(kind=kind, mib=MIB, threads=8))


@test(link=("none", "loopback"))
def sixteen_at_once(link):
    with Pair(link) as pair:
        migrations = [Migration(pair, kind=("anon", "thp", "memfd")[i % 3],
                                mib=8, seed=i) for i in range(16)]
        for migration in migrations:
            check_figures(migration.finish())


@test
def a_slow_link():
    with Pair("100mbit") as pair:
        check_figures(pair.migrate(kind="anon", mib=8, zero=50))


def all_controls(host):
    """The congestion control of each of the three connections to the other
    remapd, once there are three."""
    text = run("ip", "netns", "exec", host.namespace, "ss", "-tinHO",
               "dport", f"= :{PORT}")
    controls = re.findall(r"\s(cubic|reno|bbr)\s", text)
    return controls if len(controls) == 3 else None


@test(control=("default", "reno"))
def congestion_control(control):
    """The default does not pace, whatever the host's own does."""
    asked = () if control == "default" else ("--tcp-congestion", control)
    with Pair("100mbit", options=asked) as pair:
        migration = Migration(pair, kind="anon", mib=16)
        source = pair.hosts[0]
        seen = wait_until(lambda: all_controls(source), "three connections")
        check_figures(migration.finish())
    allowed = {"cubic", "reno"} if control == "default" else {control}
    require(len(set(seen)) == 1 and set(seen) <= allowed, f"{seen}")


@test
def no_such_congestion_control():
    said = refusal("--tls", "off", "--tcp-congestion", "nonesuch")
    require("tcp-congestion: the kernel has none called nonesuch" in said,
            said)


@test
def the_maps_memory():
    """At most one byte a granule and a constant, by the daemon's own words."""
    taken = {}
    with Pair() as pair:
        for mib in (16, 256):
            moved = pair.migrate(kind="anon", mib=mib, zero=90)
            report = check_figures(moved)
            taken[moved.figures["pages"]] = report["map_bytes"]
        said = re.findall(r"([\d.]+) a granule of 4 KiB",
                          pair.hosts[1].remapd.process.output())
    (few, few_bytes), (many, many_bytes) = sorted(taken.items())
    slope = (many_bytes - few_bytes) / (many - few)
    print(f"# map: {slope:.3f} bytes a granule, constant "
          f"{few_bytes - slope * few:.0f}; the daemons say {said}")
    require(slope <= 1, f"{taken}")
    require(len(said) == 2 and all(float(each) <= 1 for each in said),
            f"the daemon says {said}")


def best(rows, key):
    return sorted(row[key] for row in rows)[len(rows) // 2]


@test(link=("none", "10gbit", "1gbit"), engine=("copy", "auto"))
def urgent_against_the_floor(link, engine):
    """Faults while bulk fills the link, against a bare request and answer of
    the size that was fetched for a fault. Prints; the benchmark judges."""
    if SANITIZED:
        raise Skip("speed means nothing with a sanitizer")
    rows = []
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(Pair(link, ("--engine", engine)))
        floor = stack.enter_context(
            PingPong(PROGRAMS / "pingpong", *pair.hosts))
        for seed in range(3):
            moved = pair.migrate(kind="thp", seed=seed, zero=0,
                                 mib=128 if link == "1gbit" else 512)
            report = check_figures(moved)
            latency = report["fault_latency_us"]
            require(latency["count"] > 0, "no fault was measured")
            fetched = report["pages"]["urgent"] * 4096 / report["faults"]
            size = 4096
            while size < fetched and size < 2 << 20:
                size *= 2
            idle = floor.ping(size)["p50"]
            with floor.streaming():
                beside = floor.ping(size)["p50"]
            rows.append({"size": size, "idle": idle, "beside": beside,
                         "p50": latency["p50"], "p99": latency["p99"]})
    for row in rows:
        print(f"# bare {row['size'] >> 10} KiB p50 {row['idle']:.0f} us idle, "
              f"{row['beside']:.0f} beside a stream; fault p50 {row['p50']}, "
              f"p99 {row['p99']} while bulk runs")
    print(f"# link {link}, engine {engine}, medians of 3: fault p99 / bare p50 idle "
          f"{best(rows, 'p99') / best(rows, 'idle'):.1f}, beside a stream "
          f"{best(rows, 'p99') / best(rows, 'beside'):.1f}")


if __name__ == "__main__":
    stop_on_signals()
    own_network()
    sys.exit(run_tests(sys.argv[1:]))
