#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures remapd against UFFDIO_COPY and against QEMU's own post-copy.

Variants that are compared take turns, A B A B, in one run; figures are medians.
`make bench` runs this; build/bench/ then has report.json with every row,
report.md, and the plots."""

import argparse
import contextlib
import json
import math
import os
import pathlib
import platform
import re
import socket
import statistics
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests/loop")]

# pylint: disable=wrong-import-position
from lab import Failed, Lab, Refused
from lab.basics import run, stop_on_signals
from lab.hosts import CONGESTION
from lab.memory import Warm
from lab.pingpong import PingPong, spinning
from pair import Migration, Pair, huge_pages
import report
from service import Client, Network

BUILD = TOP / "build"
OUTPUT = BUILD / "bench"
PINGPONG = BUILD / "tests/pingpong"
PLACEMENT_BYTES = 64 << 20 # of one thread of placement.c
FAILURES_BORNE = 3 # moves that may fail, and are done again, before all ends
PLACEMENTS = ("copy-4k", "copy-2m", "continue-4k", "continue-2m", "move-2m",
              "remap-2m")

# Who carries the VM: the daemon's options, or QEMU's capabilities.
CARRIERS = {
    "remapd": {"options": ()},
    "remapd-copy": {"options": ("--engine", "copy")},
    "native": {"capabilities": ()},
    "preempt": {"capabilities": ("postcopy-preempt",)},
}
ALL = tuple(CARRIERS)
# name: the VM and how it moves, the lab, who competes, rounds
MOVES = {
    "random": ({}, {}, ALL, 7),
    report.CUBIC_CASE: ({}, {"congestion": "cubic"},
                        ("remapd", "native", "preempt"), 3),
    "random, after a round of pre-copy": ({"precopy": True}, {}, ALL, 3),
    "hot set of 10 %": ({"pattern": "hot"}, {}, ("remapd", "native"), 3),
    "sequential scan": ({"pattern": "scan"}, {}, ("remapd", "native"), 3),
    "shared memory (memfd)": ({"backend": "memfd"}, {},
                              ("remapd", "native"), 3),
    **{f"random, {vcpus} vCPUs": ({"vcpus": vcpus}, {}, ("remapd", "native"), 1)
       for vcpus in (2, 4, 8)},
    **{case: ({"memory": f"{gib}G"}, {}, ("remapd", "native", "preempt"), 3)
       for gib, case in report.LARGER_CASES.items()},
    "random, 10 Gb/s": ({}, {"link": "10gbit"}, ALL, 3),
    "random, 1 Gb/s": ({}, {"link": "1gbit"}, ("remapd", "native", "preempt"),
                       1),
    "random, 10 Gb/s, 1 ms away": ({}, {"link": "10gbit+1ms"},
                                   ("remapd", "native", "preempt"), 3),
    "random, 1 Gb/s, 0.1 ms away": ({}, {"link": "1gbit+0.1ms"},
                                    ("remapd", "native", "preempt"), 1),
}
QUICK_MOVES = ("random",)
# name: the lab
FLOORS = {"none": {}, report.CUBIC_LINK: {"congestion": "cubic"},
          "10gbit": {"link": "10gbit"}, "1gbit": {"link": "1gbit"}}
SIZES_MIB = (1024, 2048, 4096, 8192, 16384)
ROUND_MIB = 8192 # of each size that is no larger
SCALE_THREADS = (0, 1)
SPARSE_GIB = (1, 16, 64, 1024)
AT_ONCE = (1, 4, 16, 64)
TCP_ULP = 31 # linux/tcp.h


def say(text):
    print(f"[{time.monotonic() - START:6.0f} s] {text}", flush=True)


# ---- placement ----

def placement_row(method, threads, spinners, rounds):
    """One run of the program; None where the kernel lacks the method."""
    done = subprocess.run(
        [OUTPUT / "placement", method, str(threads), str(spinners),
         str(rounds)], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 3:
        return None, done.stderr.strip()
    if done.returncode:
        raise Failed(f"placement {method}: {done.stderr.strip()}")
    return json.loads(done.stdout), None


def placement(quick):
    rows, lacking = [], {}
    for threads in (1, 2) if quick else (1, 2, 4, 8):
        for spinners in (0, 1):
            for _ in range(1 if quick else 3):
                # hugetlb pages, for the method that needs them.
                with huge_pages(PLACEMENT_BYTES * threads):
                    for method in PLACEMENTS:
                        row, why = placement_row(method, threads, spinners, 4)
                        if row:
                            rows.append(row)
                        else:
                            lacking[method] = why
            say(f"placement: {threads} threads, {spinners} spinning")
    for method, why in lacking.items():
        say(f"placement: no {method}: {why}")
    return {"rows": rows, "lacking": lacking}


# ---- the floor ----

def floor(quick):
    """Bare TCP on the links of the migrations, beside a spinning process."""
    rows, lacking = [], {}
    for name, lab_options in FLOORS.items():
        if quick and lab_options:
            continue
        why = lacks(lab_options)
        if why:
            lacking[name] = why
            say(f"floor: {name}: not here: {why}")
            continue
        for _ in range(1 if quick else 3):
            with Lab(**lab_options, daemons="") as lab, spinning(), \
                 PingPong(PINGPONG, *lab.hosts) as bare:
                row = {"link": name}
                for size, count in (("4k", 4096), ("64k", 64 << 10),
                                    ("2m", 2 << 20)):
                    got = bare.ping(count)
                    row[f"p50_us_{size}"] = got["p50"]
                    row[f"p99_us_{size}"] = got["p99"]
                rows.append(row | bare.stream(2))
        say(f"floor: {name}: {rows[-1]}")
    return {"rows": rows, "lacking": lacking}


# ---- moves of a VM ----

def congestion_control():
    return pathlib.Path(CONGESTION).read_text(encoding="ascii").strip()


def peak_bytes(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


def bare_stream(lab):
    """MiB/s of one bare stream on this lab's link, beside a spinning process:
    what there is to be had while a guest runs."""
    with PingPong(PINGPONG, *lab.hosts) as bare, spinning():
        return bare.stream(1)["mib_per_second"]


@contextlib.contextmanager
def carried(carrier, **lab_options):
    """A lab for moves by this carrier, and what its VMs are moved with."""
    how = CARRIERS[carrier]
    native = "capabilities" in how
    with Lab(daemons="" if native else "ab",
             daemon_options=how.get("options", ()), **lab_options) as lab:
        yield lab, {"pager": None if native else "required",
                    "capabilities": how.get("capabilities", ())}


def moved(carrier, memory="1G", pattern="random", backend="thp", precopy=False,
          vcpus=1, **lab_options):
    """One VM, moved once; returns its figures."""
    with carried(carrier, **lab_options) as (lab, how):
        stream = bare_stream(lab)
        vm = lab.vm("bench", memory=memory, backend=backend, vcpus=vcpus,
                    options={} if pattern == "random" else
                    {"pattern": pattern})
        vm.start(pager=how["pager"])
        move = vm.move(precopy=precopy, warm=True, **how)
        move.rest()
        vm.wait_runs()
        figures = move.figures()
        timeline = move.timeline()
        vm.verify()
        peak = sum(peak_bytes(host.remapd.process) for host in lab.hosts
                   if host.remapd)
    seconds = figures["total_seconds" if precopy else "postcopy_seconds"]
    return {"carrier": carrier, "memory": memory, **figures,
            "stream_mib_per_second": stream,
            "rate_of_stream": figures["bytes_on_wire"] / 2**20 / seconds
                              / stream,
            "peak_bytes": peak, "timeline": timeline}


def lacks(lab_options):
    """None, or why there can be no such lab, or need not."""
    if not lab_options:
        return None
    control = congestion_control()
    if lab_options.get("congestion") == control:
        return f"all connections here have {control} anyway"
    try:
        with Lab(**lab_options, daemons=""):
            return None
    except Refused as why:
        return str(why)


def moved_again(failed, case, carrier):
    """One move of this case; again if it fails, which is noted."""
    vm, lab_options, *_ = MOVES[case]
    while True:
        try:
            return moved(carrier, **vm, **lab_options)
        except Failed as why:
            say(f"{case}: {carrier}: failed: {why}")
            failed.append({"case": case, "carrier": carrier, "why": str(why)})
            if len(failed) > FAILURES_BORNE:
                raise


def moves(quick, cases):
    rows, lacking, failed = [], {}, []
    for case, (_, lab_options, carriers, rounds) in MOVES.items():
        if case not in cases:
            continue
        why = lacks(lab_options)
        if why:
            lacking[case] = why
            say(f"{case}: not here: {why}")
            continue
        for turn in range(3 if quick else rounds):
            for carrier in carriers:
                row = moved_again(failed, case, carrier)
                rows.append({"case": case, "round": turn, **row})
                say(f"{case}: {carrier}: drained in "
                    f"{row['postcopy_seconds']:.2f} s, longest stall "
                    f"{row['guest_longest_stall_ms']:.0f} ms, "
                    f"{row['guest_operations_first_second']} operations in "
                    "the first second")
    return {"rows": rows, "lacking": lacking, "failed": failed}


# ---- a service and its client ----

def served(carrier, memory, cached_mib):
    """One VM with memcached, moved while a client outside asks it."""
    with carried(carrier) as (lab, how):
        network = Network(lab)
        vm = lab.vm("served", guest="memcached", memory=memory,
                    options={"share": 20, "rate": 1000,
                             "memcached": cached_mib + 64},
                    arguments=network.card())
        vm.start(pager=how["pager"])
        client = Client(network, cached_mib)
        client.fill()
        client.begin()
        time.sleep(1.5)
        move = vm.move(warm=True, **how)
        time.sleep(2.5)
        client.end()
        vm.verify()
        return {"carrier": carrier, "memory": memory,
                **client.figures(move.switchover()),
                "postcopy_seconds": move.postcopy_seconds(),
                "engine": move.engine()}


def service(quick):
    rows = []
    memory, cached_mib = ("512M", 192) if quick else ("1G", 512)
    for _ in range(1 if quick else 3):
        for carrier in ("remapd", "native", "preempt"):
            rows.append(served(carrier, memory, cached_mib))
            say(f"memcached: {carrier}: the client's longest gap "
                f"{rows[-1]['client_longest_gap_ms']:.0f} ms, "
                f"{rows[-1]['client_answers_in_two_seconds']} answers in the "
                "two seconds after the switchover")
    return {"rows": rows}


# ---- scale ----

def guestless(pair, **options):
    migration = Migration(pair, **options).finish()
    destination = migration.report("destination")
    return {"seconds": destination["seconds"],
            "pages": destination["pages"]["total"],
            "map_bytes": destination["map_bytes"]}


def daemons_cpu(pair):
    return sum(host.remapd.process.cpu_seconds() for host in pair.hosts)


def of_size(pair, mib, threads):
    """While so many threads touch pages at random. As before a VM's move the
    host has free memory for what is no zeros."""
    Warm(mib << 20 >> 2).give()
    before = daemons_cpu(pair)
    row = guestless(pair, kind="anon", mib=mib, zero=90, threads=threads)
    return {"mib": mib, "threads": threads, **row,
            "cpu_seconds": daemons_cpu(pair) - before}


def sparse(gib):
    """A guest of holes alone; of its pages few are touched and checked."""
    with Pair(options=("--engine", "copy")) as pair:
        row = guestless(pair, kind="anon", mib=gib << 10, zero=100, every=4096)
        roles = dict(zip(("source", "destination"), pair.hosts))
        return {"mib": gib << 10, **row, "peak_bytes": {
            role: peak_bytes(host.remapd.process)
            for role, host in roles.items()}}


def scale(quick):
    """By the size of memory, nine pages in ten of it zero, with and without a
    thread that touches it, by the size of a sparse one, and by migrations at
    once. No guest: the daemons' own cost. Small sizes run more often: in a round
    each goes through as much memory."""
    sizes, at_once = [], []
    with Pair(options=("--engine", "copy")) as pair:
        for _ in range(1 if quick else 3):
            for size in SIZES_MIB[:2] if quick else SIZES_MIB:
                for _ in range(math.ceil(ROUND_MIB / size)):
                    sizes += [of_size(pair, size, threads)
                              for threads in SCALE_THREADS]
                say(f"scale: {size} MiB in {sizes[-1]['seconds']:.2f} s")
    holes = []
    for gib in SPARSE_GIB[:3] if quick else SPARSE_GIB:
        holes.append(sparse(gib))
        say(f"scale: {gib} GiB of holes in {holes[-1]['seconds']:.1f} s")
    for count in AT_ONCE[:3] if quick else AT_ONCE:
        with Pair() as pair:
            start = time.monotonic()
            running = [Migration(pair, kind=("anon", "memfd")[i % 2], mib=16,
                                 seed=i) for i in range(count)]
            pages = sum(each.finish().report("destination")["pages"]["total"]
                        for each in running)
            at_once.append({"count": count, "pages": pages,
                            "seconds": time.monotonic() - start,
                            "cpu_seconds": daemons_cpu(pair)})
        say(f"scale: {count} at once in {at_once[-1]['seconds']:.1f} s")
    return {"sizes": sizes, "sparse": holes, "at_once": at_once}


# ---- encryption ----

def kernel_tls():
    """None, or why the kernel cannot encrypt what a socket sends."""
    with socket.create_server(("127.0.0.1", 0)) as server, \
         socket.create_connection(server.getsockname()) as client:
        try:
            client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        except OSError as error:
            return f"setsockopt(TCP_ULP, tls): {error.strerror}"
    return None


def encryption(quick):
    """The same migrations without a guest, in the clear and encrypted, taking
    turns; the first of each is not counted."""
    rows = []
    kinds = ("anon",) if quick else ("anon", "memfd")
    with contextlib.ExitStack() as stack:
        pairs = {how: stack.enter_context(Pair(tls=how))
                 for how in ("off", "on")}
        for kind in kinds:
            for turn in range(6 if quick else 11):
                for how, pair in pairs.items():
                    before = daemons_cpu(pair)
                    migration = Migration(pair, kind=kind, mib=512,
                                          zero=0).finish()
                    source, destination = map(migration.report,
                                              ("source", "destination"))
                    latency = destination["fault_latency_us"]
                    if turn:
                        rows.append({
                            "kind": kind, "tls": how,
                            "cipher": source["cipher"],
                            "seconds": destination["seconds"],
                            "mib_per_second": 512 / destination["seconds"],
                            "p50_us": latency["p50"], "p99_us": latency["p99"],
                            "cpu_seconds": daemons_cpu(pair) - before})
            say(f"encryption: {kind}: " + ", ".join(
                f"tls {how} {middle(rows, kind, how):.0f} MiB/s"
                for how in pairs))
    lacking = kernel_tls()
    say(f"encryption: by the kernel: {lacking or 'offered, and not used'}")
    return {"rows": rows, "kernel": lacking}


def middle(rows, kind, how):
    return statistics.median(row["mib_per_second"] for row in rows
                             if (row["kind"], row["tls"]) == (kind, how))


# ---- all of it ----

def machine():
    """What the figures were taken on."""
    with open("/proc/cpuinfo", encoding="ascii") as cpuinfo:
        model = re.search(r"model name\s*: (.*)", cpuinfo.read())
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release(),
        "congestion": congestion_control(),
        "accelerator": "TCG",
        "commit": run("git", "-C", str(TOP), "describe", "--always",
                      "--dirty").strip(),
        "remapd": run(str(BUILD / "remapd"), "--version").strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


SECTIONS = {"placement": placement, "floor": floor, "moves": moves,
            "service": service, "scale": scale, "encryption": encryption}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="fewer rounds and cases")
    parser.add_argument("--only", nargs="+", choices=SECTIONS,
                        default=list(SECTIONS), help="these sections")
    parser.add_argument("--case", nargs="+", choices=MOVES,
                        help="of the moves only these cases")
    args = parser.parse_args()
    cases = args.case or (QUICK_MOVES if args.quick else list(MOVES))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "quick": args.quick}
    for section in args.only:
        chosen = {"cases": cases} if section == "moves" else {}
        result[section] = SECTIONS[section](args.quick, **chosen)
        (OUTPUT / "report.json").write_text(json.dumps(result, indent=1))
    report.write(result, OUTPUT)
    print((OUTPUT / "report.md").read_text())
    say(f"{OUTPUT.relative_to(TOP)} has report.json, report.md and the plots")


if __name__ == "__main__":
    START = time.monotonic()
    stop_on_signals()
    try:
        main()
    except (Failed, Refused) as error:
        sys.exit(f"bench: {error}")
