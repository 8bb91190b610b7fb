#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations without a guest whose network or daemons are lost on the way.

recover.py [PART OF A NAME]...   runs the tests that have one of these, or all
"""

import contextlib
import json
import os
import signal
import sys
import time

# pylint: disable=import-error
from pair import (BUILD, Migration, Pair, ProxiedPair, SANITIZED,
                  few_descriptors, huge_pages, own_network, require, run,
                  wait_until)
from harness import run as run_tests, test
from lab import hosts as lab_hosts
from lab.basics import stop_on_signals

# Long enough to do something in the middle, slow as a sanitizer is.
LINK = "200mbit"
MIB = 24 if SANITIZED else 48
OPTIONS = ("--peer-timeout", "2", "--reconnect-interval", "1")
FRAME_OVERHEAD = 32 + 128

# What may be on its way: a frame of a bulk and an urgent channel each, read
# but not sent, sent but not placed, and what the sockets hold.
IN_FLIGHT = 8 << 20


def listing(host):
    return json.loads(run(str(BUILD / "remapctl"), "--socket",
                          str(host.remapd.control), "--json", "list"))


def sessions(host):
    return listing(host)["sessions"]


def past_switchover(host):
    """How many migrations have come so far, with those that are over."""
    listed = listing(host)
    return sum(each["state"] in ("active", "complete")
               for each in listed["sessions"] + listed["ended"])


def placed(pair):
    """The share of all pages that are placed, over all migrations."""
    found = [each["pages"] for each in sessions(pair.hosts[1])
             if each["pages"]["total"]]
    total = sum(pages["total"] for pages in found)
    return 1 - sum(pages["left"] for pages in found) / total if total else 0


def wait_placed(pair, share, seconds=30):
    wait_until(lambda: placed(pair) >= share, f"{share} placed", seconds)


def states(pair):
    return {each["state"] for host in pair.hosts for each in sessions(host)}


def wait_paused(pair):
    wait_until(lambda: states(pair) == {"paused"}, "both pause", 30)


def link(pair, way):
    for host in pair.hosts:
        run("ip", "-n", host.namespace, "link", "set", lab_hosts.DEVICE, way)


def check_whole(migration, pauses, on_its_way=IN_FLIGHT):
    """Every byte was right; nothing was sent twice but what was on its way.
    `pauses`: how many at least, or None for none."""
    source, destination = (migration.report(role)
                           for role in ("source", "destination"))
    for report in (source, destination):
        require(report["state"] == "complete" and not report["error"],
                f"{report['role']}: {report['state']} {report['error']}")
        require(bool(report["pauses"]) == (pauses is not None) and
                report["pauses"] >= (pauses or 0), f"{report['pauses']} pauses")
    pages = destination["pages"]
    require(pages["data"] + pages["zero"] == migration.figures["left"] and
            not pages["left"], f"{pages}")
    resent = source["pages"]["resent"] * 4096
    most = on_its_way * source["pauses"]
    require(resent <= most, f"{resent} bytes were sent again")
    twice = (source["pages"]["resent"] + pages["duplicate"]) * 4096
    frames = (pages["total"] + pages["duplicate"]) * FRAME_OVERHEAD
    require(source["bytes_on_wire"] <= migration.figures["left_data"] * 4096
            + twice + frames + on_its_way, f"{source}")
    print(f"# {migration.name}: {source['pauses']} pauses of "
          f"{destination['paused_seconds']:.1f} s, {resent >> 10} KiB sent "
          f"again, {pages['duplicate']} pages dropped, longest stall "
          f"{migration.figures['longest_stall_us'] / 1000:.0f} ms")


def pages_for(kind):
    if kind.startswith("hugetlb"):
        return huge_pages(2 * (MIB + 8) << 20)
    return contextlib.nullcontext()


# ---- the network ----

@test(kind=("anon", "thp", "memfd", "hugetlb-shared"))
def link_down_and_up(kind):
    with pages_for(kind), Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind=kind, mib=MIB, threads=2, zero=5)
        wait_placed(pair, 0.2)
        link(pair, "down")
        wait_paused(pair)
        time.sleep(1)
        before = placed(pair)
        link(pair, "up")
        migration.finish()
        require(before < 1, "there was nothing left to do")
        check_whole(migration, 1)


@test
def link_down_and_up_too_soon_to_notice():
    with Pair(LINK, ("--peer-timeout", "30")) as pair:
        migration = Migration(pair, kind="anon", mib=MIB, zero=5)
        wait_placed(pair, 0.2)
        link(pair, "down")
        time.sleep(0.5)
        link(pair, "up")
        migration.finish()
        check_whole(migration, None)


@test
def link_down_for_long():
    """LINK_DOWN_SECONDS=60 make check-recover TESTS=for_long"""
    seconds = float(os.environ.get("LINK_DOWN_SECONDS", "6"))
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="thp", mib=MIB, zero=5, threads=2)
        wait_placed(pair, 0.3)
        link(pair, "down")
        time.sleep(seconds)
        link(pair, "up")
        migration.finish()
        check_whole(migration, 1)


@test(way=("reset", "end"), kind=("control", "urgent", "bulk", "all"))
def connection_lost(way, kind):
    with ProxiedPair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="memfd" if way == "reset" else "thp",
                              mib=MIB, threads=2, zero=5)
        wait_placed(pair, 0.2)
        done = pair.tell(f"{way} {kind}")
        require(done == (3 if kind == "all" else 1), f"{done} connections")
        migration.finish()
        check_whole(migration, 1)


@test(kind=("control", "bulk", "all"))
def connection_stalls(kind):
    """What has gone into the proxy by then counts as on its way."""
    with ProxiedPair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="memfd", mib=3 * MIB, zero=5)
        wait_placed(pair, 0.1)
        require(pair.tell(f"stall {kind}"), "no connection")
        migration.finish()
        check_whole(migration, 1, 4 * IN_FLIGHT)


@test
def a_stalled_urgent_connection_stalls_no_more_than_its_pages():
    """Bulk brings them in the end, or the session begins anew."""
    with ProxiedPair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="thp", mib=3 * MIB, zero=5, threads=2)
        wait_placed(pair, 0.1)
        require(pair.tell("stall urgent") == 1, "no connection")
        migration.finish()
        stall = migration.figures["longest_stall_us"] / 1e6
        print(f"# longest stall {stall:.1f} s")


@test
def one_connection_after_the_other_lost():
    with ProxiedPair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="thp", mib=2 * MIB, threads=2, zero=5)
        for number, kind in enumerate(("bulk", "urgent", "control", "all")):
            wait_placed(pair, 0.1 + 0.15 * number)
            require(pair.tell(f"reset {kind}"), f"no connection {kind}")
        migration.finish()
        check_whole(migration, 4)


@test(way=("refuse", "mute"))
def coming_back_takes_many_tries(way):
    """The network comes back half: nobody answers, or somebody who is mute."""
    with ProxiedPair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="memfd", mib=MIB, zero=5)
        wait_placed(pair, 0.2)
        pair.tell(way)
        pair.tell("reset all")
        wait_paused(pair)
        time.sleep(4)
        # Those that were mute speak late: each try is older than the next.
        pair.tell({"refuse": "admit", "mute": "speak"}[way])
        migration.finish()
        check_whole(migration, 1)


# ---- the daemons ----

def finish_all(migrations, lost):
    """All complete, and every byte was right; most of them had gone to another
    remapd, as often as one was lost."""
    for migration in migrations:
        migration.finish()
    figures = [migration.figures for migration in migrations]
    returns = sum(each["returns"] + each["source_returns"] for each in figures)
    require(returns * 2 >= lost * len(figures), f"{returns} returns")
    longest = max(each["longest_stall_us"] for each in figures) / 1000
    print(f"# {len(figures)} migrations, {lost} daemons lost, {returns} times "
          f"taken up again; the longest stall of all {longest:.0f} ms")


KINDS = ("anon", "thp", "memfd", "mixed")


@test(which=("source", "destination", "both"), how=("kill", "term"))
def daemons_restarted_amid_ten(which, how):
    with Pair(LINK, OPTIONS) as pair:
        migrations = [Migration(pair, kind=KINDS[i % 4], mib=MIB // 3, seed=i,
                                zero=5) for i in range(10)]
        wait_until(lambda: all(past_switchover(host) == 10
                               for host in pair.hosts), "all move", 60, 0.05)
        for role, host in zip(("source", "destination"), pair.hosts):
            if which in (role, "both"):
                pair.restart(host, getattr(signal, f"SIG{how.upper()}"))
        finish_all(migrations, 1 + (which == "both"))


@test(kind=("thp", "memfd"))
def userfaultfd_that_cannot_be_waited_for(kind):
    """The remapd stays, and QEMU hands over everything again."""
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind=kind, mib=MIB, zero=5, threads=2)
        wait_placed(pair, 0.2)
        migration.process.child.send_signal(signal.SIGUSR2)
        migration.finish()
        said = pair.hosts[1].remapd.process.output()
        require("the userfaultfd cannot be waited for any more" in said, said)
        require(migration.figures["returns"], "QEMU has not come back")


@test(kind=("thp", "memfd"))
def userfaultfd_that_is_of_no_use_to_the_next_remapd(kind):
    """It says so and lets QEMU go, which hands over everything again."""
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind=kind, mib=MIB, zero=5, threads=2,
                              spoil=3)
        wait_placed(pair, 0.2)
        pair.restart(pair.hosts[1])
        migration.finish(30)
        said = pair.hosts[1].remapd.process.output()
        require(said.count("cannot go on with this QEMU: QEMU handed over a "
                           "userfaultfd that blocks") == 3, said)
        require(migration.figures["returns"] == 4, f"{migration.figures}")


@test(role=("source", "destination"))
def next_remapd_has_few_descriptors(role):
    """It says so, and QEMU comes until there are enough."""
    with Pair(LINK, OPTIONS) as pair:
        host = pair.hosts[role == "destination"]
        migration = Migration(pair, kind="thp", mib=MIB, zero=5, threads=2)
        wait_placed(pair, 0.2)
        pair.restart(host)
        for spare in range(8):
            with few_descriptors(host.remapd.process, spare):
                time.sleep(1)
        finish_all([migration], 1)
        said = host.remapd.process.output()
        require("open files" in said, said)


@test
def daemons_killed_again_and_again():
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="mixed", mib=2 * MIB, threads=4,
                              zero=5, blocks=4)
        for number in range(6):
            wait_placed(pair, 0.1 * number + 0.1)
            pair.restart(pair.hosts[number % 2])
        finish_all([migration], 6)


# By number, as in proto/handoff.h. With those of the first column the guest
# stays where it is, for it has not left; PAUSED and what follows it come only
# if the other daemon is lost, too.
SOURCE, DESTINATION = 1, 2
MESSAGES = {
    SOURCE: ({1: "HELLO", 32: "WELCOME", 42: "KEEP", 2: "TICKET",
              33: "JOINED", 3: "BLOCK", 4: "PREPARE"},
             {34: "PREPARED", 5: "SWITCHOVER", 36: "PROGRESS",
              37: "COMPLETE"},
             {39: "PAUSED", 41: "RESUMED"}),
    DESTINATION: ({1: "HELLO", 32: "WELCOME", 8: "PLACER", 2: "TICKET"},
                  {3: "BLOCK", 6: "ATTACH", 35: "ATTACHED", 7: "DETACH",
                   38: "DETACHED"},
                  {39: "PAUSED", 41: "RESUMED"}),
}
STAYED = 3 # as in guestless.c


@test(role=("source", "destination"))
def daemon_killed_at_each_message(role):
    """SIGKILL as it is sent or received, and another in its place. The guest
    stays at its source or arrives, whole: never neither."""
    side = SOURCE if role == "source" else DESTINATION
    for case, messages in enumerate(MESSAGES[side]):
        for number, name in messages.items():
            with Pair(LINK, OPTIONS) as pair:
                kill_at(pair, side, number, name, case)


def kill_at(pair, side, number, name, case):
    here, there = pair.hosts[::1 if side == SOURCE else -1]
    migration = Migration(pair, kind="thp", mib=MIB // 2, zero=5, chaos=True,
                          kill=f"{side}:{number}")
    if case == 2:
        wait_placed(pair, 0.2)
        pair.restart(there)
    doomed = here.remapd.process
    wait_until(lambda: not doomed.alive(), f"killed at {name}", 30)
    require(doomed.child.returncode == -signal.SIGKILL,
            f"ended with {doomed.child.returncode}: {doomed.output()}")
    pair.start_daemon(here)
    wait_until(lambda: not migration.process.alive(),
               f"its end, killed at {name}; {pair.tail()}", 60)
    code = migration.process.child.returncode
    text = migration.process.output()
    require(code == (0 if case else STAYED) and "is wrong" not in text and
            '"wrong": 0' in text, f"{name}: {code}, {text}; {pair.tail()}")
    print(f"# killed at {name}: {'arrives' if case else 'stays'}", flush=True)


@test(which=("source", "destination", "both"))
def daemon_restarted_twice_while_paused(which):
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="mixed", mib=MIB, zero=5, threads=2)
        wait_placed(pair, 0.2)
        link(pair, "down")
        wait_paused(pair)
        hosts = [host for role, host in zip(("source", "destination"),
                                            pair.hosts)
                 if which in (role, "both")]
        for _ in range(2):
            for host in hosts:
                pair.restart(host)
        link(pair, "up")
        finish_all([migration], 1)


@test(which=("source", "destination", "both"))
def daemon_that_stands_still(which):
    """For longer than its peer waits."""
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="mixed", mib=MIB, zero=5, threads=2)
        wait_placed(pair, 0.2)
        daemons = [host.remapd.process.pid for role, host in
                   zip(("source", "destination"), pair.hosts)
                   if which in (role, "both")]
        for pid in daemons:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
        migration.finish()
        check_whole(migration, 1)


@test(which=("source", "destination"))
def what_was_kept_is_scrambled(which):
    """The daemon says what is wrong, or waits for a peer that does not know it;
    other migrations go on. Once it is as it was the guest arrives."""
    with Pair(LINK, OPTIONS) as pair:
        host = pair.hosts[which == "destination"]
        times = 0
        for seed in range(1, 7):
            migration = Migration(pair, kind="thp", mib=MIB // 2, zero=5,
                                  scramble=seed, chaos=True)
            wait_placed(pair, 0.1)
            pair.restart(host)
            pair.migrate(kind="anon", mib=4)
            pids = migration.process.output().split()
            with contextlib.suppress(ProcessLookupError): # it did no harm
                os.kill(int(pids[1 if which == "source" else 3]),
                        signal.SIGUSR1)
            pair.check_daemon(host)
            refused = host.remapd.process.output().count("refused: what QEMU")
            pair.restart(host)
            migration.process.child.wait(60)
            text = migration.process.output()
            require(migration.process.child.returncode == 0 and
                    "is wrong" not in text, f"{text}; {pair.tail()}")
            print(f"# seed {seed}: refused {refused} times, arrives")
            times += refused
        require(times, "nothing was refused")


OTHER_VERSION = str(BUILD / "other/remapd")


@test(which=("source", "destination", "both"))
def begun_by_another_version(which):
    """The guest stays, and both sides say why; two of one version agree."""
    with Pair("none", OPTIONS) as pair:
        for role, host in zip(("source", "destination"), pair.hosts):
            if which in (role, "both"):
                pair.restart(host, signal.SIGTERM, program=OTHER_VERSION)
        if which == "both":
            pair.migrate(kind="memfd", mib=8)
            return
        migration = Migration(pair, kind="memfd", mib=8, chaos=True)
        wait_until(lambda: not migration.process.alive(), "its end", 30)
        require(migration.process.child.returncode == STAYED,
                migration.process.output())
        said = pair.hosts[0].remapd.process.output()
        require("is not of version" in said, said)


@test(which=("source", "destination", "both"))
def upgraded_to_another_version_on_the_way(which):
    """Nothing moves between the two versions, and nothing is lost: what both
    speak goes on, be it the old one or the new one."""
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="mixed", mib=MIB, zero=5, threads=2)
        wait_placed(pair, 0.2)
        upgraded = [host for role, host in zip(("source", "destination"),
                                               pair.hosts)
                    if which in (role, "both")]
        for host in upgraded:
            pair.restart(host, signal.SIGTERM, program=OTHER_VERSION)
        if which != "both":
            wait_until(lambda: all("version" in host.remapd.process.output()
                                   .split("paused", 1)[-1]
                                   for host in pair.hosts), "both say why", 30)
            require(states(pair) == {"paused"} and migration.process.alive(),
                    f"{states(pair)}")
            for host in pair.hosts:
                lines = host.remapd.process.output().splitlines()
                print("# " + next(line for line in lines
                                  if "protocol version" in line))
            pair.restart(upgraded[0], signal.SIGTERM)
        finish_all([migration], 1)


@test
def no_room_for_a_report():
    """The migration has it all the same, and nothing is there by half."""
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(Pair("none", OPTIONS))
        for host in pair.hosts:
            reports = host.remapd.reports
            run("mount", "-t", "tmpfs", "-o", "size=4k", "none", str(reports))
            stack.callback(run, "umount", str(reports))
            (reports / "other").write_bytes(bytes(4096))
            pair.restart(host, signal.SIGTERM) # it sees only older mounts
        pair.migrate(kind="anon", mib=8)
        for host in pair.hosts:
            said = host.remapd.process.output
            wait_until(lambda: "no report: " in said(), "it says so")
            require("No space left" in said(), said())
            found = [file.name for file in host.remapd.reports.iterdir()]
            require(found == ["other"], f"{found}")


@test
def nothing_is_taken_up_that_another_version_has_kept():
    """A remapd that keeps something else refuses, and touches nothing."""
    with Pair(LINK, OPTIONS) as pair:
        migration = Migration(pair, kind="memfd", mib=MIB, zero=5,
                              keep_version=3)
        wait_placed(pair, 0.2)
        pair.restart(pair.hosts[1])
        wait_until(lambda: "is of version 3, this remapd reads 2" in
                   pair.hosts[1].remapd.process.output(), "it is refused", 20)
        require(migration.process.alive(), "the migration has ended")
        require(not sessions(pair.hosts[1]), "a session was taken up")
        # The remapd that it was begun with would take it up.
        migration.process.child.send_signal(signal.SIGUSR1)
        finish_all([migration], 1)


if __name__ == "__main__":
    stop_on_signals()
    own_network()
    sys.exit(run_tests(sys.argv[1:]))
