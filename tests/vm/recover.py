#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs whose network, daemons or QEMUs are lost while they move.

recover.py [PART OF A NAME]...   runs the tests that have one of these, or all
ACCEL=kvm                        under KVM
"""

import contextlib
import os
import pathlib
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from harness import require, run, test, wait_more
from lab import Lab, wait_until
from lab.basics import run as run_command, stop_on_signals
from lab.daemon import Remapd
from lab.hosts import DEVICE
from lab.machine import check_accelerator
from lab.move import Move
from lab.sockets import sockets_of

ACCEL = os.environ.get("ACCEL", "tcg")
LINK = "200mbit" # so that a move takes seconds
OPTIONS = ("--peer-timeout", "4", "--reconnect-interval", "1")
MEMORY = "96M"


def lab():
    return Lab(link=LINK, daemon_options=OPTIONS)


def link(the_lab, way):
    for host in the_lab.hosts:
        run_command("ip", "-n", host.namespace, "link", "set", DEVICE, way)


def begin(vm, **options):
    """A move that has left the source, with a part of its pages placed."""
    vm.start(pager="required")
    move = Move(vm, pager="required", **options)
    move.start()
    wait_part_placed(move)
    return move


def wait_part_placed(move, share=0.2):
    total = move.vm.config.memory
    wait_until(lambda: 0 < remaining(move) < total * (1 - share),
               "a part is placed", 60)


def remaining(move):
    return move.information().get("pager", {}).get("remaining", 0)


def pager(machine):
    return machine.qmp("query-migrate").get("pager", {}).get("status")


def wait_paused(move):
    wait_until(lambda: pager(move.source) == "paused" ==
               pager(move.destination), "both sides pause", 30)


def require_whole(move, pauses=1):
    """It completes, the guest has seen no wrong page and goes on."""
    move.wait(120)
    vm = move.vm
    ready = next(m for m in vm.guest.messages if m.word == "READY")
    for machine in (move.source, move.destination):
        statuses = [e["status"] for e in move.pager_events(machine)]
        require(statuses.count("paused") >= pauses and
                statuses[-1] == "completed", f"MIGRATION_PAGER: {statuses}")
    vm.wait_runs()
    pages, _ = vm.verify()
    require(pages == ready["pages"], f"{pages} of {ready['pages']} verified")
    report = move.report("destination")
    require(not report["error"] and not report["pages"]["left"], f"{report}")
    print(f"# {report['pauses']} pauses, {report['paused_seconds']:.2f} s; the "
          f"guest's longest stall "
          f"{vm.guest.newest()['mark_us'] / 1000:.0f} ms")


@test(backend=("thp", "memfd"))
def link_down_and_up(backend):
    with lab() as here:
        move = begin(here.vm("cut", guest="tiny", memory=MEMORY, accel=ACCEL,
                             backend=backend))
        link(here, "down")
        wait_paused(move)
        time.sleep(1)
        link(here, "up")
        require_whole(move)


def restart(host, between=lambda: None):
    """SIGKILL, and another one in its place."""
    os.kill(host.remapd.process.pid, signal.SIGKILL)
    host.remapd.process.child.wait()
    between()
    host.remapd = Remapd(host, OPTIONS)


@test(which=("source", "destination", "both"), backend=("thp", "memfd"))
def daemon_killed_and_started_anew(which, backend):
    with lab() as here:
        move = begin(here.vm("kill", guest="tiny", memory=MEMORY, accel=ACCEL,
                             backend=backend))
        for role, host in (("source", move.old_host),
                           ("destination", move.new_host)):
            if which in (role, "both"):
                restart(host)
                here.close_at_end(host.remapd)
        require_whole(move)


@test(which=("source", "destination"))
def daemon_killed_beside_a_disk_of_qemus_own(which):
    """Its emulation waits for pages, too, in the main loop or with the lock
    that the main loop needs: neither can be what brings the next daemon."""
    with lab() as here:
        image = here.directory / "disk"
        image.write_bytes(bytes(512 << 10))
        vm = here.vm("disk", guest="linux", memory="256M", accel=ACCEL,
                     options={"rate": 20000, "share": 40, "disk": 1},
                     arguments=("-blockdev", "file,node-name=disk,locking=off,"
                                             f"filename={image}",
                                "-device", "virtio-blk-pci,drive=disk"))
        vm.start(pager="required")
        wait_more(vm, "DISK", "passes", 1, 60)
        move = Move(vm, pager="required")
        move.start()
        # Before the pages are there that the disk needs.
        wait_until(lambda: pager(move.destination) == "active", "it begins", 60)
        host = move.old_host if which == "source" else move.new_host
        restart(host, lambda: time.sleep(2))
        here.close_at_end(host.remapd)
        require_whole(move)
        wait_more(vm, "DISK", "passes", 1, 60)


KEEP_MAPS_AT = 4096 # behind the record; of what is missing first


def forget_what_was_placed(machine, pages):
    """In what QEMU keeps for a remapd that is gone: as if that had placed pages
    and been killed before it noted it, all but one of each 64."""
    kept = []
    for fd in pathlib.Path(f"/proc/{machine.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError): # closed since
            if os.readlink(fd).startswith("/memfd:remapd-keep"):
                kept.append(fd)
    require(len(kept) == 1, f"QEMU keeps {len(kept)}")
    words = pages // 64
    with open(kept[0], "r+b", buffering=0) as file:
        missing = struct.unpack(f"={words}Q",
                                os.pread(file.fileno(), 8 * words, KEEP_MAPS_AT))
        os.pwrite(file.fileno(),
                  struct.pack(f"={words}Q", *(word | (1 << 64) - 2
                                              for word in missing)),
                  KEEP_MAPS_AT)


@test
def placed_and_not_noted():
    """The guest has written to pages that come again: they stay its own."""
    with lab() as here:
        vm = here.vm("kill", guest="tiny", memory=MEMORY, accel=ACCEL,
                     backend="thp")
        move = begin(vm)
        restart(move.new_host, lambda: forget_what_was_placed(
            move.destination, vm.config.memory // 4096))
        require_whole(move)


def own_connection(move):
    """Of the source's QEMU to the other, by which its own stream goes."""
    found = [end for end in sockets_of(move.source.pid)
             if end.family in (socket.AF_INET, socket.AF_INET6)
             and end.getpeername()[1] == move.port]
    require(len(found) == 1, f"{len(found)} connections to {move.port}")
    return found[0]


def break_stream(move, how):
    """QEMU's own stream breaks, and the daemons' connections do not."""
    move.recovers = True
    if how == "cut":
        with own_connection(move) as end:
            end.shutdown(socket.SHUT_RDWR)
    else:
        getattr(move, how).qmp("migrate-pause")
    wait_status(move, "postcopy-paused")


def status(machine):
    return machine.qmp("query-migrate").get("status")


def wait_status(move, wanted):
    wait_until(lambda: status(move.source) == wanted ==
               status(move.destination), f"{wanted} on both sides", 30)


@test(how=("cut", "source", "destination"), when=("at_once", "all_there"))
def qemus_own_stream_broken(how, when):
    """Postcopy-paused on both sides; the pages go on through the daemons, and
    migrate-recover and migrate with resume bring it to its end. `how`: the
    connection is cut, or migrate-pause on one side."""
    with lab() as here:
        move = begin(here.vm("stream", guest="tiny", memory=MEMORY,
                             accel=ACCEL))
        break_stream(move, how)
        left = remaining(move)
        require(left, "nothing was left to be done")
        if when == "at_once":
            wait_until(lambda: 0 < remaining(move) < left, "pages go on", 30)
        else:
            wait_until(lambda: pager(move.source) == "completed",
                       "every page is there", 60)
            require(not remaining(move), f"{remaining(move)} are left")
        for machine in (move.source, move.destination):
            require(status(machine) == "postcopy-paused", status(machine))
            require(pager(machine) != "paused", "the pager pauses, too")
        require(move.destination.status() == "running", "the guest stands")
        print(f"# {left >> 10} KiB were left as it broke, "
              f"{remaining(move) >> 10} when it came back")
        move.recover()
        require_whole(move, pauses=0)


@test(which=("source", "destination", "both"))
def qemus_own_stream_and_daemons_lost(which):
    """Each comes back by its own way, in either order."""
    with lab() as here:
        move = begin(here.vm("both", guest="tiny", memory=MEMORY, accel=ACCEL))
        break_stream(move, "cut")
        for role, host in (("source", move.old_host),
                           ("destination", move.new_host)):
            if which in (role, "both"):
                restart(host)
                here.close_at_end(host.remapd)
        if which != "source":
            move.recover()
        wait_until(lambda: pager(move.source) in ("active", "completed"),
                   "pages move again", 30)
        if which == "source":
            move.recover()
        require_whole(move)


@test
def qemus_own_stream_broken_again_and_again():
    with lab() as here:
        move = begin(here.vm("again", guest="tiny", memory=MEMORY,
                             accel=ACCEL))
        for how in ("cut", "source", "destination", "cut"):
            break_stream(move, how)
            move.recover()
            wait_status(move, "postcopy-active")
        require_whole(move, pauses=0)


@test
def destinations_qemu_killed_leaves_the_sources_memory():
    """Before the switchover the guest runs on; after it, nothing can bring it
    back, but the source keeps what it had until it is told otherwise."""
    with lab() as here:
        move = begin(here.vm("lost", guest="tiny", memory=MEMORY, accel=ACCEL))
        os.kill(move.destination.process.pid, signal.SIGKILL)
        wait_until(lambda: pager(move.source) == "paused", "it pauses", 30)
        require(move.source.status() != "running", move.source.status())
        move.source.check_alive()
        # The two remapd may notice in either order.
        wait_until(lambda: "the destination's QEMU has left: if it has ended, "
                           "so has its guest"
                   in move.new_host.remapd.process.output(),
                   "the destination's remapd says so")


@test
def sources_qemu_killed_is_said_plainly():
    with lab() as here:
        move = begin(here.vm("lost", guest="tiny", memory=MEMORY, accel=ACCEL))
        os.kill(move.source.process.pid, signal.SIGKILL)
        wait_until(lambda: pager(move.destination) == "paused", "it pauses",
                   30)
        reason = move.destination.qmp("query-migrate")["pager"]["reason"]
        require("the source's QEMU has left: if it has ended, the pages that "
                "are left are lost with it" in reason, reason)
        move.destination.check_alive()


def main():
    reason = check_accelerator(ACCEL)
    if reason:
        print(f"1..0 # SKIP ACCEL={ACCEL} runs no guest here: {reason}")
        return 0
    return run(sys.argv[1:])


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main())
